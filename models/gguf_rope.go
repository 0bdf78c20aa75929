package models

import (
	"fmt"
	"math"
	"slices"

	"github.com/loris-ml/loris/internal/gguf"
	"github.com/loris-ml/loris/internal/nn"
)

// The tensors with divisors of RoPE's frequencies: one set for all lengths, or one each for long and short sequences.
const (
	ropeFreqs        = "rope_freqs.weight"
	ropeFactorsLong  = "rope_factors_long.weight"
	ropeFactorsShort = "rope_factors_short.weight"
)

// rope reads the scaling of RoPE for heads of which rotary features are rotated.
func (g *ggufReader) rope(d *Decoder, rotary float64) error {
	original := 0
	if err := g.int("rope.scaling.original_context_length", &original); err != nil {
		return err
	}
	kind, stated := g.String(g.key("rope.scaling.type"))
	factor := or(g.float("rope.scaling.factor"), g.float("rope.scale_linear"))
	scale := or(g.float("rope.scaling.attn_factor"), 1)
	switch {
	case g.has(ropeFactorsLong): // Phi-3's files have no type
		long, err := g.factors(ropeFactorsLong, rotary)
		if err != nil {
			return err
		}
		short, err := g.factors(ropeFactorsShort, rotary)
		if err != nil {
			return err
		}
		d.RopeScaling = &RopeScaling{RopeType: "longrope", ShortFactor: short, LongFactor: long, AttentionFactor: scale, OriginalMaxPositionEmbeddings: original}
	case g.has(ropeFreqs):
		factors, err := g.factors(ropeFreqs, rotary)
		if err != nil {
			return err
		}
		if d.RopeScaling = llama3Of(factors, or(d.RopeTheta, 10000), int(rotary)); d.RopeScaling == nil {
			// One set of factors for all lengths is a longrope of two equal ones.
			d.RopeScaling = &RopeScaling{RopeType: "longrope", ShortFactor: factors, LongFactor: factors, Factor: 1, AttentionFactor: scale,
				OriginalMaxPositionEmbeddings: max(original, d.MaxPositionEmbeddings, 2)}
		}
	case kind == "linear" || !stated && factor != 0:
		if factor != 0 && factor != 1 {
			d.RopeScaling = &RopeScaling{RopeType: "linear", Factor: factor}
		}
	case kind == "yarn":
		d.RopeScaling = &RopeScaling{RopeType: "yarn", Factor: factor, OriginalMaxPositionEmbeddings: original,
			BetaFast: g.float("rope.scaling.yarn_beta_fast"), BetaSlow: g.float("rope.scaling.yarn_beta_slow"), AttentionFactor: g.float("rope.scaling.yarn_attn_factor")}
		if scale != 1 { // llama.cpp's is on top of the usual one
			d.RopeScaling.AttentionFactor = scale * RopeScaling{}.yarnScale(factor)
		}
	case kind == "" || kind == "none":
	default:
		return &UnsupportedError{Field: g.key("rope.scaling.type"), Value: fmt.Sprintf("%q", kind), Supported: "none, linear, yarn, longrope with its factors"}
	}
	return nil
}

// factors reads divisors of the frequencies.
func (g *ggufReader) factors(tensor string, rotary float64) ([]float64, error) {
	info, ok := g.file.Tensor(tensor)
	if want := int(rotary) / 2; !ok || len(info.Shape) != 1 || info.Shape[0] != want {
		return nil, fmt.Errorf("tensor %q is missing or of shape %v, want %d values", tensor, info.Shape, want)
	}
	values, err := g.file.Float32(tensor)
	if err != nil {
		return nil, err
	}
	out := make([]float64, len(values))
	for i, v := range values {
		out[i] = float64(v)
	}
	return out, nil
}

// llama3Of returns the scaling of type llama3 that gives these divisors of the frequencies, or nil: llama.cpp stores the
// divisors in place of the four numbers, of which all of Meta's models share three.
func llama3Of(factors []float64, theta float64, headDim int) *RopeScaling {
	r := &RopeScaling{RopeType: "llama3", LowFreqFactor: 1, HighFreqFactor: 4, OriginalMaxPositionEmbeddings: 8192}
	for i, want := range r.withFactor(slices.Max(factors)).llama3Factors(theta, headDim) {
		if !(math.Abs(factors[i]-want) <= 1e-5*want) {
			return nil
		}
	}
	return r
}

func (r *RopeScaling) withFactor(factor float64) *RopeScaling {
	r.Factor = factor
	return r
}

// llama3Factors are the divisors of the frequencies that a scaling of type llama3 stands for.
func (r *RopeScaling) llama3Factors(theta float64, headDim int) []float64 {
	plain := nn.InverseFrequencies(theta, headDim)
	out := make([]float64, len(plain))
	for i, f := range plain {
		out[i] = float64(f) / float64(r.llama3(f))
	}
	return out
}

// rope writes what a filled r says for heads of which rotary features are rotated; context is max_position_embeddings.
// Types other than linear and yarn need tensors, which llama.cpp reads for the families that say so.
func (w *ggufWriter) rope(r RopeScaling, rotary, context int, tensors bool) error {
	w.float("rope.freq_base", r.RopeTheta)
	switch {
	case r.RopeType == "default":
	case r.RopeType == "linear":
		w.add("rope.scaling.type", "linear")
		w.float("rope.scaling.factor", r.Factor)
	case r.RopeType == "yarn" && (r.Truncate == nil || *r.Truncate):
		factor := or(r.Factor, float64(context)/float64(r.OriginalMaxPositionEmbeddings))
		w.add("rope.scaling.type", "yarn")
		w.float("rope.scaling.factor", factor)
		w.int("rope.scaling.original_context_length", r.OriginalMaxPositionEmbeddings)
		fast, slow := or(r.BetaFast, 32), or(r.BetaSlow, 1)
		w.float("rope.scaling.yarn_beta_fast", fast)
		w.float("rope.scaling.yarn_beta_slow", slow)
		if fast != 32 || slow != 1 {
			w.warn("llama.cpp does not take yarn's betas from files of this architecture: pass --yarn-beta-fast and --yarn-beta-slow", "architecture", w.arch, "beta_fast", fast, "beta_slow", slow)
		}
		if scale := r.yarnScale(factor) / (RopeScaling{}).yarnScale(factor); scale != 1 {
			w.float("rope.scaling.attn_factor", scale)
		}
	case r.RopeType == "llama3" && tensors:
		w.factors(ropeFreqs, r.llama3Factors(r.RopeTheta, rotary))
	case r.RopeType == "longrope" && tensors:
		_, scale := r.frequencies(rotary, context)(1)
		w.add("rope.scaling.type", "longrope")
		w.float("rope.scaling.attn_factor", scale)
		w.int("rope.scaling.original_context_length", r.OriginalMaxPositionEmbeddings)
		w.factors(ropeFactorsLong, r.LongFactor)
		w.factors(ropeFactorsShort, r.ShortFactor)
	default:
		return &UnsupportedError{Field: "rope_type", Value: r.RopeType, Supported: fmt.Sprintf("what llama.cpp has for architecture %q", w.arch)}
	}
	return nil
}

// factors adds a tensor with divisors of the frequencies.
func (w *ggufWriter) factors(name string, values []float64) {
	w.tensors = append(w.tensors, gguf.Source{Name: name, Shape: []int{len(values)}, Type: gguf.F32, Data: func() ([]byte, error) {
		out := make([]float32, len(values))
		for i, v := range values {
			out[i] = float32(v)
		}
		return gguf.Encode(gguf.F32, out)
	}})
}
