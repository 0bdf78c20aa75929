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

func TestVectorFormsEncodeInt8(t *testing.T) {
	for n := range 200 {
		x := generate("uniform", uint64(n), n, 254)
		for i := range x {
			if i%3 == 0 {
				x[i] = float32(math.Round(float64(x[i]))) + 0.5 // ties
			}
		}
		got, want := make([]int8, n), make([]int8, n)
		encodeInt8(got, x, 0.96875)
		encodeInt8Plain(want, x, 0.96875)
		for i, v := range x {
			if exact := math.RoundToEven(float64(v * 0.96875)); got[i] != want[i] || float64(got[i]) != exact {
				t.Fatalf("value %d of %d, %v, has code %d, plain %d, want %v", i, n, v, got[i], want[i], exact)
			}
		}
	}
}

func TestVectorFormsRoundToFloat16(t *testing.T) {
	var x []float32
	for bits := uint64(0); bits < 1<<32; bits += 65521 { // all exponents, and fractions of all kinds
		x = append(x, math.Float32frombits(uint32(bits)))
	}
	for i := range uint32(1 << 16) { // the float16 numbers, and the midpoints above them and their neighbours
		v := math.Float32frombits(i << 13)
		mid := math.Float32frombits(i<<13 + 1<<12)
		x = append(x, v, mid, math.Nextafter32(mid, 0), math.Nextafter32(mid, 10*mid), -mid, v*0x1p-112, mid*0x1p-112)
	}
	x = append(x, 65504, 65519.996, 65520, -65520, 0x1p-24, 0x1p-25, 3*0x1p-25, -0x1p-25, float32(math.NaN()))
	got, want := make([]float32, len(x)), make([]float32, len(x))
	roundHalves(got, x)
	roundHalvesPlain(want, x)
	for i := range x {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) && !(got[i] != got[i] && want[i] != want[i]) {
			t.Fatalf("%v (%08x) rounds to %v, want %v", x[i], math.Float32bits(x[i]), got[i], want[i])
		}
	}
}
