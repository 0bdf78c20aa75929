package peft

import (
	"math"
	"slices"
	"sort"
	"strings"
	"testing"
)

const initPath = "model.layers.3.self_attn.q_proj"

func initial(t *testing.T, seed int64, path string, how Init, r, in, out int) (a, b []float32) {
	t.Helper()
	a, b, err := InitAdapter(seed, path, how, r, in, out)
	if err != nil {
		t.Fatal(err)
	}
	if len(a) != r*in || len(b) != out*r {
		t.Fatalf("%d and %d values", len(a), len(b))
	}
	return a, b
}

// kolmogorov is the Kolmogorov–Smirnov statistic of x against a distribution; above 1.36/√n it differs at 5 %.
func kolmogorov(x []float32, cdf func(float64) float64) (d float64) {
	s := slices.Clone(x)
	slices.Sort(s)
	n := float64(len(s))
	for i, v := range s {
		p := cdf(float64(v))
		d = max(d, math.Abs(p-float64(i)/n), math.Abs(float64(i+1)/n-p))
	}
	return d * math.Sqrt(n)
}

func uniformCDF(bound float64) func(float64) float64 {
	return func(x float64) float64 { return min(1, max(0, (x+bound)/(2*bound))) }
}

func normalCDF(deviation float64) func(float64) float64 {
	return func(x float64) float64 { return math.Erfc(-x/deviation/math.Sqrt2) / 2 }
}

func TestInitialValuesFollowPEFTsDistributions(t *testing.T) {
	const r, in, out = 25, 1000, 700
	zero := func(b []float32) bool { return !slices.ContainsFunc(b, func(x float32) bool { return x != 0 }) }
	for seed := range int64(5) {
		a, b := initial(t, seed, initPath, InitTrue, r, in, out)
		if d := kolmogorov(a, uniformCDF(1/math.Sqrt(in))); d > 1.6 || !zero(b) {
			t.Errorf("seed %d: A is not uniform in ±1/√in (statistic %v), or B not zero", seed, d)
		}
		if d := kolmogorov(a, normalCDF(1/math.Sqrt(3*in))); d < 3 {
			t.Errorf("seed %d: A looks normal (%v)", seed, d)
		}
		a, b = initial(t, seed, initPath, InitGaussian, r, in, out)
		if d := kolmogorov(a, normalCDF(1./r)); d > 1.6 || !zero(b) {
			t.Errorf("seed %d: A is not normal with deviation 1/r (%v), or B not zero", seed, d)
		}
		a, b = initial(t, seed, initPath, InitFalse, r, in, out)
		if d, e := kolmogorov(a, uniformCDF(1/math.Sqrt(in))), kolmogorov(b, uniformCDF(1/math.Sqrt(r))); d > 1.6 || e > 1.6 {
			t.Errorf("seed %d: A or B is not uniform (%v, %v)", seed, d, e)
		}
		if c := correlation(a[:17500], b); math.Abs(c) > 0.03 {
			t.Errorf("seed %d: A and B are correlated: %v", seed, c)
		}
	}
}

func correlation(x, y []float32) float64 {
	var xy, xx, yy float64
	for i := range x {
		a, b := float64(x[i]), float64(y[i])
		xy, xx, yy = xy+a*b, xx+a*a, yy+b*b
	}
	return xy / math.Sqrt(xx*yy)
}

func TestInitialValuesAreIndependentAcrossModulesSeedsAndNeighbours(t *testing.T) {
	const r, in = 16, 1024
	base, _ := initial(t, 1, initPath, InitTrue, r, in, 8)
	for name, other := range map[string][]float32{
		"other module":  first(initial(t, 1, "model.layers.4.self_attn.q_proj", InitTrue, r, in, 8)),
		"other seed":    first(initial(t, 2, initPath, InitTrue, r, in, 8)),
		"negative seed": first(initial(t, -1, initPath, InitTrue, r, in, 8)),
		"shifted":       append(slices.Clone(base[1:]), 0),
	} {
		if c := correlation(base, other); math.Abs(c) > 0.03 {
			t.Errorf("%s: correlation %v", name, c)
		}
	}
	distinct := slices.Clone(base)
	sort.Slice(distinct, func(i, j int) bool { return distinct[i] < distinct[j] })
	if n := len(slices.Compact(distinct)); n < r*in-50 {
		t.Errorf("only %d of %d values are distinct", n, r*in)
	}
}

func first(a, _ []float32) []float32 { return a }

// TestInitialValuesNeverChange holds the generator: adapters of a seed must stay the same from version to version. The
// numbers were computed apart from this code, from the definitions of FNV-1a and splitmix64.
func TestInitialValuesNeverChange(t *testing.T) {
	var want struct {
		Seed      int64     `json:"seed"`
		Path      string    `json:"path"`
		R         int       `json:"r"`
		Columns   int       `json:"columns"`
		Rows      int       `json:"rows"`
		A         []float32 `json:"a"`
		B         []float32 `json:"b"`
		GaussianA []float32 `json:"gaussian_a"`
	}
	readFixture(t, "initial.json", &want)
	a, b := initial(t, want.Seed, want.Path, InitFalse, want.R, want.Columns, want.Rows)
	if !slices.Equal(a, want.A) || !slices.Equal(b, want.B) {
		t.Errorf("A %v and B %v, want %v and %v", a, b, want.A, want.B)
	}
	gaussian, _ := initial(t, want.Seed, want.Path, InitGaussian, want.R, want.Columns, want.Rows)
	for i, x := range gaussian { // logarithms and sines may differ in the last bit between machines
		if math.Abs(float64(x-want.GaussianA[i])) > 1e-6 {
			t.Errorf("gaussian A %v, want %v", gaussian, want.GaussianA)
			break
		}
	}
	again, _ := initial(t, want.Seed, want.Path, InitTrue, want.R, want.Columns, want.Rows+1)
	if !slices.Equal(again, a) {
		t.Errorf("A depends on more than seed, path and shape: %v, %v", a, again)
	}
}

func TestInitAdapterRefusesWrongArguments(t *testing.T) {
	for want, call := range map[string]func() error{
		`init_lora_weights "pissa" needs the base's weights`:            func() error { _, _, err := InitAdapter(0, "a", "pissa", 1, 1, 1); return err },
		`module "a": rank 3: init_lora_weights "orthogonal" needs even`: func() error { _, _, err := InitAdapter(0, "a", InitOrthogonal, 3, 4, 4); return err },
		`module "a": rank 0, inputs 1 and outputs 1`:                    func() error { _, _, err := InitAdapter(0, "a", "", 0, 1, 1); return err },
		`module path ""`: func() error { _, _, err := InitAdapter(0, "", "", 1, 1, 1); return err },
		`is too large`:   func() error { _, _, err := InitAdapter(0, "a", "", math.MaxInt/2, 3, 1); return err },
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

func BenchmarkInitAdapter(b *testing.B) {
	for _, how := range []Init{InitTrue, InitGaussian} {
		b.Run(string(how), func(b *testing.B) {
			b.SetBytes(4 * (16*4096 + 4096*16))
			for b.Loop() {
				if _, _, err := InitAdapter(1, initPath, how, 16, 4096, 4096); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
