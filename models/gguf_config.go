package models

import (
	"fmt"
	"math"
	"strconv"

	"github.com/loris-ml/loris/internal/gguf"
)

// ggufReader reads a configuration from the metadata of a file.
type ggufReader struct {
	gguf.Metadata
	file *gguf.File
	arch string // general.architecture, which begins the keys
}

func (g *ggufReader) key(name string) string { return g.arch + "." + name }

// int reads a number; a key that is absent leaves it.
func (g *ggufReader) int(name string, to *int) error {
	key := g.key(name)
	stored, ok := g.Value(key)
	if !ok {
		return nil
	}
	v, ok := g.Uint(key)
	if !ok || v > math.MaxInt32 {
		return fmt.Errorf("metadata %q is %v, want one number from 0 to %d", key, stored, math.MaxInt32)
	}
	*to = int(v)
	return nil
}

// float reads a number, 0 where it is absent, as the shortest decimal of its float32: 1e-06, not 9.999999974752427e-07.
func (g *ggufReader) float(name string) float64 {
	v, _ := g.Float(g.key(name))
	short, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', -1, 32), 64)
	if err != nil {
		return v
	}
	return short
}

// optional reads a number that is nil where it is absent or 0.
func (g *ggufReader) optional(name string) *float64 {
	if v := g.float(name); v != 0 {
		return &v
	}
	return nil
}

// window reads the sliding window, nil where there is none.
func (g *ggufReader) window() (*int, error) {
	n := 0
	if err := g.int("attention.sliding_window", &n); err != nil || n == 0 {
		return nil, err
	}
	return &n, nil
}

// has reports whether the file has a tensor.
func (g *ggufReader) has(tensor string) bool {
	_, ok := g.file.Tensor(tensor)
	return ok
}

// decoder reads what most families have in common.
func (g *ggufReader) decoder(d *Decoder) error {
	rotary, valueDim := 0, 0
	for _, f := range []struct {
		key      string
		to       *int
		required bool
	}{
		{"embedding_length", &d.HiddenSize, true}, {"feed_forward_length", &d.IntermediateSize, true},
		{"block_count", &d.NumHiddenLayers, true}, {"attention.head_count", &d.NumAttentionHeads, true},
		{"attention.head_count_kv", &d.NumKeyValueHeads, false}, {"attention.key_length", &d.HeadDim, false},
		{"attention.value_length", &valueDim, false}, {"context_length", &d.MaxPositionEmbeddings, false}, {"rope.dimension_count", &rotary, false},
	} {
		if err := g.int(f.key, f.to); err != nil {
			return err
		}
		if f.required && *f.to == 0 {
			return fmt.Errorf("metadata %q is missing or no number", g.key(f.key))
		}
	}
	if n, ok := g.Uint(g.key("expert_count")); ok && n > 0 {
		return &UnsupportedError{Field: g.key("expert_count"), Value: n, Supported: "dense models"}
	}
	if d.HeadDim == 0 {
		if d.HiddenSize%d.NumAttentionHeads != 0 {
			return fmt.Errorf("metadata %q is missing, and %d is no multiple of %d heads", g.key("attention.key_length"), d.HiddenSize, d.NumAttentionHeads)
		}
		d.HeadDim = d.HiddenSize / d.NumAttentionHeads
	}
	if valueDim != 0 && valueDim != d.HeadDim {
		return &UnsupportedError{Field: g.key("attention.value_length"), Value: valueDim, Supported: fmt.Sprintf("%d, as %s", d.HeadDim, g.key("attention.key_length"))}
	}
	if d.NumKeyValueHeads == 0 {
		d.NumKeyValueHeads = d.NumAttentionHeads
	}
	d.RMSNormEps, d.RopeTheta = g.float("attention.layer_norm_rms_epsilon"), g.float("rope.freq_base")
	embed, ok := g.file.Tensor("token_embd.weight")
	if !ok || len(embed.Shape) != 2 {
		return fmt.Errorf("tensor %q is missing or no matrix", "token_embd.weight")
	}
	d.VocabSize, d.TieWordEmbeddings = embed.Shape[0], !g.has("output.weight")
	return g.rope(d, or(float64(rotary), float64(d.HeadDim)))
}

// rotatesAll refuses files that rotate a part of each head.
func (g *ggufReader) rotatesAll(d *Decoder) error {
	if n, ok := g.Uint(g.key("rope.dimension_count")); ok && n != uint64(d.HeadDim) {
		return &UnsupportedError{Field: g.key("rope.dimension_count"), Value: n, Supported: fmt.Sprintf("%d, all of a head", d.HeadDim)}
	}
	return nil
}

// ggufWriter writes a configuration as the metadata of a file.
type ggufWriter struct {
	arch    string
	pairs   []gguf.Pair
	tensors []gguf.Source // factors of RoPE's frequencies
	warn    func(message string, args ...any)
}

func (w *ggufWriter) add(name string, value any) {
	w.pairs = append(w.pairs, gguf.Pair{Key: w.arch + "." + name, Value: value})
}

func (w *ggufWriter) int(name string, v int)       { w.add(name, uint32(v)) }
func (w *ggufWriter) float(name string, v float64) { w.add(name, float32(v)) }

// optional writes a number that is not nil.
func (w *ggufWriter) optional(name string, v *float64) {
	if v != nil {
		w.float(name, *v)
	}
}

// decoder writes what most families have in common, but for RoPE.
func (w *ggufWriter) decoder(d *Decoder, rotary int) {
	s := d.shape()
	w.int("context_length", int(or(float64(d.MaxPositionEmbeddings), 2048)))
	w.int("embedding_length", d.HiddenSize)
	w.int("block_count", d.NumHiddenLayers)
	w.int("feed_forward_length", d.IntermediateSize)
	w.int("attention.head_count", s.Heads)
	w.int("attention.head_count_kv", s.KVHeads)
	w.int("attention.key_length", s.HeadDim)
	w.int("attention.value_length", s.HeadDim)
	w.float("attention.layer_norm_rms_epsilon", s.NormEps)
	w.int("vocab_size", d.VocabSize)
	w.int("rope.dimension_count", rotary)
}

// ignoredWindow warns of a window that llama.cpp does not know for the family.
func (w *ggufWriter) ignoredWindow(window *int) {
	if window != nil {
		w.warn("llama.cpp has no sliding window for this architecture: texts longer than the window will get other numbers", "architecture", w.arch, "sliding_window", *window)
	}
}

// plainHeads refuses heads that llama.cpp does not expect of the family.
func (w *ggufWriter) plainHeads(d *Decoder) error {
	if d.headDim()*d.NumAttentionHeads != d.HiddenSize {
		return &UnsupportedError{Field: "head_dim", Value: d.headDim(), Supported: fmt.Sprintf("hidden_size / num_attention_heads in GGUF files of %q", w.arch)}
	}
	return nil
}

// noBias refuses biases that llama.cpp does not know.
func (w *ggufWriter) noBias(field string, has bool) error {
	if has {
		return &UnsupportedError{Field: field, Value: true, Supported: fmt.Sprintf("false in GGUF files of %q", w.arch)}
	}
	return nil
}
