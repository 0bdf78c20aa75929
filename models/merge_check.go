package models

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/gomlx/compute/dtypes"
)

// mergeLimits are the most by which a merged model's logits may differ, of their norm, by the coarsest format that weights
// and activations are rounded to. In float32 only the order of sums is another; bfloat16 alone makes 1 to 2 %, and float16,
// which has three bits more, an eighth of that. In float8 the merged weights' roundings are not those of the ones below the adapters.
var mergeLimits = map[DType]float64{Float32: 1e-3, Float16: 1e-2, BFloat16: 5e-2, Float8E4M3: 0.2}

// mergeCheckLength is the number of tokens that a merge is tried on.
const mergeCheckLength = 24

// MergeError says that a merged model would not compute what the model with its adapters does.
type MergeError struct {
	Difference float64 // ‖merged − unmerged‖ / ‖unmerged‖ of the logits of some tokens; may be NaN
	Limit      float64 // what was allowed
}

func (e *MergeError) Error() string {
	return fmt.Sprintf("the merged model's logits differ by %.3g of their norm from those with the adapters beside the weights, want %g at most; nothing was written. "+
		"Look for NaN or very large values in the adapters; where weights are bfloat16, float32 rounds less", e.Difference, e.Limit)
}

// checkLogits loads the weights that s is to write and compares their logits with the model's own with loras on it, whose
// sum they are. That takes the memory of the merged weights on the device.
func (s *saver) checkLogits(loras []LoRA) (err error) {
	ctx, m, d := context.Background(), s.m, s.m.arch.dims()
	ids := make([]int, mergeCheckLength)
	for i := range ids {
		ids[i] = (7919*i + 11) % d.vocab
	}
	adapters, err := m.NewAdapters(loras)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, adapters.Close()) }()
	want, err := m.LogitsWith(ctx, adapters, [][]int{ids}, nil)
	if err != nil {
		return fmt.Errorf("merge: logits with the adapters beside the weights: %w", err)
	}
	o, limit := s.checkOptions()
	merged, err := load(ctx, s.arch, &savedSource{saver: s, shapes: tensorShapes(s.arch)}, o)
	if err != nil {
		return fmt.Errorf("merge: load the merged weights to check them (SkipCheck leaves that out): %w", err)
	}
	defer func() { err = errors.Join(err, merged.Close()) }()
	got, err := merged.Logits(ctx, [][]int{ids}, nil)
	if err != nil {
		return fmt.Errorf("merge: logits of the merged weights: %w", err)
	}
	if e := relativeError(got[0], want[0]); !(e <= limit) {
		return fmt.Errorf("merge: %w", &MergeError{Difference: e, Limit: limit})
	}
	return nil
}

// checkOptions are those that the merged weights are loaded with, in the format in which they will be written and with the
// arithmetic of the model, and how much their logits may differ.
func (s *saver) checkOptions() (Options, float64) {
	o := s.m.options
	o.Quantization, o.Trainable, o.Progress, o.DType, o.ComputeDType = nil, false, nil, s.format, formatOf(s.m.run.Shape.Compute)
	if s.m.run.Shape.Float8 {
		o.ComputeDType = Float8E4M3
	}
	return o, max(mergeLimits[o.DType], mergeLimits[o.ComputeDType])
}

// relativeError is ‖got − want‖ / ‖want‖, 0 for 0/0.
func relativeError(got, want [][]float32) float64 {
	diff, norm := 0.0, 0.0
	for i, row := range want {
		for j, w := range row {
			d := float64(got[i][j]) - float64(w)
			diff += d * d
			norm += float64(w) * float64(w)
		}
	}
	if diff == 0 {
		return 0
	}
	return math.Sqrt(diff / norm)
}

// savedSource gives the tensors that a saver is to write, without a file.
type savedSource struct {
	saver  *saver
	shapes map[string][]int

	mu     sync.Mutex // guards the tensor that was asked for last
	name   string
	values []float32
}

func (s *savedSource) shape(name string) ([]int, bool) {
	shape, ok := s.shapes[name]
	return shape, ok
}

func (s *savedSource) stored(string) (dtypes.DType, bool) { return dtypes.InvalidDType, false }

func (s *savedSource) read([]byte, string, int) error {
	return errors.New("merged tensors have no stored form") // not called: stored says so
}

func (s *savedSource) float32s(dst []float32, name string, at int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.name != name {
		values, err := s.saver.values(modulePath(name), name)
		if err != nil {
			return err
		}
		s.name, s.values = name, values
	}
	copy(dst, s.values[at:])
	return nil
}

func (s *savedSource) path() string { return s.saver.m.path }
func (s *savedSource) Close() error { return nil }
