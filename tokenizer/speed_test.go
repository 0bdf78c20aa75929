package tokenizer

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// published opens a tokenizer of the folder that LORIS_TOKENIZERS names (see scripts/tokenizers/README.md), or skips.
func published(tb testing.TB, name string) *Tokenizer {
	tb.Helper()
	root := os.Getenv("LORIS_TOKENIZERS")
	if root == "" {
		tb.Skip("LORIS_TOKENIZERS names no folder of tokenizers")
	}
	tok, err := FromPretrained(filepath.Join(root, name))
	if err != nil {
		tb.Fatal(err)
	}
	return tok
}

var publishedNames = []string{"llama3", "qwen3", "gpt2", "smollm2_like", "gpt4o", "gemma3", "mistral03_like", "llama2", "deepseek_v3", "cohere", "gptoss", "gpt35turbo"}

// mixedText is English and Japanese prose (the shared question–answer sets) and Go code (package internal/jinja), a string for
// every answer and file: what scripts/tokenizers/speed.py gives to the Rust library.
func mixedText(tb testing.TB) (texts []string, size int) {
	tb.Helper()
	for _, name := range []string{"faq_en.json", "faq_ja.json"} {
		var rows []struct {
			Messages []struct{ Content string }
		}
		readShared(tb, name, &rows)
		for _, r := range rows {
			for _, m := range r.Messages {
				texts = append(texts, m.Content)
			}
		}
	}
	files, err := filepath.Glob("../internal/jinja/*.go")
	if err != nil || len(files) == 0 {
		tb.Fatalf("no code: %v", err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			tb.Fatal(err)
		}
		texts = append(texts, string(data))
	}
	for _, s := range texts {
		size += len(s)
	}
	return texts, size
}

func BenchmarkPublishedEncode(b *testing.B) {
	texts, size := mixedText(b)
	for _, name := range publishedNames {
		b.Run(name, func(b *testing.B) {
			tok := published(b, name)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				for _, s := range texts {
					if _, err := tok.Encode(s, false); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkPublishedEncodeCold has an empty word cache in every pass.
func BenchmarkPublishedEncodeCold(b *testing.B) {
	texts, size := mixedText(b)
	for _, name := range publishedNames {
		b.Run(name, func(b *testing.B) {
			tok := published(b, name)
			b.SetBytes(int64(size))
			for b.Loop() {
				b.StopTimer()
				tok.model.(*bpe).cache.init()
				b.StartTimer()
				for _, s := range texts {
					if _, err := tok.Encode(s, false); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkPublishedBatch encodes all texts by one call of EncodeBatch: with -cpu 1,2,… it shows how that scales with cores.
func BenchmarkPublishedBatch(b *testing.B) {
	texts, size := mixedText(b)
	inputs := make([]Input, len(texts))
	for i, s := range texts {
		inputs[i] = Text(s)
	}
	for _, name := range publishedNames {
		b.Run(name, func(b *testing.B) {
			tok := published(b, name)
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := tok.EncodeBatch(context.Background(), inputs, EncodeOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPublishedLongWord encodes 10 MB of random letters without a place to cut them.
func BenchmarkPublishedLongWord(b *testing.B) {
	r := rand.New(rand.NewPCG(3, 4))
	letters := make([]byte, 10_000_000)
	for i := range letters {
		letters[i] = byte('a' + r.IntN(26))
	}
	text := string(letters)
	for _, name := range publishedNames {
		b.Run(name, func(b *testing.B) {
			tok := published(b, name)
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := tok.Encode(text, false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPublishedLoad(b *testing.B) {
	for _, name := range publishedNames {
		b.Run(name, func(b *testing.B) {
			published(b, name)
			b.ReportAllocs()
			for b.Loop() {
				published(b, name)
			}
			runtime.KeepAlive(b)
		})
	}
}
