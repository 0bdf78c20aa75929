package quant

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"

	"github.com/loris-ml/loris/internal/reference"
)

func TestHalfPlanesHoldTheCodesInTwoHalves(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 5, 6, 7, 8, 62, 63, 64, 65, 66, 1001, 4096 * 100, 1<<20 + 2} {
		packed := make([]byte, (n+1)/2)
		for i := range packed {
			r, _ := reference.Draw(uint64(n), i)
			packed[i] = byte(r[0])
		}
		planes := HalfPlanes(packed)
		h := len(packed)
		for j, b := range planes {
			if b&15 != nibble(packed, j) || b>>4 != nibble(packed, j+h) {
				t.Fatalf("n %d: byte %d is %02x, want codes %x and %x", n, j, b, nibble(packed, j), nibble(packed, j+h))
			}
		}
		if !bytes.Equal(FromHalfPlanes(planes), packed) {
			t.Errorf("n %d does not come back", n)
		}
	}
}

// pack quantizes values of shape.
func pack(t testing.TB, seed uint64, shape []int, scale float64, qt QuantType, blocksize int, double bool) *Packed {
	t.Helper()
	n, err := size(shape)
	if err != nil {
		t.Fatal(err)
	}
	packed, state, err := Quantize4Bit(generate("normal", seed, n, scale), qt, blocksize, double)
	if err != nil {
		t.Fatal(err)
	}
	state.Shape = shape
	p, err := NewPacked(packed, state)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func decode(t testing.TB, p *Packed, dtype dtypes.DType) []float32 {
	t.Helper()
	values, err := p.Dequantize(dtype)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

func TestPackedDecodesAsItsState(t *testing.T) {
	for _, double := range []bool{false, true} {
		for _, n := range []int{1, 63, 64, 4096, 64*300 + 17} {
			packed, state, err := Quantize4Bit(generate("normal", 5, n, 1), NF4, 64, double)
			if err != nil {
				t.Fatal(err)
			}
			p, err := NewPacked(packed, state)
			if err != nil {
				t.Fatal(err)
			}
			want, err := Dequantize4Bit(packed, state)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(decode(t, p, dtypes.Float32), want) {
				t.Errorf("n %d, double %v: different values", n, double)
			}
			wantBytes := (n+1)/2 + 4*blocks(n, 64)
			if double {
				wantBytes = (n+1)/2 + blocks(n, 64) + 8*blocks(blocks(n, 64), 256)
			}
			if p.Bytes() != wantBytes {
				t.Errorf("n %d, double %v: %d bytes, want %d", n, double, p.Bytes(), wantBytes)
			}
		}
	}
}

func TestConcatDecodesToTheSameBits(t *testing.T) {
	for name, c := range map[string]struct {
		rows  []int // first dimensions, of weights [rows, inner]
		inner int
		double,
		lastSingle bool // the last weight has no double quantization
		group int // nested blocksize of the result
	}{
		"single":             {[]int{64, 16, 16}, 192, false, false, 0},
		"aligned groups":     {[]int{256, 128, 128}, 128, true, false, 256},
		"short groups":       {[]int{96, 32, 32}, 576, true, false, 32}, // 864, 288 and 288 blocks
		"odd block counts":   {[]int{3, 5, 7}, 64, true, false, 0},
		"short only at last": {[]int{256, 33}, 128, true, false, 256},
		"last not filled":    {[]int{64, 3}, 100, true, false, 4}, // 100 blocks and 4.7
		"mixed":              {[]int{128, 64}, 128, true, true, 0},
		"one":                {[]int{37}, 101, true, false, 256},
	} {
		for _, qt := range []QuantType{NF4, FP4} {
			var rows []*Packed
			var want []float32
			total := 0
			for i, r := range c.rows {
				double := c.double && !(c.lastSingle && i == len(c.rows)-1)
				p := pack(t, uint64(i+1), []int{r, c.inner}, math.Pow(3, float64(i)), qt, 64, double)
				rows = append(rows, p)
				want = append(want, decode(t, p, dtypes.BFloat16)...)
				total += r
			}
			p, err := Concat(rows...)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if !slices.Equal(p.Shape, []int{total, c.inner}) || p.NestedBlocksize != c.group {
				t.Errorf("%s: shape %v and nested blocksize %d, want [%d %d] and %d", name, p.Shape, p.NestedBlocksize, total, c.inner, c.group)
			}
			if !slices.Equal(decode(t, p, dtypes.BFloat16), want) {
				t.Errorf("%s: different values", name)
			}
			if again, err := Concat(p); err != nil || !slices.Equal(decode(t, again, dtypes.BFloat16), want) {
				t.Errorf("%s: concatenated again: error %v or different values", name, err)
			}
		}
	}
}

func TestConcatNestsInItself(t *testing.T) {
	a, b, c := pack(t, 1, []int{96, 576}, 1, NF4, 64, true), pack(t, 2, []int{32, 576}, 2, NF4, 64, true), pack(t, 3, []int{40, 576}, 3, NF4, 64, true)
	ab, err := Concat(a, b)
	if err != nil {
		t.Fatal(err)
	}
	left, err := Concat(ab, c)
	if err != nil {
		t.Fatal(err)
	}
	flat, err := Concat(a, b, c)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(decode(t, left, dtypes.Float32), decode(t, flat, dtypes.Float32)) || !bytes.Equal(left.Codes, flat.Codes) {
		t.Error("(a|b)|c differs from a|b|c")
	}
}

func TestConcatRefusesWhatDoesNotFit(t *testing.T) {
	base := pack(t, 1, []int{4, 64}, 1, NF4, 64, true)
	for name, c := range map[string]struct {
		rows []*Packed
		want string
	}{
		"nothing":   {nil, "no weights"},
		"nil":       {[]*Packed{base, nil}, "weight 1 has no dimension"},
		"type":      {[]*Packed{base, pack(t, 1, []int{4, 64}, 1, FP4, 64, true)}, "weight 1 is fp4"},
		"blocksize": {[]*Packed{base, pack(t, 1, []int{4, 64}, 1, NF4, 128, true)}, "weight 1 is nf4 in blocks of 128"},
		"inner":     {[]*Packed{base, pack(t, 1, []int{4, 128}, 1, NF4, 64, true)}, "shape [4 128]"},
		"unaligned": {[]*Packed{pack(t, 1, []int{3, 32}, 1, NF4, 64, true), pack(t, 1, []int{4, 32}, 1, NF4, 64, true)}, "weight 0 of shape [3 32] has 96 values"},
	} {
		_, err := Concat(c.rows...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
		if got := errors.Is(err, ErrUnaligned); got != (name == "unaligned") {
			t.Errorf("%s: errors.Is(%v, ErrUnaligned) is %v", name, err, got)
		}
	}
}
