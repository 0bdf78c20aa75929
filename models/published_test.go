package models

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// published is what transformers reads in the config.json of a published model.
type published struct {
	Config      json.RawMessage
	Vocab       int
	Hidden      int
	Layers      int
	Heads       int
	KVHeads     int `json:"kv_heads"`
	HeadDim     int `json:"head_dim"`
	EPS         float64
	Tied        bool
	Windows     []int // by layer; 0: none
	Frequencies []struct {
		From   int `json:"from_length"`
		Tables []struct {
			Scale   float64
			Inverse []float64
		}
	}
}

func TestPublishedConfigsAreReadAsTransformersReadsThem(t *testing.T) {
	raw, err := os.ReadFile("testdata/families/published.json")
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		Lengths []int
		Models  map[string]published
	}
	if err := json.Unmarshal(raw, &all); err != nil || len(all.Models) == 0 {
		t.Fatal(err)
	}
	for name, want := range all.Models {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.json")
			if err := os.WriteFile(path, want.Config, 0o644); err != nil {
				t.Fatal(err)
			}
			c, err := ReadConfig(path)
			if err != nil {
				t.Fatal(err)
			}
			d := c.dims()
			got := []any{d.vocab, d.shape.Hidden, d.layers, d.shape.Heads, d.shape.KVHeads, d.shape.HeadDim, d.shape.NormEps, d.tied}
			for i, w := range []any{want.Vocab, want.Hidden, want.Layers, want.Heads, want.KVHeads, want.HeadDim, want.EPS, want.Tied} {
				if got[i] != w {
					t.Errorf("vocab, hidden, layers, heads, kv heads, head_dim, eps, tied are %v; number %d should be %v", got, i, w)
				}
			}
			for i, w := range want.Windows {
				if got := windowOf(c, d.kind(i)); got != w {
					t.Fatalf("layer %d has window %d, want %d", i, got, w)
				}
			}
			checkFrequencies(t, d, want, all.Lengths)
		})
	}
}

// windowOf is the window of layers of a kind.
func windowOf(c Architecture, kind string) int {
	windows := map[string]*int{}
	switch c := c.(type) {
	case *MistralConfig:
		windows[slidingAttention] = c.SlidingWindow
	case *Qwen2Config:
		windows[slidingAttention] = c.SlidingWindow
	case *Qwen3Config:
		windows[slidingAttention] = c.SlidingWindow
	case *Gemma2Config:
		windows[slidingAttention] = c.SlidingWindow
	case *Gemma3Config:
		windows[slidingAttention] = c.SlidingWindow
	case *Phi3Config:
		windows[slidingAttention] = c.SlidingWindow
	}
	if w := windows[kind]; w != nil {
		return *w
	}
	return 0
}

func checkFrequencies(t *testing.T, d dims, want published, lengths []int) {
	t.Helper()
	at := 0
	for _, length := range lengths {
		if at+1 < len(want.Frequencies) && want.Frequencies[at+1].From <= length {
			at++
		}
		tables := want.Frequencies[at].Tables
		if len(tables) != len(d.rope.Tables) {
			t.Fatalf("%d tables of RoPE, want %d", len(d.rope.Tables), len(tables))
		}
		for i, w := range tables {
			inverse, scale := d.rope.Tables[i](length)
			if len(inverse) != len(w.Inverse) || math.Abs(scale-w.Scale) > 1e-12 {
				t.Fatalf("length %d, table %d: %d frequencies, scale %v; want %d, %v", length, i, len(inverse), scale, len(w.Inverse), w.Scale)
			}
			for j, f := range inverse {
				if math.Abs(float64(f)-w.Inverse[j]) > 3e-7*w.Inverse[j] {
					t.Errorf("length %d, table %d: frequency %d is %v, want %v", length, i, j, f, w.Inverse[j])
				}
			}
		}
	}
}
