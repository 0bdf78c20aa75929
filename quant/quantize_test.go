package quant

import (
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"

	formats "github.com/loris-ml/loris/internal/safetensors/floats"
)

// The nearest boundary is 2.1e-4 away from any of these values: every right implementation gives these bytes.
func TestGoldenVector(t *testing.T) {
	x := make([]float32, 64)
	for i := range x {
		x[i] = (float32(37*i%101) - 50) / 64
	}
	for qt, want := range map[QuantType]struct {
		packed string
		err    float64 // mean absolute error
	}{
		NF4: {"04c16e29f3b05d17e29f3c05d18e2af4c16e18e3b05d17e29f3b05d18e2af4c1", 0.03167084},
		FP4: {"bf5a92a63c4be5a02d63c4be2a12d73f5a92a63d4bf5a92d63c4be5a12d73c5b", 0.03919219},
	} {
		packed, state, err := Quantize4Bit(x, qt, 64, false)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(packed); got != want.packed {
			t.Errorf("%s: %s, want %s", qt, got, want.packed)
		}
		if !slices.Equal(state.Absmax, []float32{0.78125}) {
			t.Errorf("%s: absmax %v", qt, state.Absmax)
		}
		if abs, _ := meanErrors(t, x, packed, state); math.Abs(abs-want.err) > 1e-8 {
			t.Errorf("%s: mean error %v, want %v", qt, abs, want.err)
		}
	}
}

// meanErrors returns the mean absolute and the mean relative error, as bitsandbytes' tests define them.
func meanErrors(t *testing.T, x []float32, packed []byte, state *QuantState) (abs, rel float64) {
	t.Helper()
	values, err := Dequantize4Bit(packed, state)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range x {
		e := math.Abs(float64(v) - float64(values[i]))
		abs += e
		rel += e / (math.Abs(float64(v)) + 1e-8)
	}
	return abs / float64(len(x)), rel / float64(len(x))
}

func normal(n int, seed uint64) []float32 {
	r := rand.New(rand.NewPCG(seed, 0))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// The table of bitsandbytes' tests (test_functional.py, test_4bit_quant): mean and standard deviation over draws of the
// mean errors on 1024·1024 normal values. bitsandbytes checks the upper side, this both.
func TestErrorsLieWithinBitsandbytesBounds(t *testing.T) {
	type bound struct{ mean, sigma float64 }
	table := map[QuantType]map[int][2]bound{
		FP4: {
			32: {{.088925, .000091}, {.242443, .000330}}, 64: {{.096543, .000111}, {.260125, .000379}},
			128: {{.102969, .000134}, {.275817, .000433}}, 256: {{.108684, .000182}, {.289831, .000497}},
			512: {{.114115, .000234}, {.302881, .000583}}, 1024: {{.119333, .000320}, {.315000, .000757}},
			2048: {{.124556, .000455}, {.326607, .000955}}, 4096: {{.129536, .000612}, {.337169, .001239}},
		},
		NF4: {
			32: {{.067746, .000069}, {.189726, .000304}}, 64: {{.072798, .000074}, {.203339, .000340}},
			128: {{.076831, .000091}, {.215237, .000391}}, 256: {{.080337, .000102}, {.226105, .000398}},
			512: {{.083547, .000143}, {.236079, .000544}}, 1024: {{.086610, .000187}, {.245370, .000600}},
			2048: {{.089592, .000251}, {.254163, .000747}}, 4096: {{.092547, .000360}, {.262473, .000999}},
		},
	}
	x := normal(1024*1024, 1)
	for qt, byBlocksize := range table {
		for blocksize, want := range byBlocksize {
			packed, state, err := Quantize4Bit(x, qt, blocksize, false)
			if err != nil {
				t.Fatal(err)
			}
			abs, rel := meanErrors(t, x, packed, state)
			for i, got := range []float64{abs, rel} {
				if math.Abs(got-want[i].mean) > 7*want[i].sigma {
					t.Errorf("%s/%d: %s error %.6f, want %.6f ± 7·%.6f", qt, blocksize, []string{"absolute", "relative"}[i], got, want[i].mean, want[i].sigma)
				}
			}
		}
	}
}

// test_4bit_compressed_stats: both errors stay below 0.11 and 0.28, and double quantization costs little.
func TestDoubleQuantizationCostsLittle(t *testing.T) {
	for _, qt := range []QuantType{NF4, FP4} {
		for _, blocksize := range []int{32, 64, 128} {
			x := normal(1024*1024, uint64(blocksize))
			var abs, rel [2]float64
			for i, double := range []bool{false, true} {
				packed, state, err := Quantize4Bit(x, qt, blocksize, double)
				if err != nil {
					t.Fatal(err)
				}
				if (state.Nested != nil) != double {
					t.Fatalf("double quantization %v, nested state %v", double, state.Nested)
				}
				abs[i], rel[i] = meanErrors(t, x, packed, state)
				if abs[i] >= 0.11 || rel[i] >= 0.28 {
					t.Errorf("%s/%d double %v: errors %v, %v", qt, blocksize, double, abs[i], rel[i])
				}
			}
			if abs[1] < abs[0]*0.999 || abs[1] > abs[0]*1.01 {
				t.Errorf("%s/%d: double quantization takes the error from %v to %v", qt, blocksize, abs[0], abs[1])
			}
		}
	}
}

func TestEveryCodeIsTheNearest(t *testing.T) {
	for _, book := range []*codebook{nf4Book(), fp4Book()} {
		for i, s := range append(generate("boundaries", 2, 4000, 1), generate("uniform", 3, 100000, 2.0001)...) {
			want := uint8(0)
			for _, b := range book.bounds[:15] {
				if s > b {
					want++
				}
			}
			if got := book.nearest(s); got != want {
				t.Fatalf("value %d, %v: rank %d, want %d", i, s, got, want)
			}
		}
	}
}

func TestCellsHoldOneBoundary(t *testing.T) {
	for _, book := range []*codebook{nf4Book(), fp4Book()} {
		seen := map[int]bool{}
		for _, b := range book.bounds[:15] {
			cell := cellOf(math.Nextafter32(b, 2))
			if seen[cell] {
				t.Errorf("cell %d has two boundaries", cell)
			}
			seen[cell] = true
		}
	}
}

func TestDecodingHitsZeroAndAbsmaxExactly(t *testing.T) {
	x := generate("normal", 9, 64*50, 0.3)
	for i := range x {
		if i%64 < 3 {
			x[i] = []float32{2.5, -2.5, 0}[i%64]
		}
	}
	for _, qt := range []QuantType{NF4, FP4} {
		packed, state, err := Quantize4Bit(x, qt, 64, false)
		if err != nil {
			t.Fatal(err)
		}
		values, err := Dequantize4Bit(packed, state)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range x {
			if i%64 < 3 && values[i] != v {
				t.Errorf("%s: value %d is %v, want %v", qt, i, values[i], v)
			}
		}
	}
}

func TestNotFiniteValuesAreRefusedByIndex(t *testing.T) {
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
		for _, at := range [][]int{{0}, {63}, {64 * 20000}, {99999, 70000}, {1300000, 1299999, 7777}} {
			x := make([]float32, 1300001)
			for _, i := range at {
				x[i] = bad
			}
			want := fmt.Sprintf("value %d of 1300001 (shape [1300001]) is %v", slices.Min(at), bad)
			if _, _, err := Quantize4Bit(x, NF4, 64, true); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want one with %q", err, want)
			}
		}
		for _, dtype := range []dtypes.DType{dtypes.BFloat16, dtypes.Float16} {
			raw := make([]byte, 2*100)
			bits := uint16(math.Float32bits(bad) >> 16)
			if dtype == dtypes.Float16 {
				bits = 0x7c00 | bits&0x8000 | map[bool]uint16{true: 1}[bad != bad]
			}
			raw[2*77], raw[2*77+1] = byte(bits), byte(bits>>8)
			want := fmt.Sprintf("value 77 of 100 (shape [4 25]) is %v", bad)
			if _, _, err := Quantize4BitRaw(raw, dtype, []int{4, 25}, FP4, 64, false); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want one with %q", dtype, err, want)
			}
		}
	}
}

func TestBadArgumentsAreNamed(t *testing.T) {
	x := make([]float32, 128)
	for want, call := range map[string]func() error{
		`quant type ""`:    func() error { _, _, err := Quantize4Bit(x, "", 64, false); return err },
		`quant type "NF4"`: func() error { _, _, err := Quantize4Bit(x, "NF4", 64, false); return err },
		"blocksize 48":     func() error { _, _, err := Quantize4Bit(x, NF4, 48, false); return err },
		"blocksize 8192":   func() error { _, _, err := Quantize4Bit(x, NF4, 8192, false); return err },
		"blocksize -64":    func() error { _, _, err := Quantize4Bit(x, NF4, -64, false); return err },
		"shape [0]":        func() error { _, _, err := Quantize4Bit(nil, NF4, 64, false); return err },
		"10 bytes for a tensor of shape [2 3] and dtype Float16, want 12": func() error {
			_, _, err := Quantize4BitRaw(make([]byte, 10), dtypes.Float16, []int{2, 3}, NF4, 64, false)
			return err
		},
		"dtype Int8": func() error {
			_, _, err := Quantize4BitRaw(make([]byte, 6), dtypes.Int8, []int{2, 3}, NF4, 64, false)
			return err
		},
		"shape [2 -3]": func() error {
			_, _, err := Quantize4BitRaw(nil, dtypes.Float16, []int{2, -3}, NF4, 64, false)
			return err
		},
		"no quantization state": func() error { _, err := Dequantize4Bit(nil, nil); return err },
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestDoubleQuantizationRefusesAMeanBeyondFloat32(t *testing.T) {
	x := generate("normal", 1, 64*64, 3e37)
	if _, _, err := Quantize4Bit(x, NF4, 64, false); err != nil {
		t.Error(err)
	}
	if _, _, err := Quantize4Bit(x, NF4, 64, true); err == nil || !strings.Contains(err.Error(), "64 block scales") {
		t.Errorf("error %v", err)
	}
}

func TestDequantizeRefusesWhatDoesNotFit(t *testing.T) {
	for want, spoil := range map[string]func(packed []byte, s *QuantState) []byte{
		"31 packed bytes": func(p []byte, _ *QuantState) []byte { return p[:31] },
		"1 absmax":        func(p []byte, s *QuantState) []byte { s.Absmax = s.Absmax[:1]; return p },
		"blocksize 0":     func(p []byte, s *QuantState) []byte { s.Blocksize = 0; return p },
		"nested codes":    func(p []byte, s *QuantState) []byte { s.Nested.Codes = nil; return p },
		"nested blocksiz": func(p []byte, s *QuantState) []byte { s.Nested.Blocksize = -1; return p },
		"quant type":      func(p []byte, s *QuantState) []byte { s.QuantType = "x"; return p },
		"dtype Float64":   func(p []byte, s *QuantState) []byte { s.DType = dtypes.Float64; return p },
		"shape [8 0]":     func(p []byte, s *QuantState) []byte { s.Shape = []int{8, 0}; return p },
	} {
		packed, state, err := Quantize4Bit(make([]float32, 64), NF4, 32, true)
		if err != nil {
			t.Fatal(err)
		}
		packed = spoil(packed, state)
		if _, err := Dequantize4Bit(packed, state); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
		if _, err := NewPacked(packed, state); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewPacked: error %v, want one with %q", err, want)
		}
	}
}

// Every bfloat16 and float16 widens to the float32 that a computation by its fields gives, and rounds to itself.
func TestHalvesWidenAndRoundExactly(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		sign := 1 - 2*float64(h>>15)
		exponent, mantissa := int(h>>10&31), float64(h&0x3ff)
		want := sign * math.Ldexp(1024+mantissa, exponent-25)
		if exponent == 0 {
			want = sign * math.Ldexp(mantissa, -24)
		}
		got := formats.FromF16(h)
		if exponent < 31 && (float64(got) != want || math.Signbit(float64(got)) != (sign < 0) || roundF16(got) != got) {
			t.Fatalf("float16 %04x widens to %v and rounds to %v, want %v", h, got, roundF16(got), want)
		}
		if exponent == 31 && (mantissa == 0) != math.IsInf(float64(got), int(sign)) {
			t.Fatalf("float16 %04x widens to %v", h, got)
		}
		if b := math.Float32frombits(uint32(h) << 16); b-b == 0 && roundBF16(b) != b {
			t.Fatalf("bfloat16 %04x rounds to %v", h, roundBF16(b))
		}
	}
}

func TestRoundingGoesToTheNearestEven(t *testing.T) {
	for x, want := range map[float32]float32{
		1 + 0x1p-11: 1, 1 + 3*0x1p-11: 1 + 0x1p-9, 1 + 0x1p-11 + 0x1p-20: 1 + 0x1p-10, 65504: 65504, 65519.996: 65504,
		65520: float32(math.Inf(1)), -1e9: float32(math.Inf(-1)), 0x1p-25: 0, 0x1.8p-25: 0x1p-24, 3 * 0x1p-25: 0x1p-23,
		0x1p-14 - 0x1p-26: 0x1p-14, 1e-30: 0,
	} {
		if got := roundF16(x); got != want {
			t.Errorf("%v rounds to the float16 %v, want %v", x, got, want)
		}
	}
	for x, want := range map[float32]float32{
		1 + 0x1p-8: 1, 1 + 3*0x1p-8: 1 + 0x1p-6, 1 + 0x1p-8 + 0x1p-20: 1 + 0x1p-7, -3.4e38: float32(math.Inf(-1)), 1e-45: 0,
	} {
		if got := roundBF16(x); got != want {
			t.Errorf("%v rounds to the bfloat16 %v, want %v", x, got, want)
		}
	}
}
