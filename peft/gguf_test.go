package peft

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/models"
)

func TestMergedGGUFFileComputesWhatPEFTDoes(t *testing.T) {
	for _, name := range reference.Llamas {
		ref := reference.LoadLlama(t, name)
		for _, base := range []struct {
			options models.Options
			logits  string
			skip    bool
		}{{models.Options{}, "tuned.logits", false}, {models.Options{Quantization: nf4(), KeepPacked: true}, "nf4.tuned.logits", name != "llama_a"}} {
			if base.skip {
				continue
			}
			path := filepath.Join(t.TempDir(), "merged.gguf")
			if err := tuned(t, ref, base.options).SaveMergedGGUF(path, models.GGUFOptions{Type: "f32"}); err != nil {
				t.Fatal(err)
			}
			m, err := models.FromPretrained(context.Background(), path, models.Options{DType: models.Float32})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { m.Close() })
			logits, err := m.Logits(context.Background(), ref.InputIDs[0], ref.AttentionMask[0])
			if err != nil {
				t.Fatal(err)
			}
			ref.CheckLogits(t, base.logits, logits, 1e-5)
		}
	}
}

// Both ways to llama.cpp: one file, or adapters for a base that is there as GGUF.
func ExamplePeftModel_SaveMergedGGUF() {
	run := func(base, adapter string) error {
		m, err := models.FromPretrained(context.Background(), base, models.Options{})
		if err != nil {
			return err
		}
		defer m.Close()
		p, err := FromPretrained(m, adapter)
		if err != nil {
			return err
		}
		defer p.Close()
		if err := p.SaveMergedGGUF("out/merged.gguf", models.GGUFOptions{Type: "q8_0"}); err != nil {
			return err
		}
		return p.SaveGGUF("out/adapter.gguf")
	}
	fmt.Println(run("no/such/model", "out/adapter") != nil)
	// Output: true
}
