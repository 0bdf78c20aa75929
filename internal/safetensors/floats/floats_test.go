package floats

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"
)

// format describes a 16-bit float as numbers, to recompute it in float64.
type format struct {
	dtype              string
	exponent, mantissa int
	from               func(uint16) float32
	to                 func(float32) uint16
}

var formats = []format{
	{"F16", 5, 10, FromF16, ToF16},
	{"BF16", 8, 7, FromBF16, ToBF16},
}

// value is the definition of IEEE 754 binary formats.
func (f format) value(bits uint16) float64 {
	bias := 1<<(f.exponent-1) - 1
	e, m := int(bits>>f.mantissa)&(1<<f.exponent-1), float64(bits&(1<<f.mantissa-1))
	scale := float64(int(1) << f.mantissa)
	v := math.Ldexp(1+m/scale, e-bias)
	switch {
	case e == 0:
		v = math.Ldexp(m/scale, 1-bias)
	case e == 1<<f.exponent-1 && m == 0:
		v = math.Inf(1)
	case e == 1<<f.exponent-1:
		return math.NaN()
	}
	if bits>>15 == 1 {
		return -v
	}
	return v
}

func TestEveryHalfWidensExactlyAndComesBack(t *testing.T) {
	for _, f := range formats {
		for i := range 1 << 16 {
			bits := uint16(i)
			want, got := f.value(bits), float64(f.from(bits))
			if math.IsNaN(want) {
				if !math.IsNaN(got) || !math.IsNaN(float64(f.from(f.to(float32(got))))) {
					t.Fatalf("%s %#04x: %v is no NaN, or does not stay one", f.dtype, bits, got)
				}
				continue
			}
			if math.Float64bits(got) != math.Float64bits(want) {
				t.Fatalf("%s %#04x widens to %v, want %v", f.dtype, bits, got, want)
			}
			if back := f.to(float32(got)); back != bits {
				t.Fatalf("%s %#04x comes back as %#04x", f.dtype, bits, back)
			}
		}
	}
}

// Between each two neighbouring numbers, the middle goes to the even one and its neighbours to the nearest.
func TestNarrowingRoundsToNearestEven(t *testing.T) {
	for _, f := range formats {
		infinite := uint16(1<<f.exponent-1) << f.mantissa
		for bits := uint16(0); bits < infinite; bits++ {
			low, high := f.value(bits), f.value(bits+1)
			if bits+1 == infinite {
				high = 2*low - f.value(bits-1) // what the next number would be with one more exponent
			}
			middle := float32((low + high) / 2) // exact: one more bit than the format has
			even := bits + bits&1
			for _, sign := range []uint16{0, 0x8000} {
				flip := func(v float32) float32 { return math.Float32frombits(math.Float32bits(v) | uint32(sign)<<16) }
				below, above := math.Nextafter32(middle, 0), math.Nextafter32(middle, math.MaxFloat32)
				for v, want := range map[float32]uint16{below: bits, middle: even, above: bits + 1} {
					if got := f.to(flip(v)); got != want|sign {
						t.Fatalf("%s: %v becomes %#04x, want %#04x", f.dtype, flip(v), got, want|sign)
					}
				}
			}
		}
		for _, v := range []float32{float32(math.Inf(1)), math.MaxFloat32} {
			if got := f.to(v); got != infinite {
				t.Errorf("%s: %v becomes %#04x, want the infinity %#04x", f.dtype, v, got, infinite)
			}
		}
	}
}

func TestDecodeAndEncodeAreInverseAtAnyLength(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 3, grain - 1, grain, 2*grain + 1, 5*grain + 77} {
		values := make([]float32, n)
		for i := range values {
			values[i] = FromBF16(ToBF16(float32(rng.NormFloat64()))) // representable in all, but for the range of F16
			values[i] = FromF16(ToF16(values[i]))
		}
		for _, dtype := range []string{"F64", "F32", "F16", "BF16"} {
			size, _ := Size(dtype)
			raw, err := Encode(dtype, values)
			if err != nil || len(raw) != n*size {
				t.Fatalf("%s: %d bytes (%v), want %d", dtype, len(raw), err, n*size)
			}
			got := make([]float32, n)
			if err := Decode(got, dtype, raw); err != nil {
				t.Fatal(err)
			}
			for i := range got {
				if math.Float32bits(got[i]) != math.Float32bits(values[i]) {
					t.Fatalf("%s, %d elements: element %d is %v, want %v", dtype, n, i, got[i], values[i])
				}
			}
		}
	}
}

func TestF32AndF64AreLittleEndian(t *testing.T) {
	raw, err := Encode("F32", []float32{1.5})
	if want := []byte{0, 0, 0xc0, 0x3f}; err != nil || !bytes.Equal(raw, want) {
		t.Errorf("1.5 as F32 is % x (%v), want % x", raw, err, want)
	}
	raw = binary.LittleEndian.AppendUint64(nil, math.Float64bits(1+0x1p-24+0x1p-40))
	got := make([]float32, 1)
	if err := Decode(got, "F64", raw); err != nil || got[0] != 1+0x1p-23 {
		t.Errorf("F64 just above a tie becomes %v (%v), want %v", got[0], err, 1+0x1p-23)
	}
}

func TestWrongInputIsAnError(t *testing.T) {
	if err := Decode(make([]float32, 2), "F16", make([]byte, 5)); err == nil {
		t.Error("5 bytes were decoded as 2 elements of F16")
	}
	if err := Decode(make([]float32, 3), "F16", make([]byte, 4)); err == nil {
		t.Error("4 bytes were decoded as 3 elements of F16")
	}
	if err := Decode(make([]float32, 2), "I8", make([]byte, 2)); err == nil {
		t.Error("I8 was decoded")
	}
	if _, err := Encode("U8", []float32{1}); err == nil {
		t.Error("U8 was encoded")
	}
	if err := EncodeTo(make([]byte, 3), "BF16", []float32{1}); err == nil {
		t.Error("an element of BF16 was put into 3 bytes")
	}
}

func TestInParallelCoversEachElementOnce(t *testing.T) {
	for _, n := range []int{0, 1, 9, 10, 11, 1000, 12345} {
		hits := make([]atomic.Int32, n)
		InParallel(n, 10, func(lo, hi int) {
			for i := lo; i < hi; i++ {
				hits[i].Add(1)
			}
		})
		for i := range hits {
			if hits[i].Load() != 1 {
				t.Fatalf("n %d: element %d was visited %d times", n, i, hits[i].Load())
			}
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, dtype := range []string{"F32", "F16", "BF16"} {
		b.Run(dtype, func(b *testing.B) {
			values := make([]float32, 1<<24)
			for i := range values {
				values[i] = float32(i%977) / 977
			}
			raw, err := Encode(dtype, values)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if err := Decode(values, dtype, raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, dtype := range []string{"F16", "BF16"} {
		b.Run(dtype, func(b *testing.B) {
			values := make([]float32, 1<<24)
			for i := range values {
				values[i] = float32(i%977) / 977
			}
			b.SetBytes(int64(4 * len(values)))
			for b.Loop() {
				if _, err := Encode(dtype, values); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
