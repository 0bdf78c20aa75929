package quant

import (
	"fmt"
	"math"
	"slices"
	"sync/atomic"
)

// BlockwiseBlocksize is the number of values that share a scale in [QuantizeBlockwise] unless told otherwise.
const BlockwiseBlocksize = 4096

// QuantizeBlockwise encodes values to one byte each, as bitsandbytes' quantize_blockwise does (arXiv:2110.02861): in
// blocks of blocksize (0: [BlockwiseBlocksize]; else a power of two from 32 to 4096) with the scale absmax = max|x| in
// float32, [ceil(n/blocksize)], a value's code is the index of the number nearest to x·(1/absmax). numbers are 256
// ascending ones in [-1, 1], as a rule a [DynamicMap]. It uses all CPUs.
//
// The bytes are those of bitsandbytes on a CPU for float32, and for float16 and bfloat16 widened to float32: its kernel
// finds the number in a table of 65536 steps over [-1, 1], so that what is below 1.5e-5 of absmax gets a number of about
// that size and not always the nearest; an all-zero block is all code 0. A value that is NaN or infinite is an error that
// names its index, as are no values, another blocksize and numbers that do not ascend.
func QuantizeBlockwise(values []float32, numbers [256]float32, blocksize int) (codes []uint8, absmax []float32, err error) {
	if blocksize == 0 {
		blocksize = BlockwiseBlocksize
	}
	if blocksize, err = checkBlocksize(blocksize); err != nil {
		return nil, nil, err
	}
	if len(values) == 0 {
		return nil, nil, fmt.Errorf("quantize blockwise: no values")
	}
	if err := checkNumbers(&numbers); err != nil {
		return nil, nil, fmt.Errorf("quantize blockwise: %w", err)
	}
	steps := stepCodes(&numbers)
	codes, absmax = make([]uint8, len(values)), make([]float32, blocks(len(values), blocksize))
	var firstBad atomic.Int64
	firstBad.Store(math.MaxInt64)
	parallel(len(values), 1<<14, func(begin, end int) {
		for ; begin < end; begin += blocksize {
			stop := min(begin+blocksize, end)
			x := values[begin:stop]
			a := encodeSteps(codes[begin:stop], x, steps)
			if math.Float32bits(a) >= infBits {
				lower(&firstBad, int64(begin+indexNotFinite(x)))
				return
			}
			absmax[begin/blocksize] = a
		}
	})
	if i := int(firstBad.Load()); i < len(values) {
		return nil, nil, fmt.Errorf("value %d of %d is %v: only finite values can be quantized", i, len(values), values[i])
	}
	return codes, absmax, nil
}

// encodeSteps writes the codes of x, one block, and returns its absmax; if that is NaN or infinite, the codes mean nothing.
func encodeSteps(dst []uint8, x []float32, steps *[dynamicSteps]uint8) float32 {
	absmax := math.Float32frombits(absmaxBits(x))
	if absmax == 0 || absmax-absmax != 0 {
		clear(dst) // whatever the number, its product with 0 is 0
		return absmax
	}
	inverse := 1 / absmax
	for i, v := range x {
		dst[i] = steps[dynamicStep(v*inverse)]
	}
	return absmax
}

// DequantizeBlockwise decodes what [QuantizeBlockwise] encoded with the same numbers and blocksize: numbers[code]·absmax,
// rounded to float32. Lengths that do not fit each other are errors.
func DequantizeBlockwise(codes []uint8, absmax []float32, numbers [256]float32, blocksize int) ([]float32, error) {
	if blocksize == 0 {
		blocksize = BlockwiseBlocksize
	}
	blocksize, err := checkBlocksize(blocksize)
	if err != nil {
		return nil, err
	}
	if want := blocks(len(codes), blocksize); len(absmax) != want {
		return nil, fmt.Errorf("dequantize blockwise: %d absmax for %d codes in blocks of %d, want %d", len(absmax), len(codes), blocksize, want)
	}
	values := make([]float32, len(codes))
	parallel(len(codes), 1<<14, func(begin, end int) {
		for ; begin < end; begin += blocksize {
			scale := absmax[begin/blocksize]
			for i := begin; i < min(begin+blocksize, end); i++ {
				values[i] = numbers[codes[i]] * scale
			}
		}
	})
	return values, nil
}

// checkNumbers refuses a map whose numbers do not ascend within [-1, 1]; NaN does not.
func checkNumbers(numbers *[256]float32) error {
	if !slices.IsSorted(numbers[:]) || !(numbers[0] >= -1 && numbers[255] <= 1) {
		return fmt.Errorf("the 256 numbers go from %v to %v: they must ascend from -1 at least to 1 at most; use DynamicMap", numbers[0], numbers[255])
	}
	return nil
}
