package models

import (
	"encoding/json"
	"errors"
	"math"

	"github.com/loris-ml/loris/internal/nn"
)

// MarshalJSON writes RoPE's numbers where every transformers finds them: rope_theta and rope_scaling for versions up to
// 4, rope_parameters for 5. A model whose frequencies no rope_type describes, as a GGUF file may have them, is an error.
func (c *LlamaConfig) MarshalJSON() ([]byte, error) {
	type plain LlamaConfig // without this method
	out := plain(*c)
	r := c.decoder().rope()
	if c.ropeFactors != nil {
		scaling := llama3Of(c.ropeFactors, r.RopeTheta, c.decoder().headDim())
		if scaling == nil {
			return nil, errors.New("the frequencies of RoPE, which come from a GGUF file, are of no rope_type that config.json can name; keep the GGUF file, and train an adapter")
		}
		scaling.RopeTheta = r.RopeTheta
		r = *scaling
	}
	out.Type, out.RopeTheta, out.RopeScaling, out.RopeParameters = c.ModelType(), r.RopeTheta, nil, &r
	if r.RopeType != "default" {
		scaling := r
		scaling.RopeTheta = 0 // it has its own field
		out.RopeScaling = &scaling
	}
	return json.Marshal(out)
}

// llama3Of returns the scaling of type llama3 that gives these divisors of the frequencies, or nil: llama.cpp stores the
// divisors in place of the four numbers, of which all of Meta's models share three.
func llama3Of(factors []float32, theta float64, headDim int) *RopeScaling {
	r := &RopeScaling{RopeType: "llama3", LowFreqFactor: 1, HighFreqFactor: 4, OriginalMaxPositionEmbeddings: 8192}
	for _, f := range factors {
		r.Factor = max(r.Factor, float64(f))
	}
	plain := nn.InverseFrequencies(theta, headDim)
	for i, f := range factors {
		if want := float64(plain[i]) / float64(r.llama3(plain[i])); !(math.Abs(float64(f)-want) <= 1e-5*want) {
			return nil
		}
	}
	return r
}
