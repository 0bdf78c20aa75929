package models

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/gomlx/compute/dtypes"

	"github.com/loris-ml/loris/internal/offheap"
	"github.com/loris-ml/loris/internal/safetensors/floats"
	"github.com/loris-ml/loris/quant"
)

// staging is the host memory through which weights pass, used again for each.
type staging struct{ whole, joined offheap.Memory }

// tensor returns n bytes for one tensor as it is stored.
func (s *staging) tensor(n int) ([]byte, error) { return take(&s.whole, n) }

// group returns n bytes for what is uploaded as one.
func (s *staging) group(n int) ([]byte, error) { return take(&s.joined, n) }

func take(m *offheap.Memory, n int) ([]byte, error) {
	if err := m.Resize(n); err != nil {
		return nil, err
	}
	return m.Bytes()[:n], nil
}

func (s *staging) free() error { return errors.Join(s.whole.Free(), s.joined.Free()) }

// float32sOf is the memory of raw as float32s; raw is aligned as offheap's memory is.
func float32sOf(raw []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(raw))), len(raw)/4)
}

// reader reads the tensors of a source into host memory that it uses again; one goroutine at a time.
type reader struct {
	src          source
	dtype        dtypes.DType // of weights that are not quantized
	quantization *quant.BitsAndBytesConfig
	replaced     map[string]encoded // what stands for quantized weights in place of the source's, by path
	staging      staging
}

// check reports a tensor that is missing or of another shape.
func (r *reader) check(name string, dims []int) error {
	got, ok := r.src.shape(name)
	if !ok {
		return fmt.Errorf("%s: tensor %q is missing", r.src.path(), name)
	}
	if !slices.Equal(got, dims) {
		return fmt.Errorf("%s: tensor %q has shape %v, want %v as the model's config says", r.src.path(), name, got, dims)
	}
	return nil
}

// piece is about how many elements are read, or converted, at a time by each processor.
const piece = 1 << 16

// fill puts a tensor into dst in the dtype of weights: as it is stored, or converted piece by piece.
func (r *reader) fill(dst []byte, name string, dims ...int) error {
	if err := r.check(name, dims); err != nil {
		return err
	}
	if stored, ok := r.src.stored(name); ok && stored == r.dtype {
		return r.stored(dst, name, r.dtype, dims)
	}
	to, ok := fileDTypes[r.dtype]
	if !ok {
		return fmt.Errorf("dtype %s is not supported for weights", r.dtype)
	}
	size := r.dtype.Size()
	return inPieces(dims, func(scratch []float32, from, n int) error {
		values := scratch[:n]
		if err := r.src.float32s(values, name, from); err != nil {
			return err
		}
		return floats.EncodeTo(dst[from*size:(from+n)*size], to, values)
	})
}

// stored puts the bytes of a tensor that is stored as dtype into dst.
func (r *reader) stored(dst []byte, name string, dtype dtypes.DType, dims []int) error {
	size := dtype.Size()
	return inPieces(dims, func(_ []float32, from, n int) error {
		return r.src.read(dst[from*size:(from+n)*size], name, from)
	})
}

// whole reads a tensor as it is stored, or as float32, into memory that the next one takes.
func (r *reader) whole(name string, dims ...int) (raw []byte, dtype dtypes.DType, err error) {
	if err := r.check(name, dims); err != nil {
		return nil, 0, err
	}
	dtype, ok := r.src.stored(name)
	if !ok {
		dtype = dtypes.Float32
	}
	if raw, err = r.staging.tensor(size(dims) * dtype.Size()); err != nil {
		return nil, 0, err
	}
	if ok {
		return raw, dtype, r.stored(raw, name, dtype, dims)
	}
	values := float32sOf(raw)
	return raw, dtype, inPieces(dims, func(_ []float32, from, n int) error {
		return r.src.float32s(values[from:from+n], name, from)
	})
}

func size(dims []int) int {
	n := 1
	for _, d := range dims {
		n *= d
	}
	return n
}

// inPieces calls fn on pieces of a tensor, whole rows each, on all processors; scratch has room for a piece.
func inPieces(dims []int, fn func(scratch []float32, from, n int) error) error {
	width := dims[len(dims)-1]
	rows := size(dims) / width
	step := max(1, piece/width)
	errs := make(chan error, rows/step+1) // at most one of each range, which has a step at least
	floats.InParallel(rows, step, func(lo, hi int) {
		scratch := make([]float32, min(step, hi-lo)*width)
		for ; lo < hi; lo += step {
			if err := fn(scratch, lo*width, min(step, hi-lo)*width); err != nil {
				errs <- err
				return
			}
		}
	})
	close(errs)
	return <-errs
}
