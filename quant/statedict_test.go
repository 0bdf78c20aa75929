package quant

import (
	"bytes"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
)

func TestStateDictEqualsBitsandbytes(t *testing.T) {
	const name = "model.layers.0.self_attn.q_proj.weight"
	for _, c := range readFixtures(t).StateDicts {
		packed, state, err := Quantize4BitRaw(c.input(t), c.dtype(), c.Shape, c.QuantType, 0, c.DoubleQuant)
		if err != nil {
			t.Fatal(err)
		}
		tensors, err := StateDict(name, packed, state, c.Storage)
		if err != nil {
			t.Fatal(err)
		}
		if len(tensors) != len(c.Tensors) {
			t.Errorf("seed %d: %d tensors, want %d", c.Seed, len(tensors), len(c.Tensors))
		}
		for _, got := range tensors {
			want, ok := c.Tensors[strings.TrimPrefix(got.Name, name)]
			if !ok || got.DType != want.DType || !slices.Equal(got.Shape, want.Shape) || !bytes.Equal(got.Data, want.Data) {
				t.Errorf("seed %d: %s is %s %v, want %s %v, data equal: %v", c.Seed, got.Name, got.DType, got.Shape,
					want.DType, want.Shape, bytes.Equal(got.Data, want.Data))
			}
			if strings.Contains(got.Name, statePrefix) && string(got.Data) != string(want.Data) {
				t.Errorf("state is %s, want %s", got.Data, want.Data)
			}
		}
	}
}

// finder looks keys up in tensors.
func finder(tensors []Tensor) func(string) (Tensor, bool, error) {
	return func(key string) (Tensor, bool, error) {
		i := slices.IndexFunc(tensors, func(t Tensor) bool { return t.Name == key })
		if i < 0 {
			return Tensor{}, false, nil
		}
		return tensors[i], true, nil
	}
}

func TestStateDictReadsBackBitForBit(t *testing.T) {
	for _, c := range readFixtures(t).StateDicts {
		var tensors []Tensor
		for suffix, f := range c.Tensors {
			tensors = append(tensors, Tensor{"w" + suffix, f.DType, f.Shape, f.Data})
		}
		packed, state, err := FromStateDict("w", finder(tensors))
		if err != nil {
			t.Fatal(err)
		}
		wantPacked, want, err := Quantize4BitRaw(c.input(t), c.dtype(), c.Shape, c.QuantType, 0, c.DoubleQuant)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(packed, wantPacked) || !slices.Equal(state.Absmax, want.Absmax) || state.DType != want.DType || !slices.Equal(state.Shape, want.Shape) {
			t.Errorf("seed %d: read back differently", c.Seed)
		}
		if c.DoubleQuant && (*state.Nested).Offset != want.Nested.Offset {
			t.Errorf("seed %d: offset %v, want %v", c.Seed, state.Nested.Offset, want.Nested.Offset)
		}
	}
}

func TestFromStateDictDecodesWithTheFilesNumbers(t *testing.T) {
	packed, state, err := Quantize4Bit(generate("normal", 1, 64*300, 0.02), NF4, 64, true)
	if err != nil {
		t.Fatal(err)
	}
	for i := range state.Nested.Code { // numbers that differ by an ulp, as another platform's may
		state.Nested.Code[i] = math.Nextafter32(state.Nested.Code[i], 2)
	}
	tensors, err := StateDict("w", packed, state, "")
	if err != nil {
		t.Fatal(err)
	}
	_, got, err := FromStateDict("w", finder(tensors))
	if err != nil {
		t.Fatal(err)
	}
	want := state.Nested.decode()
	if !slices.Equal(got.Absmax, want) || slices.Equal(got.Absmax, state.Absmax) {
		t.Error("absmax are not decoded with the numbers of the state dict")
	}
	p, err := NewPacked(packed, got)
	if err != nil {
		t.Fatal(err)
	}
	if p.NestedBlocksize != 0 || !slices.Equal(p.decodedAbsmax(), want) {
		t.Error("the packed weight does not keep the scales decoded")
	}
}

func TestFromStateDictNamesTheKey(t *testing.T) {
	packed, state, err := Quantize4Bit(generate("normal", 1, 64*300, 0.02), NF4, 64, true)
	if err != nil {
		t.Fatal(err)
	}
	good, err := StateDict("w", packed, state, "")
	if err != nil {
		t.Fatal(err)
	}
	stateKey := StateKey("w", NF4)
	replace := func(old, new string) func(*Tensor) {
		return func(t *Tensor) { t.Data = []byte(strings.Replace(string(t.Data), old, new, 1)) }
	}
	cut := func(t *Tensor) { t.Data = t.Data[:len(t.Data)-3] }
	for name, c := range map[string]struct {
		key    string
		change func(*Tensor) // nil: remove the tensor
		want   string
	}{
		"no state":        {stateKey, nil, "w is no 4-bit weight"},
		"no absmax":       {"w.absmax", nil, "w.absmax is missing"},
		"no bytes":        {"w", nil, "w is missing"},
		"no nested":       {"w.nested_absmax", nil, "w.nested_absmax is missing"},
		"no nested map":   {"w.nested_quant_map", nil, "w.nested_quant_map is missing"},
		"short bytes":     {"w", cut, "w: 9597 packed bytes"},
		"short absmax":    {"w.absmax", cut, "297"},
		"short map":       {"w.quant_map", func(t *Tensor) { t.Data = t.Data[:60] }, "w.quant_map is"},
		"absmax dtype":    {"w.absmax", func(t *Tensor) { t.DType = "F16" }, `w.absmax has dtype "F16"`},
		"bad json":        {stateKey, cut, stateKey + " holds no quantization state"},
		"other type":      {stateKey, replace("nf4", "fp4"), `says quant_type "fp4"`},
		"bad blocksize":   {stateKey, replace(`"blocksize": 64`, `"blocksize": 48`), "blocksize 48"},
		"bad shape":       {stateKey, replace("[19200]", "[-1]"), "shape [-1]"},
		"bad dtype":       {stateKey, replace("float32", "int8"), `dtype "int8"`},
		"no offset":       {stateKey, replace("nested_offset", "offset"), "nested_offset"},
		"nested size 0":   {stateKey, replace(`"nested_blocksize": 256`, `"nested_blocksize": 0`), "nested blocksize 0"},
		"other quant map": {"w.quant_map", func(t *Tensor) { t.Data = slices.Repeat([]byte{0}, 64) }, "w.quant_map is"},
	} {
		var tensors []Tensor
		for _, t := range good {
			if t.Name == c.key {
				if c.change == nil {
					continue
				}
				c.change(&t)
			}
			tensors = append(tensors, t)
		}
		if _, _, err := FromStateDict("w", finder(tensors)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

func TestStateDictRefusesStorageThatDoesNotFit(t *testing.T) {
	packed, state, err := Quantize4Bit(make([]float32, 63), NF4, 64, false) // 32 bytes
	if err != nil {
		t.Fatal(err)
	}
	for _, storage := range slices.Sorted(maps.Keys(storageDTypes)) {
		if _, err := StateDict("w", packed, state, storage); err != nil {
			t.Errorf("%q: %v", storage, err)
		}
	}
	if _, err := StateDict("w", packed, state, "int4"); err == nil {
		t.Error("storage int4 is accepted")
	}
	state.Shape, packed = []int{61}, packed[:31]
	if _, err := StateDict("w", packed, state, "bfloat16"); err == nil || !strings.Contains(err.Error(), "31 packed bytes") {
		t.Errorf("31 bytes as bfloat16: error %v", err)
	}
	state.DType = dtypes.Int8
	if _, err := StateDict("w", packed, state, ""); err == nil || !strings.Contains(err.Error(), "Int8") {
		t.Errorf("dtype Int8: error %v", err)
	}
}

func TestNumbersPrintAsPythonDoes(t *testing.T) {
	for x, want := range map[float64]string{
		6: "6.0", 0: "0.0", 0.0470: "0.047", float64(float32(0.1)): "0.10000000149011612", 1e-5: "1e-05", 1.5e-7: "1.5e-07",
		1e-4: "0.0001", 1e15: "1000000000000000.0", 1e16: "1e+16", -2.5: "-2.5",
	} {
		if got := pyFloat(x).String(); got != want {
			t.Errorf("%g prints as %s, want %s", x, got, want)
		}
	}
}
