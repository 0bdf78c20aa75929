package quant

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/gomlx/compute/dtypes"
)

// Tensor is one tensor of a checkpoint, by the names of safetensors: DType "U8", "F32", …, Data little-endian.
type Tensor struct {
	Name  string
	DType string
	Shape []int
	Data  []byte
}

// statePrefix begins the last part of the key that marks a 4-bit weight; the quant type follows.
const statePrefix = ".quant_state.bitsandbytes__"

// StateKey is the key whose presence in a checkpoint says that weight ("….q_proj.weight") is quantized to qt.
func StateKey(weight string, qt QuantType) string { return weight + statePrefix + string(qt) }

// stateJSON is the part of a QuantState that bitsandbytes stores as UTF-8 JSON in a uint8 tensor.
type stateJSON struct {
	QuantType       QuantType `json:"quant_type"`
	Blocksize       int       `json:"blocksize"`
	DType           string    `json:"dtype"`
	Shape           []int     `json:"shape"`
	NestedBlocksize int       `json:"nested_blocksize"`
	NestedDType     string    `json:"nested_dtype"`
	NestedOffset    *float64  `json:"nested_offset"`
}

// StateDict returns the tensors that bitsandbytes stores for a 4-bit weight of this name: the bytes, shape
// [(n+1)/2, 1], absmax, quant_map, the state as JSON, and with double quantization nested_absmax and nested_quant_map.
// storage, a BNB4BitQuantStorage, is the dtype under which the bytes go.
func StateDict(weight string, packed []byte, state *QuantState, storage string) ([]Tensor, error) {
	if err := state.check(packed); err != nil {
		return nil, fmt.Errorf("%s: %w", weight, err)
	}
	as, ok := storageDTypes[storage]
	if !ok {
		return nil, fmt.Errorf("%s: bnb_4bit_quant_storage %q is unknown", weight, storage)
	}
	if len(packed)%as.size != 0 {
		return nil, fmt.Errorf("%s: %d packed bytes are no whole number of %s values; use bnb_4bit_quant_storage \"uint8\"", weight, len(packed), as.name)
	}
	values, err := state.QuantType.Values()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", weight, err)
	}
	meta := stateText(state)
	out := []Tensor{
		{weight, as.name, []int{len(packed) / as.size, 1}, packed},
		f32Tensor(weight+".absmax", state.Absmax),
		f32Tensor(weight+".quant_map", values[:]),
	}
	if n := state.Nested; n != nil {
		out[1] = Tensor{weight + ".absmax", "U8", []int{len(n.Codes)}, n.Codes}
		out = append(out, f32Tensor(weight+".nested_absmax", n.Absmax), f32Tensor(weight+".nested_quant_map", n.Code[:]))
	}
	return append(out, Tensor{StateKey(weight, state.QuantType), "U8", []int{len(meta)}, meta}), nil
}

// stateText is the JSON as Python's json.dumps writes it.
func stateText(s *QuantState) []byte {
	shape := strings.Join(strings.Fields(fmt.Sprint(s.Shape)), ", ")
	b := fmt.Appendf(nil, `{"quant_type": "%s", "blocksize": %d, "dtype": "%s", "shape": %s`,
		s.QuantType, s.Blocksize, strings.ToLower(s.DType.String()), shape)
	if n := s.Nested; n != nil {
		b = fmt.Appendf(b, `, "nested_blocksize": %d, "nested_dtype": "float32", "nested_offset": %s`, n.Blocksize, pyFloat(n.Offset))
	}
	return append(b, '}')
}

func f32Tensor(name string, x []float32) Tensor {
	data := make([]byte, 0, 4*len(x))
	for _, v := range x {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
	}
	return Tensor{name, "F32", []int{len(x)}, data}
}

// FromStateDict reads what [StateDict] writes, from a checkpoint of any bitsandbytes: find returns the tensor of a key,
// false if there is none. The bytes may be stored under any dtype, and nested scales are decoded with the numbers that
// the checkpoint brings. What is missing or does not fit is an error that names the key.
func FromStateDict(weight string, find func(key string) (Tensor, bool, error)) (packed []byte, state *QuantState, err error) {
	r := stateReader{weight: weight, find: find}
	meta := r.meta()
	bytes := r.tensor(weight, "")
	absmax := r.tensor(weight+".absmax", "")
	state = &QuantState{QuantType: meta.QuantType, Blocksize: meta.Blocksize, Shape: meta.Shape, DType: computeDTypes[meta.DType]}
	if r.err == nil && (meta.DType == "" || state.DType == dtypes.InvalidDType) {
		r.fail(StateKey(weight, meta.QuantType), "has dtype %q; bitsandbytes has float32, float16 and bfloat16", meta.DType)
	}
	switch absmax.DType {
	case "F32":
		state.Absmax = r.floats(weight+".absmax", absmax)
	case "U8":
		state.Nested = r.nested(meta, absmax.Data)
	default:
		r.fail(weight+".absmax", "has dtype %q, want F32, or U8 with double quantization", absmax.DType)
	}
	r.checkQuantMap(meta.QuantType)
	if r.err != nil {
		return nil, nil, r.err
	}
	if state.Nested != nil {
		if err := state.Nested.check(len(absmax.Data)); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", weight, err)
		}
		state.Absmax = state.Nested.decode()
	}
	if err := state.check(bytes.Data); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", weight, err)
	}
	return bytes.Data, state, nil
}

// stateReader collects the tensors of one weight and keeps the first error.
type stateReader struct {
	weight string
	find   func(key string) (Tensor, bool, error)
	err    error
}

func (r *stateReader) fail(key, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%s %s", key, fmt.Sprintf(format, args...))
	}
}

// tensor returns the tensor of key; dtype, if given, is the one it must have.
func (r *stateReader) tensor(key, dtype string) Tensor {
	if r.err != nil {
		return Tensor{}
	}
	t, ok, err := r.find(key)
	switch {
	case err != nil:
		r.err = fmt.Errorf("%s: %w", key, err)
	case !ok:
		r.fail(key, "is missing, which the quantized weight %s needs", r.weight)
	case dtype != "" && t.DType != dtype:
		r.fail(key, "has dtype %q, want %s", t.DType, dtype)
	}
	return t
}

func (r *stateReader) floats(key string, t Tensor) []float32 {
	if len(t.Data)%4 != 0 {
		r.fail(key, "has %d bytes, no whole number of F32 values", len(t.Data))
		return nil
	}
	x := make([]float32, len(t.Data)/4)
	widenF32(x, t.Data)
	return x
}

// meta finds the JSON under the one quant type that it is stored for.
func (r *stateReader) meta() (m stateJSON) {
	for _, qt := range []QuantType{NF4, FP4} {
		key := StateKey(r.weight, qt)
		t, ok, err := r.find(key)
		if err != nil {
			r.err = fmt.Errorf("%s: %w", key, err)
			return m
		}
		if !ok {
			continue
		}
		if err := json.Unmarshal(t.Data, &m); err != nil {
			r.fail(key, "holds no quantization state: %v", err)
		} else if m.QuantType != qt {
			r.fail(key, "says quant_type %q", m.QuantType)
		}
		return m
	}
	r.fail(r.weight, "is no 4-bit weight: neither %s nor %s is there", StateKey(r.weight, NF4), StateKey(r.weight, FP4))
	return m
}

func (r *stateReader) nested(m stateJSON, codes []byte) *NestedState {
	key := StateKey(r.weight, m.QuantType)
	if m.NestedDType != "float32" || m.NestedOffset == nil {
		r.fail(key, "has nested_dtype %q and nested_offset %v, want float32 and a number for absmax of dtype U8", m.NestedDType, m.NestedOffset)
		return nil
	}
	n := &NestedState{Codes: codes, Blocksize: m.NestedBlocksize, Offset: float32(*m.NestedOffset)}
	n.Absmax = r.floats(r.weight+".nested_absmax", r.tensor(r.weight+".nested_absmax", "F32"))
	numbers := r.floats(r.weight+".nested_quant_map", r.tensor(r.weight+".nested_quant_map", "F32"))
	if copy(n.Code[:], numbers) != len(n.Code) || len(numbers) != len(n.Code) {
		r.fail(r.weight+".nested_quant_map", "has %d numbers, want %d", len(numbers), len(n.Code))
	}
	return n
}

// checkQuantMap refuses other numbers than the type's: bitsandbytes' kernels have them built in, as those here do. Some
// versions wrote FP4's with four decimals.
func (r *stateReader) checkQuantMap(qt QuantType) {
	key := r.weight + ".quant_map"
	got := r.floats(key, r.tensor(key, "F32"))
	want, err := qt.Values()
	if r.err != nil || err != nil {
		return
	}
	for i, v := range want {
		if len(got) != len(want) || !(math.Abs(float64(got[i]-v)) < 1e-4) {
			r.fail(key, "is %v, want the numbers of %s: %v", got, qt, want)
			return
		}
	}
}
