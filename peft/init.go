package peft

import (
	"fmt"
	"hash/fnv"
	"math"

	"gonum.org/v1/gonum/mat"

	"github.com/loris-ml/loris/models"
)

// InitAdapter returns the values that a new adapter on the module at path starts from: A [r, in] and B [out, r], row-major.
//
// With InitTrue and InitEVA, A is uniform in ±1/√in (Kaiming with a = √5, as torch's Linear) and B zero; with InitGaussian, A
// is normal with standard deviation 1/r and B zero; with InitFalse, A is as with InitTrue and B uniform in ±1/√r; with
// InitOrthogonal, for an orthogonal Q [r, r], A is Qₒᵀ·N/10 and B N'·Qₑ/10, with its odd and even rows and normal N and N'.
// Source: update_layer and orthogonal_init of peft/tuners/lora/layer.py. Those that need the base's weight are errors.
//
// The numbers depend on seed, path and shape alone, not on the order of calls, the number of modules or the machine; they
// are not torch's. Every element comes from splitmix64 (doi:10.1145/2660193.2660195) at its own counter.
func InitAdapter(seed int64, path string, how Init, r, in, out int) (a, b []float32, err error) {
	how = LoraConfig{InitLoraWeights: how}.WithDefaults().InitLoraWeights
	if err := how.check(); err != nil {
		return nil, nil, err
	}
	if err := checkShape(path, r, in, out); err != nil {
		return nil, nil, err
	}
	if how.changesBase() {
		return nil, nil, fmt.Errorf("init_lora_weights %q needs the base's weights: use GetPeftModel", string(how))
	}
	if path == models.EmbeddingPath {
		a, b = initEmbedding(seed, path, how, r, in, out)
		return a, b, nil
	}
	if how == InitOrthogonal {
		return orthogonalInit(seed, path, r, in, out)
	}
	a, b = make([]float32, r*in), make([]float32, out*r)
	if how == InitGaussian {
		newStream(seed, path+".lora_A").normal(a, 1/float64(r))
	} else {
		newStream(seed, path+".lora_A").uniform(a, 1/math.Sqrt(float64(in)))
	}
	if how == InitFalse {
		newStream(seed, path+".lora_B").uniform(b, 1/math.Sqrt(float64(r)))
	}
	return a, b, nil
}

// initBias returns the values that the bias [out] of B starts from: zeros, and with InitFalse uniform in ±1/√r, as torch's
// Linear.
func initBias(seed int64, path string, how Init, r, out int) []float32 {
	b := make([]float32, out)
	if how == InitFalse {
		newStream(seed, path+".lora_B.bias").uniform(b, 1/math.Sqrt(float64(r)))
	}
	return b
}

func orthogonalInit(seed int64, path string, r, in, out int) (a, b []float32, err error) {
	if r%2 != 0 {
		return nil, nil, fmt.Errorf(`module %q: rank %d: init_lora_weights "orthogonal" needs even ranks`, path, r)
	}
	normal := func(name string, rows, columns int) *mat.Dense {
		values := make([]float32, rows*columns)
		newStream(seed, path+name).normal(values, 1)
		return matrix(values, rows, columns)
	}
	q := orthonormal(normal(".lora_Q", r, r))
	odd, even := mat.NewDense(r/2, r, nil), mat.NewDense(r/2, r, nil)
	for i := range r / 2 {
		odd.SetRow(i, q.RawRowView(2*i)) // odd when counted from 1
		even.SetRow(i, q.RawRowView(2*i+1))
	}
	var wideA, wideB mat.Dense
	wideA.Mul(odd.T(), normal(".lora_A", r/2, in))
	wideB.Mul(normal(".lora_B", out, r/2), even)
	wideA.Scale(0.1, &wideA)
	wideB.Scale(0.1, &wideB)
	return narrow(&wideA), narrow(&wideB), nil
}

// stream is a sequence of 64-bit numbers that can be entered anywhere.
type stream uint64

const goldenGamma = 0x9E3779B97F4A7C15

func newStream(seed int64, name string) stream {
	h := fnv.New64a()
	h.Write([]byte(name))
	return stream(mix(h.Sum64() ^ mix(uint64(seed)+goldenGamma)))
}

// at returns number i of the sequence.
func (s stream) at(i int) uint64 { return mix(uint64(s) + uint64(i+1)*goldenGamma) }

// mix is splitmix64's output function.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

// uniform fills dst with 24-bit uniform numbers in [-bound, bound). Its only rounding is that of the last product, so all
// machines agree.
func (s stream) uniform(dst []float32, bound float64) {
	scale := float32(bound)
	for i := range dst {
		unit := float32(s.at(i)>>40)*0x1p-23 - 1
		dst[i] = unit * scale
	}
}

// normal fills dst with normal numbers, two from two 53-bit uniform ones (Box–Muller).
func (s stream) normal(dst []float32, deviation float64) {
	for i := 0; i < len(dst); i += 2 {
		u := float64(s.at(i)>>11+1) * 0x1p-53 // in (0, 1]
		v := float64(s.at(i+1)>>11) * 0x1p-53
		radius := deviation * math.Sqrt(-2*math.Log(u))
		sin, cos := math.Sincos(2 * math.Pi * v)
		dst[i] = float32(radius * cos)
		if i+1 < len(dst) {
			dst[i+1] = float32(radius * sin)
		}
	}
}

// kaiming is a matrix [rows, columns] of an adapter, uniform in ±1/√columns: torch's kaiming_uniform_ with a = √5.
func kaiming(seed int64, path, name string, rows, columns int) formTensor {
	t := formTensor{name: name, shape: []int{rows, columns}, values: make([]float32, rows*columns)}
	newStream(seed, path+"."+name).uniform(t.values, 1/math.Sqrt(float64(columns)))
	return t
}
