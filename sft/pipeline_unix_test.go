//go:build unix

package sft

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	source "github.com/loris-ml/loris/dataset"
	"github.com/loris-ml/loris/tokenizer"
)

// benchmarkTokenizer is SmolLM2's where it has been fetched (scripts/fetch-smollm2.sh), else one with a part of its
// vocabulary.
func benchmarkTokenizer(b *testing.B) *tokenizer.Tokenizer {
	b.Helper()
	path := filepath.Join("..", ".cache", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
	if _, err := os.Stat(path); err != nil {
		path = filepath.Join("testdata", "tokenizer")
	}
	tok, err := tokenizer.FromPretrained(path)
	if err != nil {
		b.Fatal(err)
	}
	return tok
}

// writeConversations writes conversations of the words of the repository's own documents, in varying order, about size bytes.
func writeConversations(b *testing.B, size int) string {
	b.Helper()
	var words []string
	for _, pattern := range []string{"*.md", "*/*.md", "*/*/*.md", "sft/*.go"} {
		files, err := filepath.Glob(filepath.Join("..", filepath.FromSlash(pattern)))
		if err != nil {
			b.Fatal(err)
		}
		for _, file := range files {
			raw, err := os.ReadFile(file)
			if err != nil {
				b.Fatal(err)
			}
			words = append(words, strings.Fields(strings.ToValidUTF8(string(raw), ""))...)
		}
	}
	path := filepath.Join(b.TempDir(), "chats.jsonl")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	w := bufio.NewWriter(f)
	say := func(i, n int) string {
		var s strings.Builder
		for k := range n {
			fmt.Fprintf(&s, "%s ", words[(i*31+k*(1+i%7))%len(words)])
		}
		return s.String()
	}
	for i, written := 0, 0; written < size; i++ {
		line, err := json.Marshal(Row{"messages": []Message{
			{"role": "user", "content": say(i, 10+i%40)}, {"role": "assistant", "content": say(i+3, 40+i*17%200)},
			{"role": "user", "content": say(i+5, 5+i%9)}, {"role": "assistant", "content": say(i+7, 30+i*13%90)},
		}})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			b.Fatal(err)
		}
		written += len(line)
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	return path
}

// cpuTime is what the process has used on all cores.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPipeline goes from a file to batches: JSON, chat template, tokens, masks, packing, layout. tokens/cpu-s does not depend
// on what else the machine does.
func BenchmarkPipeline(b *testing.B) {
	tok := benchmarkTokenizer(b)
	path := writeConversations(b, 8<<20)
	for _, v := range []struct {
		name string
		c    SFTConfig
	}{
		{"packed", SFTConfig{MaxLength: 2048, Packing: true}},
		{"assistant only, packed", SFTConfig{MaxLength: 2048, Packing: true, AssistantOnlyLoss: true}},
		{"unpacked", SFTConfig{MaxLength: 2048}},
		{"packed, cached", SFTConfig{MaxLength: 2048, Packing: true, TokenCache: b.TempDir()}},
	} {
		b.Run(v.name, func(b *testing.B) {
			c := v.c
			c.Logger = quiet
			c = c.withDefaults()
			tokens, before := 0, cpuTime(b)
			for b.Loop() {
				data, err := source.Load(b.Context(), path, source.Options{Streaming: true})
				if err != nil {
					b.Fatal(err)
				}
				d, _, err := prepare(data, tok, c, c.Packing, "training")
				if err != nil {
					b.Fatal(err)
				}
				order := d.order(c, 0)
				for at := 0; at < len(order); at += 8 {
					batch, err := d.batch(order[at:min(at+8, len(order))], 8, c, 0)
					if err != nil {
						b.Fatal(err)
					}
					tokens += batch.NumTokens
				}
			}
			b.ReportMetric(float64(tokens)/b.Elapsed().Seconds(), "tokens/s")
			b.ReportMetric(float64(tokens)/(cpuTime(b)-before).Seconds(), "tokens/cpu-s")
		})
	}
}
