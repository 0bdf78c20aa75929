package quant

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestBlockwiseBytesEqualBitsandbytes(t *testing.T) {
	f := readFixtures(t)
	for _, c := range f.Blockwise {
		x := generate(c.Kind, c.Seed, c.Shape[0], c.Scale)
		round := rounder(c.dtype())
		for i, v := range x {
			if !c.Signed {
				v = float32(math.Abs(float64(v)))
			}
			x[i] = round(v)
		}
		name := fmt.Sprintf("%s[%d] %s/%d signed %v", c.Kind, len(x), c.DType, c.Blocksize, c.Signed)
		codes, absmax, err := QuantizeBlockwise(x, DynamicMap(c.Signed), c.Blocksize)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if sum(codes) != c.PackedSHA || sum(floatBytes(absmax)) != c.AbsmaxSHA {
			t.Errorf("%s: codes equal: %v, absmax equal: %v", name, sum(codes) == c.PackedSHA, sum(floatBytes(absmax)) == c.AbsmaxSHA)
		}
		values, err := DequantizeBlockwise(codes, absmax, DynamicMap(c.Signed), c.Blocksize)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i, v := range values {
			values[i] = round(v)
		}
		if sum(floatBytes(values)) != c.ValuesSHA {
			t.Errorf("%s: decoded values differ", name)
		}
	}
	if len(f.Blockwise) < 100 {
		t.Errorf("only %d cases", len(f.Blockwise))
	}
}

// Bounds of bitsandbytes' test_dynamic_blockwise_quantization, and a third of them: no codec of 256 numbers is far better.
func TestBlockwiseErrorsLieWithinBitsandbytesBounds(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	uniform := make([]float32, 1<<20)
	for i := range uniform {
		uniform[i] = r.Float32()
	}
	for name, c := range map[string]struct {
		x        []float32
		signed   bool
		abs, rel float64
	}{
		"normal":            {normal(1<<20, 5), true, 0.011, 0.018},
		"uniform":           {uniform, true, 0.0036, 0.015},
		"uniform, unsigned": {uniform, false, 0.0023, 0.012},
	} {
		for blocksize := 64; blocksize <= 4096; blocksize *= 2 {
			codes, absmax, err := QuantizeBlockwise(c.x, DynamicMap(c.signed), blocksize)
			if err != nil {
				t.Fatal(err)
			}
			values, err := DequantizeBlockwise(codes, absmax, DynamicMap(c.signed), blocksize)
			if err != nil {
				t.Fatal(err)
			}
			var abs, rel float64
			for i, v := range c.x {
				e := math.Abs(float64(v - values[i]))
				abs += e / float64(len(c.x))
				rel += e / (math.Abs(float64(v)) + 1e-8) / float64(len(c.x))
			}
			if abs >= c.abs || rel >= c.rel || abs < c.abs/3 || rel < c.rel/3 {
				t.Errorf("%s/%d: absolute error %.5f, relative %.5f, want below %v and %v and not far below", name, blocksize, abs, rel, c.abs, c.rel)
			}
		}
	}
}

func TestBlockwiseRefusesBadArguments(t *testing.T) {
	good := DynamicMap(true)
	descending, outside := good, good
	descending[3], descending[4] = good[4], good[3]
	outside[255] = 1.5
	bad := make([]float32, 5000)
	bad[4321], bad[4999] = float32(math.NaN()), float32(math.Inf(1))
	for want, call := range map[string]func() error{
		"value 4321 of 5000 is NaN": func() error { _, _, err := QuantizeBlockwise(bad, good, 256); return err },
		"no values":                 func() error { _, _, err := QuantizeBlockwise(nil, good, 256); return err },
		"blocksize 100":             func() error { _, _, err := QuantizeBlockwise(bad, good, 100); return err },
		"must ascend":               func() error { _, _, err := QuantizeBlockwise(bad, descending, 256); return err },
		"to 1.5":                    func() error { _, _, err := QuantizeBlockwise(bad, outside, 256); return err },
		"2 absmax for 257 codes in blocks of 64, want 5": func() error {
			_, err := DequantizeBlockwise(make([]uint8, 257), make([]float32, 2), good, 64)
			return err
		},
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
