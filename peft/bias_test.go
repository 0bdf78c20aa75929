package peft

import (
	"strings"
	"testing"

	"github.com/loris-ml/loris/models"
)

// Trained biases are merged into the base's, come out again, and are no one else's.
func TestTrainedBiasesAreEachAdaptersOwn(t *testing.T) {
	for _, name := range []string{"bias_all", "bias_lora_only", "lora_bias"} {
		c := readTuner(t, name)
		m := c.load(t, "", models.Options{})
		p := c.open(t, m)
		if err := p.AddAdapter("other", LoraConfig{Bias: BiasAll}); err != nil {
			t.Fatal(err)
		}
		if err := p.SetAdapter("other"); err != nil {
			t.Fatal(err)
		}
		c.checkLogits(t, p, "base.logits", 2e-5)
		if err := p.SetAdapter(DefaultAdapter); err != nil {
			t.Fatal(err)
		}
		if err := p.DisableAdapters(func() error { c.checkLogits(t, p, "base.logits", 2e-5); return nil }); err != nil {
			t.Fatal(err)
		}
		if err := p.MergeAdapter(true); err != nil {
			t.Fatal(err)
		}
		c.checkLogits(t, m, "merged.logits", 2e-5)
		if err := p.UnmergeAdapter(); err != nil {
			t.Fatal(err)
		}
		c.checkLogits(t, m, "base.logits", 2e-5)
		c.checkLogits(t, p, "logits", 2e-5)
		for target, want := range map[ExportTarget]string{ExportVLLM: "refuses tensors other than", ExportLlamaCpp: "stops at biases"} {
			if r, err := p.CheckExport(target); err != nil || r.OK() || !strings.Contains(r.String(), want) {
				t.Errorf("%v\n%s", err, r)
			}
		}
		if err := p.SetAdapter(DefaultAdapter, "other"); err == nil || !strings.Contains(err.Error(), "is no sum with others") {
			t.Errorf("%s: error %v", name, err)
		}
		if err := p.PrepareHotswap(0); err == nil {
			t.Errorf("%s: biases were prepared for hot swapping", name)
		}
	}
}

func TestBiasesWithoutAPlaceAreNotMerged(t *testing.T) {
	c := readTuner(t, "lora_bias_nf4")
	for want, nf4 := range map[string]bool{"cannot be replaced on a quantized base": true, "has no bias that lora_bias could be merged into": false} {
		c.NF4 = nf4
		p := c.open(t, c.load(t, "", models.Options{}))
		if err := p.MergeAdapter(false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
		if err := p.SaveMerged(t.TempDir(), MergeOptions{}); err == nil || !strings.Contains(err.Error(), "which the linear must have") {
			t.Errorf("error %v", err)
		}
	}
}
