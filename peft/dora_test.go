package peft

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/models"
)

// A new DoRA changes nothing, as PEFT's, unless its B is not zero; and it has PEFT's magnitudes.
func TestNewDoRABeginsWithTheNormsOfItsWeights(t *testing.T) {
	for _, name := range []string{"dora", "dora_gemma2", "dora_nf4"} {
		for _, packed := range []bool{false, true} {
			c := readTuner(t, name)
			if packed && !c.NF4 {
				continue
			}
			m := c.load(t, "", models.Options{KeepPacked: packed})
			p, err := GetPeftModel(m, c.config(t), quiet)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			c.checkLogits(t, p, "initial.logits", 2e-5)
			values, err := p.first().loraWeights()
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range values {
				reference.CheckClose(t, w.Path, w.Magnitude, c.tensor(t, "initial."+keyPrefix+w.Path+keyMagnitude), 1e-5)
			}
		}
	}
	c := readTuner(t, "dora_qwen2") // B is not zero
	m := c.load(t, "", models.Options{})
	p, err := GetPeftModel(m, c.config(t))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	loras, err := p.first().loras()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range loras {
		magnitude := l.Magnitude
		l.Magnitude = nil
		w, err := m.SumOf(l)
		if err != nil {
			t.Fatal(err)
		}
		in := len(w) / len(magnitude)
		for i, got := range magnitude {
			if want := math.Sqrt(square(w[i*in : (i+1)*in])); math.Abs(float64(got)-want) > 1e-5*want {
				t.Fatalf("%s: magnitude %d is %v, want %v", l.Path, i, got, want)
			}
		}
	}
}

// On packed weights, DoRA computes and learns what it does on the values that they stand for.
func TestDoRAOverPackedWeights(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		c := readTuner(t, "dora_nf4")
		p := c.open(t, c.load(t, backend, models.Options{KeepPacked: true}))
		c.checkLogits(t, p, "logits", 2e-5)
		c.checkGradients(t, p, 2e-4)
	})
}

// In bfloat16 DoRA stays as near to float32 as bfloat16 does without it.
func TestDoRAInBFloat16(t *testing.T) {
	c := readTuner(t, "dora")
	m, err := models.FromPretrained(context.Background(), c.load(t, "", models.Options{}).Path(), models.Options{DType: models.BFloat16})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	c.checkLogits(t, c.open(t, m), "logits", 3e-2)
}

func TestMergedDoRAComesOutAgain(t *testing.T) {
	for _, name := range []string{"dora", "dora_qwen2", "dora_phi3"} {
		c := readTuner(t, name)
		m := c.load(t, "", models.Options{})
		p := c.open(t, m)
		if err := p.MergeAdapter(true); err != nil {
			t.Fatal(err)
		}
		c.checkLogits(t, m, "merged.logits", 2e-5)
		if err := p.UnmergeAdapter(); err != nil {
			t.Fatal(err)
		}
		c.checkLogits(t, m, "base.logits", 2e-5)
		c.checkLogits(t, p, "logits", 2e-5)
		c.checkLogits(t, p, "unmerged.logits", 2e-5)
	}
}

func TestDoRATakesTurnsWithoutCompiling(t *testing.T) {
	c := readTuner(t, "dora")
	m := c.load(t, "", models.Options{})
	p := c.open(t, m)
	if err := p.AddAdapter("other", LoraConfig{UseDora: true, R: 5, LoraAlpha: 3, InitLoraWeights: InitFalse, TargetModules: Modules("q_proj")}); err != nil {
		t.Fatal(err)
	}
	if err := p.SetAdapter("other"); err != nil {
		t.Fatal(err)
	}
	want := logitsOf(t, p)
	if err := p.PrepareHotswap(6); err != nil {
		t.Fatal(err)
	}
	reference.CheckClose(t, "other", logitsOf(t, p), want, 1e-5)
	compiled := m.CompiledPrograms()
	if err := p.SetAdapter(DefaultAdapter); err != nil {
		t.Fatal(err)
	}
	logitsOf(t, p)
	if n := m.CompiledPrograms() - compiled; n != 0 {
		t.Errorf("%d programs were compiled", n)
	}
	c.checkLogits(t, p, "logits", 2e-5)
	c.checkSavedSet(t, p)
	if err := p.AddAdapter("plain", LoraConfig{}); err == nil || !strings.Contains(err.Error(), "must agree") {
		t.Errorf("a LoRA beside DoRAs: error %v", err)
	}
}

// checkSavedSet compares what the adapters "default" are saved as with PEFT's folder.
func (c *tunerCase) checkSavedSet(t *testing.T, p *PeftModel) {
	t.Helper()
	dir := t.TempDir()
	if err := p.sets[DefaultAdapter].write(dir); err != nil {
		t.Fatal(err)
	}
	checkFolder(t, dir, c.dir, 0)
}

func TestWhatDoRACannotIsRefused(t *testing.T) {
	c := readTuner(t, "dora")
	p := c.open(t, c.load(t, "", models.Options{}))
	if err := p.AddAdapter("b", LoraConfig{R: 3}); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"sum":     p.SetAdapter(DefaultAdapter, "b"),
		"combine": p.AddWeightedAdapter("c", []string{DefaultAdapter, "b"}, []float64{1, 1}, WeightedOptions{}),
		"plain":   p.SavePlain(t.TempDir()),
		"gguf":    p.SaveGGUF(t.TempDir() + "/a.gguf"),
		"mixed":   p.PrepareHotswap(0),
	} {
		if err == nil || !strings.Contains(err.Error(), "use_dora") {
			t.Errorf("%s: error %v", what, err)
		}
	}
	for target, ok := range map[ExportTarget]bool{ExportVLLM: false, ExportLlamaCpp: false, ExportTransformers: true} {
		r, err := p.CheckExport(target)
		if err != nil || r.OK() != ok || !ok && !strings.Contains(r.String(), "use_dora true: ") {
			t.Errorf("%v\n%s", err, r)
		}
	}
	if !slices.Equal(p.ActiveAdapters(), []string{DefaultAdapter}) {
		t.Errorf("%q are active", p.ActiveAdapters())
	}
}
