package quant

import (
	"errors"
	"iter"
	"math"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
)

// listed is a model that is the list of its weights.
type listed []Weight

func (l listed) Weights() iter.Seq2[Weight, error] {
	return func(yield func(Weight, error) bool) {
		for _, w := range l {
			if !yield(w, nil) {
				return
			}
		}
	}
}

type broken struct{}

func (broken) Weights() iter.Seq2[Weight, error] {
	return func(yield func(Weight, error) bool) { yield(Weight{}, errors.New("shard 2 is cut off")) }
}

func reported(t *testing.T) listed {
	t.Helper()
	original := func(seed uint64, n int) func() ([]float32, error) {
		return func() ([]float32, error) { return generate("normal", seed, n, 0.05), nil }
	}
	nf4 := func(seed uint64, double bool) *Packed { return pack(t, seed, []int{64, 128}, 0.05, NF4, 64, double) }
	int8 := int8Weight(t, 9, 32, 48)
	p, err := int8.Packed()
	if err != nil {
		t.Fatal(err)
	}
	return listed{
		{Name: "model.embed_tokens.weight", Shape: []int{100, 64}, DType: dtypes.BFloat16},
		{Name: "model.layers.0.q.weight", Shape: []int{64, 128}, Packed: nf4(1, true), Original: original(1, 64*128)},
		{Name: "model.layers.0.k.weight", Shape: []int{64, 128}, Packed: nf4(2, false), Original: original(2, 64*128)},
		{Name: "model.layers.0.norm.weight", Shape: []int{64}, DType: dtypes.BFloat16},
		{Name: "model.layers.1.q.weight", Shape: []int{64, 128}, Packed: nf4(3, true)},
		{Name: "lm_head.weight", Shape: []int{32, 48}, Packed: p, DType: dtypes.BFloat16, Original: original(9, 32*48)},
	}
}

func TestReportSumsUpKindsAndLayers(t *testing.T) {
	weights := reported(t)
	r, err := NewReport(weights)
	if err != nil {
		t.Fatal(err)
	}
	nested := 64*128/2 + 128 + 4 + 4
	want := []KindReport{
		{"bfloat16", 2, 6464, 12928}, {"nf4 double", 2, 2 * 8192, 2 * nested}, {"nf4", 1, 8192, 4096 + 4*128}, {"int8", 1, 1536, 1536 + 4*32},
	}
	if len(r.Kinds) != len(want) {
		t.Fatalf("kinds %v", r.Kinds)
	}
	for i, k := range want {
		if r.Kinds[i] != k {
			t.Errorf("kind %d is %v, want %v", i, r.Kinds[i], k)
		}
	}
	if len(r.Layers) != 3 || r.Layers[0].Layer != "model.layers.0" || r.Layers[0].Weights != 2 || r.Layers[2].Layer != "lm_head" {
		t.Fatalf("layers %+v", r.Layers)
	}
	var squares, originals float64 // of layer 0, once more
	for _, w := range weights[1:3] {
		x, err := w.Original()
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range decode(t, w.Packed, dtypes.Float32) {
			squares += math.Pow(float64(v)-float64(x[i]), 2)
			originals += math.Pow(float64(x[i]), 2)
		}
	}
	if got, want := r.Layers[0].Error, math.Sqrt(squares/originals); math.Abs(got-want) > 1e-12 || want < 0.05 || want > 0.12 {
		t.Errorf("layer 0 has error %v, want %v", got, want)
	}
	if !math.IsNaN(r.Layers[1].Error) || r.Layers[1].Worst != "" {
		t.Errorf("a layer without original values has error %v, worst %q", r.Layers[1].Error, r.Layers[1].Worst)
	}
	if e := r.Layers[2].Error; e < 0.002 || e > 0.012 || r.Layers[2].Worst != "lm_head.weight" {
		t.Errorf("int8 in bfloat16 has error %v, worst %q", e, r.Layers[2].Worst)
	}
	for _, line := range []string{"nf4 double", "4.133", "model.layers.1", "lm_head", "bits/value"} {
		if !strings.Contains(r.String(), line) {
			t.Errorf("no %q in\n%s", line, r)
		}
	}
}

func TestReportNamesTheWeightThatDoesNotFit(t *testing.T) {
	p := pack(t, 1, []int{4, 64}, 1, NF4, 64, false)
	for want, m := range map[string]Weights{
		"shard 2 is cut off":                 broken{},
		"a.weight: shape [4 65]":             listed{{Name: "a.weight", Shape: []int{4, 65}, Packed: p}},
		"b.weight: neither quantized":        listed{{Name: "b.weight", Shape: []int{4}}},
		"c.weight: 1 original values":        listed{{Name: "c.weight", Shape: []int{4, 64}, Packed: p, Original: func() ([]float32, error) { return []float32{1}, nil }}},
		"d.weight: original values: no file": listed{{Name: "d.weight", Shape: []int{4, 64}, Packed: p, Original: func() ([]float32, error) { return nil, errors.New("no file") }}},
		"e.weight: shape []":                 listed{{Name: "e.weight", Shape: []int{0}, Packed: p}},
	} {
		if _, err := NewReport(m); err == nil || !strings.Contains(err.Error(), strings.TrimSuffix(want, "[]")) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
