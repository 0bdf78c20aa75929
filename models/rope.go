package models

import (
	"fmt"
	"math"
	"reflect"
	"slices"

	"github.com/loris-ml/loris/internal/nn"
)

// RopeScaling is config.json's rope_scaling, or rope_parameters of newer files.
type RopeScaling struct {
	RopeType                      string    `json:"rope_type,omitempty"` // "", "default", "linear", "dynamic", "yarn", "llama3", "longrope"
	LegacyType                    string    `json:"type,omitempty"`      // rope_type's name in older files
	RopeTheta                     float64   `json:"rope_theta,omitempty"`
	PartialRotaryFactor           float64   `json:"partial_rotary_factor,omitempty"` // the part of a head that is rotated; 0: 1
	Factor                        float64   `json:"factor,omitempty"`
	LowFreqFactor                 float64   `json:"low_freq_factor,omitempty"`  // llama3
	HighFreqFactor                float64   `json:"high_freq_factor,omitempty"` // llama3
	OriginalMaxPositionEmbeddings int       `json:"original_max_position_embeddings,omitempty"`
	AttentionFactor               float64   `json:"attention_factor,omitempty"` // yarn, longrope: on cosines and sines; 0: from Factor
	BetaFast                      float64   `json:"beta_fast,omitempty"`        // yarn; 0: 32
	BetaSlow                      float64   `json:"beta_slow,omitempty"`        // yarn; 0: 1
	MScale                        float64   `json:"mscale,omitempty"`           // yarn
	MScaleAllDim                  float64   `json:"mscale_all_dim,omitempty"`   // yarn
	Truncate                      *bool     `json:"truncate,omitempty"`         // yarn; nil: true
	ShortFactor                   []float64 `json:"short_factor,omitempty"`     // longrope
	LongFactor                    []float64 `json:"long_factor,omitempty"`      // longrope
}

func (r *RopeScaling) isZero() bool { return r == nil || reflect.ValueOf(*r).IsZero() }

// kind is the type as newer files name it.
func (r *RopeScaling) kind() string {
	switch {
	case r == nil:
		return "default"
	case r.RopeType != "":
		return r.RopeType
	case r.LegacyType != "":
		return r.LegacyType
	}
	return "default"
}

// filled is r with the values that the config keeps elsewhere: context is max_position_embeddings, original, if not 0,
// original_max_position_embeddings outside of rope_scaling, which goes before the one inside.
func (r *RopeScaling) filled(theta, partial float64, context, original int) RopeScaling {
	var out RopeScaling
	if r != nil {
		out = *r
	}
	out.RopeType, out.LegacyType = r.kind(), ""
	if out.RopeTheta == 0 {
		out.RopeTheta = theta
	}
	if out.PartialRotaryFactor == 0 {
		out.PartialRotaryFactor = partial
	}
	if slices.Contains([]string{"llama3", "yarn", "longrope"}, out.RopeType) {
		if original != 0 {
			out.OriginalMaxPositionEmbeddings = original
		}
		if out.OriginalMaxPositionEmbeddings == 0 {
			out.OriginalMaxPositionEmbeddings = context
		}
	}
	return out
}

// validate checks a filled r for heads of which rotary features are rotated; context is max_position_embeddings.
func (r RopeScaling) validate(rotary, context int) error {
	if !(r.RopeTheta >= 0) {
		return fmt.Errorf("rope_theta is %v, want a positive number", r.RopeTheta)
	}
	factor := func(optional bool) error {
		if !(r.Factor > 0) && !(optional && r.Factor == 0) {
			return fmt.Errorf("rope_scaling.factor is %v, want a positive number", r.Factor)
		}
		return nil
	}
	known := func(name string, value int) error {
		if value <= 1 {
			return fmt.Errorf("%s is %d, but rope_type %s needs it", name, value, r.RopeType)
		}
		return nil
	}
	switch r.RopeType {
	case "default":
		return nil
	case "linear":
		return factor(false)
	case "dynamic":
		if rotary <= 2 {
			return fmt.Errorf("rope_type dynamic rotates %d features of a head, want more than 2", rotary)
		}
		return first(factor(false), known("max_position_embeddings", context))
	case "yarn":
		if r.BetaFast < 0 || r.BetaSlow < 0 || r.AttentionFactor < 0 {
			return fmt.Errorf("rope_scaling of type yarn has beta_fast %v, beta_slow %v, attention_factor %v; want positive numbers", r.BetaFast, r.BetaSlow, r.AttentionFactor)
		}
		return first(factor(true), known("original_max_position_embeddings", r.OriginalMaxPositionEmbeddings))
	case "longrope":
		for name, f := range map[string][]float64{"short_factor": r.ShortFactor, "long_factor": r.LongFactor} {
			if len(f) != rotary/2 || slices.ContainsFunc(f, func(v float64) bool { return !(v > 0) }) {
				return fmt.Errorf("rope_scaling.%s has %d values, want %d positive ones, half of the features of a head that are rotated", name, len(f), rotary/2)
			}
		}
		return first(factor(true), known("original_max_position_embeddings", r.OriginalMaxPositionEmbeddings))
	case "llama3":
		if !(r.Factor > 0) || !(r.LowFreqFactor > 0) || !(r.HighFreqFactor > r.LowFreqFactor) || r.OriginalMaxPositionEmbeddings <= 0 {
			return fmt.Errorf("rope_scaling of type llama3 has factor %v, low_freq_factor %v, high_freq_factor %v, original_max_position_embeddings %d; want positive numbers and high_freq_factor above low_freq_factor",
				r.Factor, r.LowFreqFactor, r.HighFreqFactor, r.OriginalMaxPositionEmbeddings)
		}
		return nil
	}
	return &UnsupportedError{Field: "rope_type", Value: r.RopeType, Supported: "default, linear, dynamic, yarn, llama3, longrope"}
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// rope is the whole of a model's RoPE where all layers share it.
func (r RopeScaling) rope(rotary, context int) nn.Rope {
	out := nn.Rope{Tables: []nn.Frequencies{r.frequencies(rotary, context)}}
	if r.RopeType == "longrope" {
		out.Switch = r.OriginalMaxPositionEmbeddings
	}
	return out
}

// frequencies are those of a filled r, in the float32 arithmetic of transformers' modeling_rope_utils.
func (r RopeScaling) frequencies(rotary, context int) nn.Frequencies {
	inv := nn.InverseFrequencies(r.RopeTheta, rotary)
	switch r.RopeType {
	case "linear":
		for i := range inv {
			inv[i] /= float32(r.Factor)
		}
	case "llama3":
		for i, f := range inv {
			inv[i] = r.llama3(f)
		}
	case "dynamic":
		return func(length int) ([]float32, float64) {
			if length <= context {
				return inv, 1
			}
			return nn.InverseFrequencies(r.stretchedTheta(length, context, rotary), rotary), 1
		}
	case "yarn":
		return nn.Constant(r.yarn(inv, rotary, context))
	case "longrope":
		return r.longrope(inv, context)
	}
	return nn.Constant(inv, 1)
}

// llama3 stretches low frequencies by Factor, leaves high ones, and blends between (arXiv:2407.21783).
func (r RopeScaling) llama3(f float32) float32 {
	original := float32(r.OriginalMaxPositionEmbeddings)
	low, high := float32(r.LowFreqFactor), float32(r.HighFreqFactor)
	wavelength := float32(2*math.Pi) / f
	switch {
	case wavelength < original/high:
		return f
	case wavelength > original/low:
		return f / float32(r.Factor)
	}
	smooth := (original/wavelength - low) / (high - low)
	return (1-smooth)*f/float32(r.Factor) + smooth*f
}

// stretchedTheta is the base of NTK-aware scaling for sequences longer than the context.
func (r RopeScaling) stretchedTheta(length, context, rotary int) float64 {
	growth := float32(r.Factor)*float32(length)/float32(context) - float32(r.Factor-1)
	power := float32(math.Pow(float64(growth), float64(rotary)/float64(rotary-2)))
	return float64(float32(r.RopeTheta) * power)
}

// yarn stretches frequencies of few turns within the original length by Factor, leaves those of many, and blends between
// by a ramp over their indices (arXiv:2309.00071).
func (r RopeScaling) yarn(inv []float32, rotary, context int) ([]float32, float64) {
	factor := r.Factor
	if factor == 0 {
		factor = float64(context) / float64(r.OriginalMaxPositionEmbeddings)
	}
	index := func(turns float64) float64 { // of the frequency that makes that many turns
		return float64(rotary) * math.Log(float64(r.OriginalMaxPositionEmbeddings)/(turns*2*math.Pi)) / (2 * math.Log(r.RopeTheta))
	}
	low, high := index(or(r.BetaFast, 32)), index(or(r.BetaSlow, 1))
	if r.Truncate == nil || *r.Truncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(rotary-1))
	if low == high {
		high += 0.001
	}
	out := make([]float32, len(inv))
	for i, f := range inv {
		keep := 1 - min(1, max(0, (float32(i)-float32(low))/float32(high-low)))
		out[i] = 1/(float32(factor)/f)*(1-keep) + f*keep
	}
	return out, r.yarnScale(factor)
}

func (r RopeScaling) yarnScale(factor float64) float64 {
	scale := func(m float64) float64 {
		if factor <= 1 {
			return 1
		}
		return 0.1*m*math.Log(factor) + 1
	}
	switch {
	case r.AttentionFactor != 0:
		return r.AttentionFactor
	case r.MScale != 0 && r.MScaleAllDim != 0:
		return scale(r.MScale) / scale(r.MScaleAllDim)
	}
	return scale(1)
}

// longrope divides each frequency by a factor of its own, of which there is one set for sequences up to the original
// length and one for longer ones (arXiv:2402.13753).
func (r RopeScaling) longrope(inv []float32, context int) nn.Frequencies {
	divided := func(by []float64) []float32 {
		out := make([]float32, len(inv))
		for i, f := range inv {
			out[i] = 1 / (float32(by[i]) * (1 / f))
		}
		return out
	}
	short, long := divided(r.ShortFactor), divided(r.LongFactor)
	factor, scale := or(r.Factor, float64(context)/float64(r.OriginalMaxPositionEmbeddings)), 1.0
	if factor > 1 {
		scale = math.Sqrt(1 + math.Log(factor)/math.Log(float64(r.OriginalMaxPositionEmbeddings)))
	}
	scale = or(r.AttentionFactor, scale)
	return func(length int) ([]float32, float64) {
		if length > r.OriginalMaxPositionEmbeddings {
			return long, scale
		}
		return short, scale
	}
}

func or(v, fallback float64) float64 {
	if v == 0 {
		return fallback
	}
	return v
}
