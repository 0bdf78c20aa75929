package quant

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
)

func int8Bytes(x []int8) []byte {
	out := make([]byte, len(x))
	for i, v := range x {
		out[i] = byte(v)
	}
	return out
}

func TestInt8BytesEqualBitsandbytes(t *testing.T) {
	f := readFixtures(t)
	for _, c := range f.Int8 {
		name := fmt.Sprintf("%s %v %s", c.Kind, c.Shape, c.DType)
		w, err := QuantizeInt8Raw(c.input(t), c.dtype(), c.Shape)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := sum(int8Bytes(w.CB)); got != c.PackedSHA {
			t.Errorf("%s: the codes differ", name)
		}
		if got := sum(floatBytes(w.SCB)); got != c.AbsmaxSHA {
			t.Errorf("%s: SCB differ", name)
		}
		for _, dtype := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16, dtypes.Float16} {
			values, err := w.Dequantize(dtype)
			if err != nil {
				t.Fatal(err)
			}
			if sum(narrow(values, dtype)) != c.ValuesSHA[strings.ToLower(dtype.String())] {
				t.Errorf("%s: the values decoded to %s differ", name, dtype)
			}
		}
		if c.Tensors == nil {
			continue
		}
		got, err := w.StateDict("P.weight")
		if err != nil || len(got) != len(c.Tensors) {
			t.Fatalf("%s: %d tensors, error %v, want %d", name, len(got), err, len(c.Tensors))
		}
		for _, g := range got {
			want := c.Tensors[strings.TrimPrefix(g.Name, "P.")]
			if g.DType != want.DType || !slices.Equal(g.Shape, want.Shape) || !bytes.Equal(g.Data, want.Data) {
				t.Errorf("%s: %s is %s %v, want %s %v, or the bytes differ", name, g.Name, g.DType, g.Shape, want.DType, want.Shape)
			}
		}
	}
}

func int8Weight(t testing.TB, seed uint64, out, in int) *Int8Weight {
	t.Helper()
	w, err := QuantizeInt8(generate("normal", seed, out*in, 0.05), []int{out, in})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestInt8ErrorIsHalfAStepAtMost(t *testing.T) {
	x := generate("outliers", 3, 100*77, 0.05)
	w, err := QuantizeInt8(x, []int{100, 77})
	if err != nil {
		t.Fatal(err)
	}
	values, err := w.Dequantize(dtypes.Float32)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range x {
		step := float64(w.SCB[i/77]) / 127
		if e := math.Abs(float64(v) - float64(values[i])); e > step/2+float64(w.SCB[i/77])*0x1p-11 {
			t.Fatalf("value %d is %v, decoded %v, with steps of %v", i, v, values[i], step)
		}
	}
}

func TestInt8StateDictsComeBack(t *testing.T) {
	w := int8Weight(t, 4, 5, 9)
	dict, err := w.StateDict("m.q_proj.weight")
	if err != nil {
		t.Fatal(err)
	}
	byKey := map[string]Tensor{}
	for _, x := range dict {
		byKey[x.Name] = x
	}
	find := func(key string) (Tensor, bool, error) { x, ok := byKey[key]; return x, ok, nil }
	back, err := Int8FromStateDict("m.q_proj.weight", find)
	if err != nil || !slices.Equal(back.CB, w.CB) || !slices.Equal(back.SCB, w.SCB) || !slices.Equal(back.Shape, w.Shape) {
		t.Errorf("error %v or another weight", err)
	}
	delete(byKey, "m.q_proj.weight_format") // checkpoints of early versions have none
	if _, err := Int8FromStateDict("m.q_proj.weight", find); err != nil {
		t.Error(err)
	}
	for want, spoil := range map[string]func(){
		"m.q_proj.weight_format is [2]":                func() { byKey["m.q_proj.weight_format"] = Tensor{DType: "U8", Data: []byte{2}} },
		"m.q_proj.SCB is missing":                      func() { delete(byKey, "m.q_proj.SCB") },
		`m.q_proj.weight has dtype "BF16", want I8`:    func() { byKey["m.q_proj.weight"] = Tensor{DType: "BF16", Shape: []int{5, 9}} },
		"45 CB and 4 SCB for an int8 weight of shape ": func() { byKey["m.q_proj.SCB"] = f32Tensor("", w.SCB[:4]) },
		"m.q_proj.SCB has 7 bytes":                     func() { byKey["m.q_proj.SCB"] = Tensor{DType: "F32", Data: make([]byte, 7)} },
	} {
		for _, x := range dict {
			byKey[x.Name] = x
		}
		spoil()
		if _, err := Int8FromStateDict("m.q_proj.weight", find); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestInt8RefusesWhatFloat16CannotHold(t *testing.T) {
	x := make([]float32, 30*40)
	x[1000], x[777] = float32(math.Inf(-1)), 65520
	if _, err := QuantizeInt8(x, []int{30, 40}); err == nil || !strings.Contains(err.Error(), "value 777 of 1200 (shape [30 40]) is 65520") {
		t.Errorf("error %v", err)
	}
	x[777] = 65519
	if _, err := QuantizeInt8(x, []int{30, 40}); err == nil || !strings.Contains(err.Error(), "value 1000 of 1200 (shape [30 40]) is -Inf") {
		t.Errorf("error %v", err)
	}
	for want, shape := range map[string][]int{"want 6": {2, 3}, "matrices": {1200}, "must be positive": {0, 4}} {
		if _, err := QuantizeInt8(x, shape); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("shape %v: error %v", shape, err)
		}
	}
	if _, err := (&Int8Weight{Shape: []int{2, 2}, CB: make([]int8, 3)}).Dequantize(dtypes.Float32); err == nil {
		t.Error("a weight with too few codes was decoded")
	}
	if _, err := (*Int8Weight)(nil).Packed(); err == nil {
		t.Error("no weight was packed")
	}
}

func TestInt8RowsStackToTheSameBits(t *testing.T) {
	var rows []*Packed
	var want []float32
	for i, out := range []int{7, 3, 1} {
		p, err := int8Weight(t, uint64(i), out, 33).Packed()
		if err != nil {
			t.Fatal(err)
		}
		rows, want = append(rows, p), append(want, decode(t, p, dtypes.BFloat16)...)
	}
	p, err := Concat(rows...)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.Shape, []int{11, 33}) || p.Bytes() != 11*33+4*11 || !slices.Equal(decode(t, p, dtypes.BFloat16), want) {
		t.Errorf("shape %v, %d bytes, or the values differ", p.Shape, p.Bytes())
	}
	for _, other := range []*Packed{pack(t, 1, []int{4, 33}, 1, NF4, 64, false), pack(t, 1, []int{4, 64}, 1, NF4, 64, false)} {
		if _, err := Concat(rows[0], other); err == nil {
			t.Error("an int8 and a 4-bit weight were stacked")
		}
	}
}

func TestGraphDecodesInt8ToTheHostsBits(t *testing.T) {
	for _, d := range devices(t) {
		for i, shape := range [][]int{{64, 64}, {33, 65}, {1, 1}, {7, 300}} {
			p, err := int8Weight(t, uint64(i), shape[0], shape[1]).Packed()
			if err != nil {
				t.Fatal(err)
			}
			for _, dtype := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16, dtypes.Float16} {
				got, err := call(d, nodeOf(p.Layout, dtype), upload(t, d, p)...)
				if err != nil {
					t.Fatal(err)
				}
				if at := sameBits(got, decode(t, p, dtype)); at >= 0 {
					t.Errorf("%s %v %s: value %d differs", d.Kind, shape, dtype, at)
				}
			}
		}
	}
}
