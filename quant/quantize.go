package quant

import (
	"fmt"
	"math"
	"sync/atomic"

	"github.com/gomlx/compute/dtypes"
)

// Quantize4Bit encodes values in blocks of blocksize (0: 64) to bitsandbytes' bytes, [(n+1)/2], and the state that
// decodes them; doubleQuant quantizes the block scales too. The state has shape [n] and dtype Float32; set its Shape to
// the weight's, and its DType if decoding is to round to another. It uses all CPUs.
//
// No values, an unknown type, a blocksize that bitsandbytes does not have, and a value that is NaN or infinite are
// errors; the last names the value and its index.
func Quantize4Bit(values []float32, qt QuantType, blocksize int, doubleQuant bool) (packed []byte, state *QuantState, err error) {
	load := func(_ []float32, begin, end int) []float32 { return values[begin:end] }
	return quantize(load, []int{len(values)}, dtypes.Float32, qt, blocksize, doubleQuant)
}

// Quantize4BitRaw is [Quantize4Bit] on the little-endian bytes of a tensor of shape and dtype Float32, Float16 or
// BFloat16, as they lie in a safetensors file. The whole tensor never exists in float32.
func Quantize4BitRaw(raw []byte, dtype dtypes.DType, shape []int, qt QuantType, blocksize int, doubleQuant bool) (packed []byte, state *QuantState, err error) {
	n, err := size(shape)
	if err != nil {
		return nil, nil, err
	}
	load, err := rawLoader(raw, dtype, shape, n)
	if err != nil {
		return nil, nil, err
	}
	return quantize(load, shape, dtype, qt, blocksize, doubleQuant)
}

// A loader returns values [begin, end), as many as scratch holds at most, in scratch or where they are.
type loader func(scratch []float32, begin, end int) []float32

// rawLoader reads the little-endian bytes of n values of shape and dtype.
func rawLoader(raw []byte, dtype dtypes.DType, shape []int, n int) (loader, error) {
	if err := checkDType(dtype); err != nil {
		return nil, err
	}
	if want := n * dtype.Size(); len(raw) != want {
		return nil, fmt.Errorf("%d bytes for a tensor of shape %v and dtype %s, want %d", len(raw), shape, dtype, want)
	}
	widen := widener(dtype)
	return func(scratch []float32, begin, end int) []float32 {
		widen(scratch[:end-begin], raw[begin*dtype.Size():])
		return scratch[:end-begin]
	}, nil
}

func quantize(load loader, shape []int, dtype dtypes.DType, qt QuantType, blocksize int, doubleQuant bool) ([]byte, *QuantState, error) {
	book, err := qt.book()
	if err != nil {
		return nil, nil, err
	}
	if blocksize, err = checkBlocksize(blocksize); err != nil {
		return nil, nil, err
	}
	n, err := size(shape)
	if err != nil {
		return nil, nil, err
	}
	packed := make([]byte, (n+1)/2)
	state := &QuantState{
		QuantType: qt,
		Blocksize: blocksize,
		Shape:     append([]int(nil), shape...),
		DType:     dtype,
		Absmax:    make([]float32, blocks(n, blocksize)),
	}
	var firstBad atomic.Int64 // index of the first NaN or infinity
	firstBad.Store(math.MaxInt64)
	parallel(n, 1<<14, func(begin, end int) {
		scratch := make([]float32, blocksize)
		for ; begin < end; begin += blocksize {
			stop := min(begin+blocksize, end)
			x := load(scratch, begin, stop)
			absmax, finite := book.encodeBlock(packed[begin/2:(stop+1)/2], x, len(x) < blocksize)
			if !finite {
				lower(&firstBad, int64(begin+indexNotFinite(x)))
				return
			}
			state.Absmax[begin/blocksize] = absmax
		}
	})
	if i := int(firstBad.Load()); i < n {
		bad := load(make([]float32, 1), i, i+1)[0]
		return nil, nil, fmt.Errorf("value %d of %d (shape %v) is %v: only finite values can be quantized", i, n, shape, bad)
	}
	if doubleQuant {
		if state.Nested, err = newNestedState(state.Absmax); err != nil {
			return nil, nil, err
		}
		state.Absmax = state.Nested.decode()
	}
	return packed, state, nil
}

// lower sets a to v if that is less.
func lower(a *atomic.Int64, v int64) {
	for old := a.Load(); v < old && !a.CompareAndSwap(old, v); old = a.Load() {
	}
}

const infBits = 0x7f800000 // of +Inf; all magnitudes above are NaN

func indexNotFinite(x []float32) int {
	for i, v := range x {
		if math.Float32bits(v)&^(1<<31) >= infBits {
			return i
		}
	}
	return -1
}
