package gguf

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/safetensors"
)

// The fixture's quantized tensors are what gguf-py made of values.safetensors.
func TestEncodeEqualsGGUFPythonBitForBit(t *testing.T) {
	f := openFixture(t)
	values, err := safetensors.Open("testdata/values.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer values.Close()
	for _, name := range []string{"f16.weight", "bf16.weight", "q8_0.weight", "q4_0.weight"} {
		x, err := values.Float32(name)
		if err != nil {
			t.Fatal(err)
		}
		info, _ := f.Tensor(name)
		want, err := f.Read(name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Encode(info.Type, x); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: other bytes (%v)", name, err)
		}
	}
	for _, typ := range []Type{Q8_0, Q4_0} {
		back := []float32{1: 7, 63: 7}
		raw, err := Encode(typ, make([]float32, 64))
		if err == nil {
			err = decode(back, typ, raw)
		}
		if err != nil || slices.ContainsFunc(back, func(v float32) bool { return v != 0 }) {
			t.Errorf("%s of zeros: %v (%v)", typ, back, err)
		}
	}
}

func TestValuesThatATypeCannotHoldAreErrors(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range []struct {
		t    Type
		v    float32
		fits bool
	}{
		{F32, nan, true}, {F32, inf, true}, {F16, 65504, true}, {F16, 65520, false}, {F16, nan, false}, {BF16, 3e38, true}, {BF16, -inf, false},
		{Q8_0, 8e6, true}, {Q8_0, 9e6, false}, {Q4_0, -5e5, true}, {Q4_0, -6e5, false}, {Q4_0, nan, false},
	} {
		values := make([]float32, 32)
		values[3] = c.v
		raw, err := Encode(c.t, values)
		if (err == nil) != c.fits || err != nil && !strings.Contains(err.Error(), "value 3 is") {
			t.Errorf("%s of %v: error %v", c.t, c.v, err)
		}
		if err == nil && c.t != F32 {
			back := make([]float32, 32)
			if err := decode(back, c.t, raw); err != nil || math.IsInf(float64(back[3]), 0) {
				t.Errorf("%s of %v comes back as %v (%v)", c.t, c.v, back[3], err)
			}
		}
	}
	if _, err := Encode(Q4_0, make([]float32, 33)); err == nil {
		t.Error("a part of a block was encoded")
	}
	if _, err := Encode(Q4_K, make([]float32, 256)); err == nil {
		t.Error("Q4_K was encoded")
	}
}

func TestWrittenFilesReadBack(t *testing.T) {
	fixture := openFixture(t)
	var pairs []Pair
	for _, key := range fixture.Metadata().Keys() {
		if v, _ := fixture.Metadata().Value(key); key != "general.alignment" {
			pairs = append(pairs, Pair{key, v})
		}
	}
	pairs = append(pairs, Pair{"u16s", []uint16{7}}, Pair{"i8s", []int8{-7}}, Pair{"i16s", []int16{-7}}, Pair{"u32s", []uint32{7}}, Pair{"u64s", []uint64{7}},
		Pair{"i64s", []int64{-7}}, Pair{"f64s", []float64{0.1}}, Pair{"none", []string{}})
	var tensors []Source
	for _, info := range fixture.Tensors() {
		tensors = append(tensors, Source{info.Name, info.Shape, info.Type, func() ([]byte, error) { return fixture.Read(info.Name) }})
	}
	path := filepath.Join(t.TempDir(), "x.gguf")
	if err := Write(path, pairs, tensors); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range pairs {
		if v, ok := f.Metadata().Value(p.Key); !ok || !reflect.DeepEqual(v, p.Value) {
			t.Errorf("%s: %#v, want %#v", p.Key, v, p.Value)
		}
	}
	for _, want := range fixture.Tensors() {
		got, _ := f.Tensor(want.Name)
		a, err := f.Read(want.Name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := fixture.Read(want.Name)
		if err != nil {
			t.Fatal(err)
		}
		if got.Type != want.Type || !slices.Equal(got.Shape, want.Shape) || !bytes.Equal(a, b) {
			t.Errorf("%s: %+v, want %+v", want.Name, got, want)
		}
	}
}

func TestWrongFilesAreNotWritten(t *testing.T) {
	data := func() ([]byte, error) { return make([]byte, 8), nil }
	for says, c := range map[string]struct {
		pairs   []Pair
		tensors []Source
	}{
		`"k" is given twice`:         {pairs: []Pair{{"k", "a"}, {"k", "b"}}},
		`"k": GGUF has no value`:     {pairs: []Pair{{"k", 7}}},
		`"w" is given twice`:         {tensors: []Source{{"w", []int{2}, F32, data}, {"w", []int{2}, F32, data}}},
		`"w": 8 bytes of data, but`:  {tensors: []Source{{"w", []int{3}, F32, data}}},
		`"w": rows of 16 elements`:   {tensors: []Source{{"w", []int{2, 16}, Q8_0, data}}},
		`"w": 5 dimensions`:          {tensors: []Source{{"w", []int{1, 1, 1, 1, 2}, F32, data}}},
		`"w": the size of unknown t`: {tensors: []Source{{"w", []int{2}, 99, data}}},
	} {
		path := filepath.Join(t.TempDir(), "x.gguf")
		if err := Write(path, c.pairs, c.tensors); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want %q in it", err, says)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s: a file is there", says)
		}
	}
}
