package peft

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/safetensors"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/quant"
)

func nf4() *quant.BitsAndBytesConfig {
	return &quant.BitsAndBytesConfig{LoadIn4Bit: true, BNB4BitQuantType: quant.NF4, BNB4BitUseDoubleQuant: true}
}

// mergedLogits saves p merged and returns the logits of the folder alone.
func mergedLogits(t *testing.T, ref *reference.Llama, p *PeftModel, o MergeOptions) (m *models.CausalLM, logits [][][]float32, dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := p.SaveMerged(dir, o); err != nil {
		t.Fatal(err)
	}
	m, err := models.FromPretrained(context.Background(), dir, models.Options{DType: models.Float32})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if logits, err = m.Logits(context.Background(), ref.InputIDs[0], ref.AttentionMask[0]); err != nil {
		t.Fatal(err)
	}
	return m, logits, dir
}

func TestMergedFolderComputesWhatPEFTDoes(t *testing.T) {
	for _, name := range reference.Llamas {
		ref := reference.LoadLlama(t, name)
		_, logits, _ := mergedLogits(t, ref, tuned(t, ref, models.Options{}), MergeOptions{})
		ref.CheckLogits(t, "tuned.logits", logits, 1e-5)
	}
}

func TestMergingAQuantizedBaseKeepsWhatWasTrained(t *testing.T) {
	ref := reference.LoadLlama(t, "llama_a")
	for _, packed := range []bool{false, true} {
		p := tuned(t, ref, models.Options{Quantization: nf4(), KeepPacked: packed})
		m, logits, _ := mergedLogits(t, ref, p, MergeOptions{DType: models.Float32})
		ref.CheckLogits(t, "nf4.tuned.logits", logits, 1e-5)
		if m.Options().Quantization != nil {
			t.Error("the merged folder is quantized")
		}
		_, logits, dir := mergedLogits(t, ref, p, MergeOptions{})
		ref.CheckLogits(t, "nf4.tuned.logits", logits, 2e-2)
		set, err := safetensors.OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer set.Close()
		for _, n := range set.Names() {
			if info, _ := set.Info(n); info.DType != "BF16" {
				t.Errorf("tensor %q is %s, want BF16", n, info.DType)
			}
		}
	}
}

// The weights of the folder are those that quantizing the sums gives.
func TestRequantizedMergeIsTheQuantizedSum(t *testing.T) {
	ref := reference.LoadLlama(t, "llama_a")
	p := tuned(t, ref, models.Options{Quantization: nf4()})
	m, logits, dir := mergedLogits(t, ref, p, MergeOptions{Requantize: true})
	ref.CheckLogits(t, "nf4.tuned.logits", logits, 0.5)
	if q := m.Options().Quantization; q == nil || !q.LoadIn4Bit || q.BNB4BitQuantType != quant.NF4 {
		t.Fatalf("the merged folder's quantization is %+v", q)
	}
	sums := t.TempDir()
	if err := p.SaveMerged(sums, MergeOptions{DType: models.Float32}); err != nil {
		t.Fatal(err)
	}
	again, err := models.FromPretrained(context.Background(), sums, models.Options{Quantization: nf4()})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := again.SavePretrained(sums); err != nil {
		t.Fatal(err)
	}
	a, err := safetensors.Open(filepath.Join(dir, safetensors.SingleName))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := safetensors.Open(filepath.Join(sums, safetensors.SingleName))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, n := range a.Names() {
		x, err := a.Read(n)
		if err != nil {
			t.Fatal(err)
		}
		y, err := b.Read(n)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(x, y) {
			t.Errorf("tensor %q has other bytes", n)
		}
	}
}

func TestWrongMergesAreErrors(t *testing.T) {
	ref := reference.LoadLlama(t, "llama_a")
	p := tuned(t, ref, models.Options{})
	if err := p.SaveMerged(t.TempDir(), MergeOptions{Requantize: true}); err == nil || !strings.Contains(err.Error(), "base is not quantized") {
		t.Errorf("got error %v", err)
	}
	if err := p.SaveMerged(t.TempDir(), MergeOptions{DType: "int3"}); err == nil || !strings.Contains(err.Error(), "int3") {
		t.Errorf("got error %v", err)
	}
	for want, l := range map[string]models.LoRA{
		`no linear "model.layers.9.x"`:  {Path: "model.layers.9.x"},
		`"lm_head": want one of a LoRA`: {Path: "lm_head"},
		"want [2, 64] and [64, 2]":      {Path: "model.layers.0.self_attn.q_proj", R: 2},
	} {
		err := p.Base().SaveWith(t.TempDir(), models.SaveOptions{Merge: []models.LoRA{l}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
}

func ExamplePeftModel_SaveMerged() {
	run := func(base, adapter, dir string) error {
		ctx := context.Background()
		m, err := models.FromPretrained(ctx, base, models.Options{Quantization: nf4()})
		if err != nil {
			return err
		}
		defer m.Close()
		p, err := FromPretrained(m, adapter)
		if err != nil {
			return err
		}
		defer p.Close()
		return p.SaveMerged(dir, MergeOptions{})
	}
	fmt.Println(run("no/such/model", "out/adapter", "out/merged") != nil)
	// Output: true
}
