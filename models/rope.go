package models

import (
	"fmt"
	"math"

	"github.com/loris-ml/loris/internal/nn"
)

// RopeScaling is config.json's rope_scaling, or rope_parameters of newer files.
type RopeScaling struct {
	RopeType                      string  `json:"rope_type,omitempty"` // "", "default", "linear", "llama3"
	LegacyType                    string  `json:"type,omitempty"`      // rope_type's name in older files
	RopeTheta                     float64 `json:"rope_theta,omitempty"`
	Factor                        float64 `json:"factor,omitempty"`
	LowFreqFactor                 float64 `json:"low_freq_factor,omitempty"`
	HighFreqFactor                float64 `json:"high_freq_factor,omitempty"`
	OriginalMaxPositionEmbeddings int     `json:"original_max_position_embeddings,omitempty"`
}

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

func (r *RopeScaling) validate() error {
	switch r.kind() {
	case "default":
		return nil
	case "linear":
		if r.Factor <= 0 {
			return fmt.Errorf("rope_scaling.factor is %v, want a positive number", r.Factor)
		}
	case "llama3":
		if r.Factor <= 0 || r.LowFreqFactor <= 0 || r.HighFreqFactor <= r.LowFreqFactor || r.OriginalMaxPositionEmbeddings <= 0 {
			return fmt.Errorf("rope_scaling of type llama3 has factor %v, low_freq_factor %v, high_freq_factor %v, original_max_position_embeddings %d; want positive numbers and high_freq_factor above low_freq_factor",
				r.Factor, r.LowFreqFactor, r.HighFreqFactor, r.OriginalMaxPositionEmbeddings)
		}
	default:
		return &UnsupportedError{Field: "rope_type", Value: r.kind(), Supported: "default, linear, llama3"}
	}
	return nil
}

// inverse returns the frequencies [headDim/2] after scaling; factors, if given, divide them one by one.
func (r *RopeScaling) inverse(theta float64, headDim int, factors []float32) []float32 {
	inv := nn.InverseFrequencies(theta, headDim)
	for i := range factors {
		inv[i] /= factors[i]
	}
	switch r.kind() {
	case "linear":
		for i := range inv {
			inv[i] /= float32(r.Factor)
		}
	case "llama3":
		for i, f := range inv {
			inv[i] = r.llama3(f)
		}
	}
	return inv
}

// llama3 stretches low frequencies by Factor, leaves high ones, and blends between (arXiv:2407.21783; transformers'
// modeling_rope_utils, whose float32 arithmetic it follows).
func (r *RopeScaling) llama3(f float32) float32 {
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
