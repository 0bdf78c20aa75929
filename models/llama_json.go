package models

import (
	"encoding/json"
	"errors"
	"math"
)

// MarshalJSON writes RoPE's numbers where every transformers finds them: rope_theta and rope_scaling for versions up to
// 4, rope_parameters for 5. A model whose frequencies no rope_type describes, as a GGUF file may have them, is an error.
func (c *LlamaConfig) MarshalJSON() ([]byte, error) {
	type plain LlamaConfig // without this method
	out := plain(*c)
	r := c.rope()
	if c.ropeFactors != nil {
		if r = llama3Of(c.ropeFactors, c.theta(), c.dims().shape.HeadDim); r == nil {
			return nil, errors.New("the frequencies of RoPE, which come from a GGUF file, are of no rope_type that config.json can name; keep the GGUF file, and train an adapter")
		}
	}
	out.Type, out.RopeTheta, out.RopeScaling = c.ModelType(), c.theta(), nil
	scaling := RopeScaling{}
	if r != nil {
		scaling = *r
	}
	scaling.RopeType, scaling.LegacyType, scaling.RopeTheta = r.kind(), "", 0
	if r.kind() != "default" {
		out.RopeScaling = &scaling
	}
	parameters := scaling
	parameters.RopeTheta = c.theta()
	out.RopeParameters = &parameters
	return json.Marshal(out)
}

// llama3Of returns the scaling of type llama3 that gives these divisors of the frequencies, or nil: llama.cpp stores the
// divisors in place of the four numbers, of which all of Meta's models share three.
func llama3Of(factors []float32, theta float64, headDim int) *RopeScaling {
	r := &RopeScaling{RopeType: "llama3", LowFreqFactor: 1, HighFreqFactor: 4, OriginalMaxPositionEmbeddings: 8192}
	for _, f := range factors {
		r.Factor = max(r.Factor, float64(f))
	}
	plain, scaled := (*RopeScaling)(nil).inverse(theta, headDim, nil), r.inverse(theta, headDim, nil)
	for i, f := range factors {
		if want := float64(plain[i]) / float64(scaled[i]); !(math.Abs(float64(f)-want) <= 1e-5*want) {
			return nil
		}
	}
	return r
}
