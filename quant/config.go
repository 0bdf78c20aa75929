package quant

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/dlclark/regexp2"
	"github.com/gomlx/compute/dtypes"
)

// BitsAndBytesConfig says how a model's linears are quantized on loading. Fields, JSON and defaults are those of
// transformers' BitsAndBytesConfig, the "quantization_config" of config.json; the zero value quantizes nothing.
//
// LoadIn8Bit is LLM.int8() with its weights alone quantized.
//
// Beware of two of transformers' defaults, which are kept: with LoadIn4Bit alone the type is FP4, not NF4, and products
// are computed in float32. QLoRA is
//
//	BitsAndBytesConfig{LoadIn4Bit: true, BNB4BitQuantType: NF4, BNB4BitUseDoubleQuant: true, BNB4BitComputeDType: "bfloat16"}
//
// transformers has no field for the blocksize: it is always [DefaultBlocksize].
type BitsAndBytesConfig struct {
	LoadIn4Bit bool // linears become 4-bit
	// LoadIn8Bit makes linears int8, as a format of weights only: see [Int8Weight]. The BNB4Bit fields do not count.
	LoadIn8Bit bool

	BNB4BitQuantType      QuantType // "": FP4
	BNB4BitUseDoubleQuant bool      // quantize the block scales too: 4.127 bits a weight instead of 4.5
	BNB4BitComputeDType   string    // dtype of products: "float32", "bfloat16", "float16"; "": float32
	// BNB4BitQuantStorage is the dtype under which the packed bytes are stored in files: "uint8", "int8", "float16",
	// "bfloat16", "float32", "float64"; "": uint8. The bytes are the same.
	BNB4BitQuantStorage string

	// LLMInt8SkipModules are the modules to keep unquantized, for 4-bit too; see Skips. Nil, not empty, means
	// transformers' own choice, the output embedding.
	LLMInt8SkipModules []string

	// LLMInt8Threshold is the input magnitude from which bitsandbytes keeps a column in float16; nil: 6.0. It is kept for
	// the file: inputs are not quantized here.
	LLMInt8Threshold *float64
	// LLMInt8EnableFP32CPUOffload lets transformers leave modules on the CPU. It is kept for the file: nothing is
	// offloaded here.
	LLMInt8EnableFP32CPUOffload bool
	// LLMInt8HasFP16Weight keeps float16 weights and quantizes them anew for each product, to train them. With LoadIn8Bit
	// it is refused: quantized weights are frozen here.
	LLMInt8HasFP16Weight bool
}

// outputEmbedding is the module that transformers leaves unquantized unless told otherwise.
const outputEmbedding = "lm_head"

var (
	computeDTypes = map[string]dtypes.DType{"": dtypes.Float32, "float32": dtypes.Float32, "bfloat16": dtypes.BFloat16, "float16": dtypes.Float16}
	storageDTypes = map[string]storage{"": {"U8", 1}, "uint8": {"U8", 1}, "int8": {"I8", 1}, "float16": {"F16", 2},
		"bfloat16": {"BF16", 2}, "float32": {"F32", 4}, "float64": {"F64", 8}}
)

// storage is a dtype by its safetensors name, and its size in bytes.
type storage struct {
	name string
	size int
}

// Validate reports the first field with a value that transformers or Loris does not accept.
func (c *BitsAndBytesConfig) Validate() error {
	switch {
	case c.LoadIn4Bit && c.LoadIn8Bit:
		return fmt.Errorf("load_in_4bit and load_in_8bit are both true; only one can be used at a time")
	case c.LoadIn8Bit && c.LLMInt8HasFP16Weight:
		return fmt.Errorf("llm_int8_has_fp16_weight is true with load_in_8bit: quantized weights are not trained; leave it out, or load without quantization")
	}
	if _, err := c.QuantType().book(); err != nil {
		return fmt.Errorf("bnb_4bit_quant_type: %w", err)
	}
	if _, ok := computeDTypes[c.BNB4BitComputeDType]; !ok {
		return fmt.Errorf(`bnb_4bit_compute_dtype %q: use "float32", "bfloat16" or "float16"`, c.BNB4BitComputeDType)
	}
	if _, ok := storageDTypes[c.BNB4BitQuantStorage]; !ok {
		return fmt.Errorf(`bnb_4bit_quant_storage %q: use "uint8", "int8", "float16", "bfloat16", "float32" or "float64"`, c.BNB4BitQuantStorage)
	}
	if t := c.LLMInt8Threshold; t != nil && !(*t >= 0 && !math.IsInf(*t, 0)) {
		return fmt.Errorf("llm_int8_threshold %v: must be a finite number, 0 or more", *t)
	}
	for i, pattern := range c.LLMInt8SkipModules {
		if pattern == "" {
			return fmt.Errorf("llm_int8_skip_modules[%d] is empty, which would match every module; name the module or leave it out", i)
		}
		if _, err := skipPattern(pattern); err != nil {
			return fmt.Errorf("llm_int8_skip_modules[%d] %q is no regular expression: %w", i, pattern, err)
		}
	}
	return nil
}

// QuantType is BNB4BitQuantType with the default filled in.
func (c *BitsAndBytesConfig) QuantType() QuantType {
	if c.BNB4BitQuantType == "" {
		return FP4
	}
	return c.BNB4BitQuantType
}

// ComputeDType is BNB4BitComputeDType with the default filled in; InvalidDType for a name that Validate refuses.
func (c *BitsAndBytesConfig) ComputeDType() dtypes.DType { return computeDTypes[c.BNB4BitComputeDType] }

// Skips reports whether the module of this dotted path ("model.layers.0.self_attn.q_proj") is to stay unquantized:
// whether some entry of LLMInt8SkipModules, as a regular expression, matches the path from its start up to a dot or its
// end, or is the path's suffix. (That is transformers 5's should_convert_module.) An explicit list replaces the default,
// ["lm_head"]: an empty one quantizes the output embedding too, unless its weight is tied to the input embedding.
func (c *BitsAndBytesConfig) Skips(modulePath string) bool {
	patterns := c.LLMInt8SkipModules
	if patterns == nil {
		patterns = []string{outputEmbedding}
	}
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		if strings.HasSuffix(modulePath, pattern) {
			return true
		}
		re, err := skipPattern(pattern)
		if err != nil {
			return false
		}
		matched, err := re.MatchString(modulePath)
		return err == nil && matched
	})
}

// skipPattern matches what Python's re.match finds at the start of a path, if it ends at a module boundary. The
// boundary looks behind, which Go's own regexp cannot.
func skipPattern(pattern string) (*regexp2.Regexp, error) {
	return regexp2.Compile(`\A(?:`+pattern+`)(?:(?<=\.)|(?=\.|$))`, regexp2.None)
}

// configJSON is the form in config.json. load_in_* exist twice there; the plain ones are read.
type configJSON struct {
	LoadIn4BitToo               bool      `json:"_load_in_4bit"`
	LoadIn8BitToo               bool      `json:"_load_in_8bit"`
	BNB4BitComputeDType         string    `json:"bnb_4bit_compute_dtype"`
	BNB4BitQuantStorage         string    `json:"bnb_4bit_quant_storage"`
	BNB4BitQuantType            QuantType `json:"bnb_4bit_quant_type"`
	BNB4BitUseDoubleQuant       bool      `json:"bnb_4bit_use_double_quant"`
	LLMInt8EnableFP32CPUOffload bool      `json:"llm_int8_enable_fp32_cpu_offload"`
	LLMInt8HasFP16Weight        bool      `json:"llm_int8_has_fp16_weight"`
	LLMInt8SkipModules          []string  `json:"llm_int8_skip_modules"`
	LLMInt8Threshold            *pyFloat  `json:"llm_int8_threshold"`
	LoadIn4Bit                  bool      `json:"load_in_4bit"`
	LoadIn8Bit                  bool      `json:"load_in_8bit"`
	QuantMethod                 string    `json:"quant_method"`
}

const quantMethod = "bitsandbytes"

// MarshalJSON writes the object that transformers writes, keys sorted and defaults filled in.
func (c BitsAndBytesConfig) MarshalJSON() ([]byte, error) {
	out := configJSON{
		LoadIn4BitToo: c.LoadIn4Bit, LoadIn4Bit: c.LoadIn4Bit,
		LoadIn8BitToo: c.LoadIn8Bit, LoadIn8Bit: c.LoadIn8Bit,
		BNB4BitComputeDType: c.BNB4BitComputeDType, BNB4BitQuantStorage: c.BNB4BitQuantStorage,
		BNB4BitQuantType: c.QuantType(), BNB4BitUseDoubleQuant: c.BNB4BitUseDoubleQuant,
		LLMInt8EnableFP32CPUOffload: c.LLMInt8EnableFP32CPUOffload, LLMInt8HasFP16Weight: c.LLMInt8HasFP16Weight,
		LLMInt8SkipModules: c.LLMInt8SkipModules,
		QuantMethod:        quantMethod,
	}
	threshold := pyFloat(6)
	if c.LLMInt8Threshold != nil {
		threshold = pyFloat(*c.LLMInt8Threshold)
	}
	out.LLMInt8Threshold = &threshold
	if out.BNB4BitComputeDType == "" {
		out.BNB4BitComputeDType = "float32"
	}
	if out.BNB4BitQuantStorage == "" {
		out.BNB4BitQuantStorage = "uint8"
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads the object and validates it. Another quant_method is an error; unknown keys are passed over, as
// transformers does.
func (c *BitsAndBytesConfig) UnmarshalJSON(data []byte) error {
	var in configJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return fmt.Errorf("quantization_config: %w", err)
	}
	if in.QuantMethod != "" && in.QuantMethod != quantMethod {
		return fmt.Errorf("quantization_config: quant_method %q is not supported; only %q is", in.QuantMethod, quantMethod)
	}
	*c = BitsAndBytesConfig{
		LoadIn4Bit: in.LoadIn4Bit, LoadIn8Bit: in.LoadIn8Bit,
		BNB4BitQuantType: in.BNB4BitQuantType, BNB4BitUseDoubleQuant: in.BNB4BitUseDoubleQuant,
		BNB4BitComputeDType: in.BNB4BitComputeDType, BNB4BitQuantStorage: in.BNB4BitQuantStorage,
		LLMInt8SkipModules: in.LLMInt8SkipModules, LLMInt8Threshold: (*float64)(in.LLMInt8Threshold),
		LLMInt8EnableFP32CPUOffload: in.LLMInt8EnableFP32CPUOffload, LLMInt8HasFP16Weight: in.LLMInt8HasFP16Weight,
	}
	if err := c.Validate(); err != nil {
		return fmt.Errorf("quantization_config: %w", err)
	}
	return nil
}

// pyFloat is a number that prints as Python's repr does. transformers refuses 6 for 6.0.
type pyFloat float64

func (f pyFloat) String() string {
	x := float64(f)
	if a := math.Abs(x); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(x, 'e', -1, 64)
	}
	s := strconv.FormatFloat(x, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

func (f pyFloat) MarshalJSON() ([]byte, error) { return []byte(f.String()), nil }
