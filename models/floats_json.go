package models

import (
	"encoding/json"
	"strconv"
	"strings"
)

// decimal is a number that JSON shows to be no integer, "30.0": transformers 5 checks the types of a config's fields.
type decimal float64

func (d decimal) MarshalJSON() ([]byte, error) {
	text, err := json.Marshal(float64(d))
	if err == nil && !strings.ContainsAny(string(text), ".e") {
		text = append(text, ".0"...)
	}
	return text, err
}

// decimals makes numbers of decoded JSON decimals, those of lists too.
func decimals(v any) any {
	switch v := v.(type) {
	case float64:
		return decimal(v)
	case []any:
		for i := range v {
			v[i] = decimals(v[i])
		}
	}
	return v
}

// floatFields are fields of config.json that have to be decimals.
var floatFields = []string{
	"rms_norm_eps", "rope_theta", "rope_local_base_freq", "attn_logit_softcapping", "final_logit_softcapping", "partial_rotary_factor",
}

// MarshalJSON writes all numbers but lengths as decimals.
func (r RopeScaling) MarshalJSON() ([]byte, error) {
	type plain RopeScaling // without this method
	text, err := json.Marshal(plain(r))
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, err
	}
	for name, v := range fields {
		if name == "original_max_position_embeddings" {
			fields[name] = json.RawMessage(strconv.Itoa(r.OriginalMaxPositionEmbeddings))
			continue
		}
		fields[name] = decimals(v)
	}
	return json.Marshal(fields)
}
