package tokenizer

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/loris-ml/loris/internal/gguf"
)

func TestGGUFMetadataReadBackEqualsRust(t *testing.T) {
	for _, c := range []struct{ name, model, pre string }{
		{"gpt2", "gpt2", "gpt-2"}, {"smollm2", "gpt2", "smollm"}, {"qwen2", "gpt2", "qwen2"}, {"llama3", "gpt2", "llama-bpe"},
		{"llama2", "llama", "default"}, {"gemma", "llama", "default"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tok, err := FromPretrained(filepath.Join("testdata", c.name))
			if err != nil {
				t.Fatal(err)
			}
			golden := readGolden(t, c.name)
			if with, err := tok.Encode("a", true); err == nil && tok.BOSToken() == "" {
				if plain, _ := tok.Encode("a", false); len(with) > len(plain) { // the folder says not that it is BOS
					tok.special.bos = tok.vocab.tokens[with[0]]
				}
			}
			tok.templates.standard = "{{ messages }}"
			tok.templates.set("tools", "{{ tools }}")
			keys, err := tok.GGUFMetadata(tok.VocabSize() + 7)
			if err != nil {
				t.Fatal(err)
			}
			if keys["tokenizer.ggml.model"] != c.model || keys["tokenizer.ggml.pre"] != c.pre || len(keys["tokenizer.ggml.tokens"].([]string)) != tok.VocabSize()+7 {
				t.Errorf("model %v, pre %v", keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"])
			}
			back, err := newFromMetadata("x.gguf", gguf.NewMetadata(keys))
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range golden {
				plain, err1 := back.Encode(g.Text, false)
				special, err2 := back.Encode(g.Text, true)
				decoded, err3 := back.Decode(g.IDs, false)
				if err := errors.Join(err1, err2, err3); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(plain, g.IDs) || !slices.Equal(special, g.SpecialIDs) || decoded != g.Decoded {
					t.Errorf("%.60q:\n got %v %v %q\nwant %v %v %q", g.Text, plain, special, decoded, g.IDs, g.SpecialIDs, g.Decoded)
					break
				}
			}
			if back.templates.standard != "{{ messages }}" || back.templates.named["tools"] != "{{ tools }}" {
				t.Errorf("templates %+v", back.templates)
			}
		})
	}
}

func TestWhatGGUFCannotHoldIsAnError(t *testing.T) {
	for _, name := range []string{"bert", "unigram", "falcon", "bpe_suffix", "ctc", "o200k"} { // o200k's normalizes
		tok, err := FromPretrained(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		var unsupported *UnsupportedError
		if _, err := tok.GGUFMetadata(0); !errors.As(err, &unsupported) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	tok := loadTiny(t)
	if _, err := tok.GGUFMetadata(5); err == nil {
		t.Error("a model with 5 rows got the ids of more tokens")
	}
}
