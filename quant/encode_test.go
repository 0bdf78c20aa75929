package quant

import (
	"encoding/binary"
	"math"
	"slices"
	"testing"
)

// What has vector forms gives the bits of the plain loops, whatever the length.
func TestVectorFormsEqualThePlainLoops(t *testing.T) {
	for _, book := range []*codebook{nf4Book(), fp4Book()} {
		for _, kind := range []string{"normal", "boundaries", "zeros", "outliers"} {
			for _, n := range []int{2, 14, 32, 62, 64, 66, 130, 4096, 4094} {
				x := generate(kind, 4, n, 0.5)
				inverse := 1 / max(math.Float32frombits(absmaxPlain(x)), tiny)
				got, want := make([]byte, n/2), make([]byte, n/2)
				book.encodeScaled(got, x, inverse)
				book.encodePlain(want, x, inverse)
				if !slices.Equal(got, want) {
					t.Errorf("%s[%d]: %d of %d bytes differ", kind, n, differing(got, want), n/2)
				}
			}
		}
	}
	for n := range 100 {
		x := generate("normal", uint64(n), n, 1)
		if n > 3 {
			x[n/2] = float32(math.Copysign(100, float64(n%2)-0.5))
		}
		if n > 90 {
			x[n-3] = float32(math.NaN())
		}
		if got, want := absmaxBits(x), absmaxPlain(x); got != want {
			t.Errorf("%d values: the largest magnitude has bits %08x, want %08x", n, got, want)
		}
	}
}

func TestVectorFormsWidenEveryHalf(t *testing.T) {
	raw := make([]byte, 2<<16+6) // three more than a whole number of vectors
	for i := range len(raw) / 2 {
		binary.LittleEndian.PutUint16(raw[2*i:], uint16(i))
	}
	for name, widen := range map[string][2]func(dst []float32, raw []byte){
		"bfloat16": {widenBF16, widenBF16Plain}, "float16": {widenF16, widenF16Plain}, "float32": {widenF32, widenF32Plain},
	} {
		n := len(raw) / 2
		if name == "float32" {
			n = len(raw) / 4
		}
		got, want := make([]float32, n), make([]float32, n)
		widen[0](got, raw)
		widen[1](want, raw)
		for i := range want {
			if math.Float32bits(got[i]) != math.Float32bits(want[i]) && !(got[i] != got[i] && want[i] != want[i]) {
				t.Fatalf("%s %04x widens to %v, want %v", name, i, got[i], want[i])
			}
		}
	}
}
