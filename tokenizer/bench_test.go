package tokenizer

import (
	"path/filepath"
	"strings"
	"testing"
)

// benchmarkText is English, code and Japanese in paragraphs, about 100 KB.
func benchmarkText(b *testing.B) []string {
	b.Helper()
	var paragraphs []string
	for _, g := range readGolden(b, "gpt2") {
		paragraphs = append(paragraphs, g.Text)
	}
	prose := strings.Repeat("The quick brown fox jumps over the lazy dog, and they'll never know what 1234 meant. ", 8)
	code := strings.Repeat("func Encode(text string) ([]int, error) {\n\tif text == \"\" {\n\t\treturn nil, nil\n\t}\n}\n", 6)
	japanese := strings.Repeat("日本語の文章を分割する。東京は日本の首都です。", 8)
	for range 40 {
		paragraphs = append(paragraphs, prose, code, japanese)
	}
	return paragraphs
}

func benchmarkEncode(b *testing.B, tok *Tokenizer, encode func(string) error) {
	text := benchmarkText(b)
	n := 0
	for _, p := range text {
		n += len(p)
	}
	b.SetBytes(int64(n))
	b.ReportAllocs()
	for b.Loop() {
		for _, p := range text {
			if err := encode(p); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, name := range layouts {
		tok, err := FromPretrained(filepath.Join("testdata", name))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			benchmarkEncode(b, tok, func(s string) error { _, err := tok.Encode(s, false); return err })
		})
	}
}

func BenchmarkEncodeFull(b *testing.B) {
	for _, name := range []string{"smollm2", "llama3", "llama2"} {
		tok, err := FromPretrained(filepath.Join("testdata", name))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			benchmarkEncode(b, tok, func(s string) error { _, err := tok.EncodeFull(s, false); return err })
		})
	}
}
