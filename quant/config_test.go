package quant

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
)

func TestSkipsDecidesAsTransformersDoes(t *testing.T) {
	for _, f := range readFixtures(t).Skips {
		c := BitsAndBytesConfig{LoadIn4Bit: true, LLMInt8SkipModules: f.Patterns}
		if err := c.Validate(); err != nil {
			t.Errorf("%q: %v", f.Patterns, err)
		}
		for module, convert := range f.Convert {
			if c.Skips(module) == convert {
				t.Errorf("%q: Skips(%q) is %v", f.Patterns, module, convert)
			}
		}
	}
}

func TestNoSkipListKeepsTheOutputEmbedding(t *testing.T) {
	for module, want := range map[string]bool{"lm_head": true, "model.layers.0.mlp.up_proj": false} {
		if got := (&BitsAndBytesConfig{}).Skips(module); got != want {
			t.Errorf("Skips(%q) is %v", module, got)
		}
	}
	if (&BitsAndBytesConfig{LLMInt8SkipModules: []string{}}).Skips("lm_head") {
		t.Error("an empty list skips lm_head")
	}
}

func TestConfigReadsAndWritesTransformersJSON(t *testing.T) {
	want := map[string]BitsAndBytesConfig{
		"default": {},
		"qlora": {LoadIn4Bit: true, BNB4BitQuantType: NF4, BNB4BitUseDoubleQuant: true, BNB4BitComputeDType: "bfloat16",
			LLMInt8SkipModules: []string{"lm_head", "model.norm"}},
		"int8": {LoadIn8Bit: true},
	}
	for name, text := range readFixtures(t).Config {
		var read BitsAndBytesConfig
		if err := json.Unmarshal(text, &read); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for what, c := range map[string]BitsAndBytesConfig{"the value": want[name], "what was read": read} {
			got, err := json.Marshal(c)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			var a, b map[string]any
			if json.Unmarshal(got, &a) != nil || json.Unmarshal(text, &b) != nil || !reflect.DeepEqual(a, b) {
				t.Errorf("%s: %s is written as %s, want %s", name, what, got, text)
			}
			if !strings.Contains(string(got), `"llm_int8_threshold":6.0`) { // transformers refuses an integer
				t.Errorf("%s: the threshold is not written as a float: %s", name, got)
			}
		}
	}
}

func TestDefaultsAreTransformers(t *testing.T) {
	c := &BitsAndBytesConfig{LoadIn4Bit: true}
	if c.QuantType() != FP4 || c.ComputeDType() != dtypes.Float32 {
		t.Errorf("defaults are %s and %s, want fp4 and float32", c.QuantType(), c.ComputeDType())
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}

func TestValidateNamesTheField(t *testing.T) {
	nan := math.NaN()
	for want, c := range map[string]BitsAndBytesConfig{
		"both true":                       {LoadIn4Bit: true, LoadIn8Bit: true},
		"llm_int8_has_fp16_weight":        {LoadIn8Bit: true, LLMInt8HasFP16Weight: true},
		`bnb_4bit_quant_type: quant type`: {BNB4BitQuantType: "int4"},
		`bnb_4bit_compute_dtype "int8"`:   {BNB4BitComputeDType: "int8"},
		`bnb_4bit_quant_storage "bool"`:   {BNB4BitQuantStorage: "bool"},
		"llm_int8_threshold NaN":          {LLMInt8Threshold: &nan},
		"llm_int8_skip_modules[1] is emp": {LLMInt8SkipModules: []string{"lm_head", ""}},
		`llm_int8_skip_modules[0] "a("`:   {LLMInt8SkipModules: []string{"a("}},
	} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want one with %q", c, err, want)
		}
	}
}

func TestUnmarshalRefusesOtherMethods(t *testing.T) {
	for text, want := range map[string]string{
		`{"quant_method": "gptq", "bits": 4}`:                                `quant_method "gptq"`,
		`{"load_in_8bit": true, "llm_int8_has_fp16_weight": true}`:           "load_in_8bit",
		`{"load_in_4bit": "yes"}`:                                            "load_in_4bit",
		`{"load_in_4bit": true, "bnb_4bit_quant_type": "nf5", "other": [1]}`: `"nf5"`,
	} {
		var c BitsAndBytesConfig
		if err := json.Unmarshal([]byte(text), &c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", text, err, want)
		}
	}
}
