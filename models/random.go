package models

import (
	"context"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"strings"
	"sync"

	"github.com/loris-ml/loris/internal/safetensors/floats"
)

// NewRandom makes a model with random weights, for tests, benchmarks and training from scratch: as transformers
// initializes, linears and embeddings from N(0, 0.02²), gains 1, biases 0. The same seed gives the same weights on
// every backend.
func NewRandom(ctx context.Context, cfg Architecture, seed int64, o Options) (*CausalLM, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return load(ctx, cfg, newRandomSource(cfg, seed), o)
}

// randomSource makes up tensors from a seed and their names.
type randomSource struct {
	seed   uint64
	shapes map[string][]int
}

func newRandomSource(cfg Architecture, seed int64) *randomSource {
	return &randomSource{uint64(seed), tensorShapes(cfg)}
}

// tensorShapes lists all tensors of a checkpoint.
func tensorShapes(cfg Architecture) map[string][]int {
	d := cfg.dims()
	out := map[string][]int{
		"model.embed_tokens.weight": {d.vocab, d.shape.Hidden},
		"model.norm.weight":         {d.shape.Hidden},
	}
	if !d.tied {
		out["lm_head.weight"] = []int{d.vocab, d.shape.Hidden}
	}
	block := cfg.tensors()
	for i := range d.layers {
		for _, n := range block.Norms {
			out[layerPrefix(i)+n.Name+".weight"] = []int{n.Size}
		}
		for _, l := range block.Linears() {
			out[layerPrefix(i)+l.Name+".weight"] = []int{l.Out, l.In}
			if l.Bias {
				out[layerPrefix(i)+l.Name+".bias"] = []int{l.Out}
			}
		}
	}
	return out
}

func (r *randomSource) shape(name string) ([]int, bool) {
	s, ok := r.shapes[name]
	return s, ok
}

func (r *randomSource) float32s(name string) ([]float32, error) {
	n := 1
	for _, d := range r.shapes[name] {
		n *= d
	}
	values := make([]float32, n)
	switch {
	case strings.HasSuffix(name, ".bias"):
	case len(r.shapes[name]) == 1:
		for i := range values {
			values[i] = 1
		}
	default:
		h := fnv.New64a()
		h.Write([]byte(name))
		normals(values, r.seed, h.Sum64(), 0.02)
	}
	return values, nil
}

// normalQuantiles are the quantiles of N(0, 1) in the middle of 2^16 equal parts.
var normalQuantiles = sync.OnceValue(func() *[1 << 16]float32 {
	var t [1 << 16]float32
	for i := range t {
		t[i] = float32(math.Sqrt2 * math.Erfinv(2*(float64(i)+0.5)/float64(len(t))-1))
	}
	return &t
})

// normals fills values from N(0, std²), in parallel: stretches of fixed size with random streams of their own.
func normals(values []float32, seed, name uint64, std float32) {
	const stretch = 1 << 16
	table := normalQuantiles()
	floats.InParallel((len(values)+stretch-1)/stretch, 1, func(from, to int) {
		for at := from * stretch; at < min(to*stretch, len(values)); at += stretch {
			source := rand.NewPCG(seed, name+uint64(at))
			part := values[at:min(at+stretch, len(values))]
			for i := 0; i < len(part); i += 4 {
				bits := source.Uint64()
				for j := i; j < min(i+4, len(part)); j++ {
					part[j] = std * table[uint16(bits)]
					bits >>= 16
				}
			}
		}
	})
}

func (r *randomSource) path() string { return "random weights" }
func (r *randomSource) Close() error { return nil }
