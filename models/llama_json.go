package models

import (
	"encoding/json"
)

// MarshalJSON writes RoPE's numbers where every transformers finds them: rope_theta and rope_scaling for versions up to
// 4, rope_parameters for 5.
func (c *LlamaConfig) MarshalJSON() ([]byte, error) {
	type plain LlamaConfig // without this method
	out := plain(*c)
	r := c.decoder().rope()
	out.Type, out.RopeTheta, out.RopeScaling, out.RopeParameters = c.ModelType(), r.RopeTheta, nil, &r
	if r.RopeType != "default" {
		scaling := r
		scaling.RopeTheta = 0 // it has its own field
		out.RopeScaling = &scaling
	}
	return json.Marshal(out)
}
