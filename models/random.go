package models

import (
	"context"
	"errors"
	"hash/fnv"
	"maps"
	"math"
	"math/rand/v2"
	"strings"
	"sync"

	"github.com/gomlx/compute/dtypes"
)

// NewRandom makes a model with random weights, for tests, benchmarks and training from scratch: as transformers
// initializes, linears and embeddings from N(0, 0.02²), gains that change nothing, biases 0. The same seed gives the same weights on
// every backend.
func NewRandom(ctx context.Context, cfg Architecture, seed int64, o Options) (*CausalLM, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	src := newRandomSource(cfg, seed)
	m, err := load(ctx, cfg, src, o)
	if err == nil && quantized(o.Quantization) {
		m.src = src
	}
	return m, err
}

// randomSource makes up tensors from a seed and their names.
type randomSource struct {
	seed   uint64
	shapes map[string][]int
	gain   float32 // of norms
}

func newRandomSource(cfg Architecture, seed int64) *randomSource {
	gain := float32(1)
	if cfg.dims().shape.UnitOffset {
		gain = 0
	}
	return &randomSource{uint64(seed), tensorShapes(cfg), gain}
}

// tensorShapes lists all tensors of a checkpoint.
func tensorShapes(cfg Architecture) map[string][]int {
	d, block := cfg.dims(), cfg.tensors()
	out := endShapes(d)
	for i := range d.layers {
		maps.Copy(out, layerShapes(block, i))
	}
	return out
}

func (r *randomSource) shape(name string) ([]int, bool) {
	s, ok := r.shapes[name]
	return s, ok
}

func (r *randomSource) stored(string) (dtypes.DType, bool) { return dtypes.InvalidDType, false }

func (r *randomSource) read([]byte, string, int) error {
	return errors.New("random weights are stored nowhere") // not reached: see stored
}

func (r *randomSource) float32s(dst []float32, name string, at int) error {
	switch {
	case strings.HasSuffix(name, ".bias"):
		clear(dst)
	case len(r.shapes[name]) == 1:
		for i := range dst {
			dst[i] = r.gain
		}
	default:
		h := fnv.New64a()
		h.Write([]byte(name))
		normals(dst, at, r.seed, h.Sum64(), 0.02)
	}
	return nil
}

// normalQuantiles are the quantiles of N(0, 1) in the middle of 2^16 equal parts.
var normalQuantiles = sync.OnceValue(func() *[1 << 16]float32 {
	var t [1 << 16]float32
	for i := range t {
		t[i] = float32(math.Sqrt2 * math.Erfinv(2*(float64(i)+0.5)/float64(len(t))-1))
	}
	return &t
})

// normals fills dst with values from at on of an endless sequence from N(0, std²), of which each stretch has a random
// stream of its own.
func normals(dst []float32, at int, seed, name uint64, std float32) {
	const stretch = 1 << 16
	table := normalQuantiles()
	for len(dst) > 0 {
		start := at / stretch * stretch
		source := rand.NewPCG(seed, name+uint64(start))
		part := dst[:min(len(dst), start+stretch-at)]
		skip := at - start
		for range skip / 4 {
			source.Uint64()
		}
		skip %= 4
		for i := -skip; i < len(part); i += 4 {
			bits := source.Uint64()
			for j := i; j < min(i+4, len(part)); j++ {
				if j >= 0 {
					part[j] = std * table[uint16(bits)]
				}
				bits >>= 16
			}
		}
		dst, at = dst[len(part):], at+len(part)
	}
}

func (r *randomSource) path() string { return "random weights" }
func (r *randomSource) Close() error { return nil }
