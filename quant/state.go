package quant

import (
	"fmt"
	"math"
	"slices"

	"github.com/gomlx/compute/dtypes"
)

// QuantState is what decodes a packed 4-bit weight, as bitsandbytes' QuantState is.
type QuantState struct {
	QuantType QuantType
	Blocksize int
	// Shape of the weight, row-major; its size n is the number of codes.
	Shape []int
	// DType that the weight had and is decoded to: Float32, Float16 or BFloat16.
	DType dtypes.DType
	// Absmax is the scale of each block as used for decoding, [ceil(n/Blocksize)]: decoded, if Nested is set.
	Absmax []float32
	// Nested is how double quantization stores Absmax; nil without it.
	Nested *NestedState
}

// NestedBlocksize is the number of absmax that share one nested absmax in what bitsandbytes writes.
const NestedBlocksize = 256

// NestedState is Absmax quantized once more: Absmax[b] = float32(Code[Codes[b]]·Absmax[b/Blocksize]) + Offset, where
// the Absmax on the right is this struct's.
type NestedState struct {
	Codes     []uint8      // [nblocks]
	Absmax    []float32    // [ceil(nblocks/Blocksize)]
	Code      [256]float32 // the numbers of the codes: DynamicMap(true), or what a checkpoint brings
	Offset    float32      // the mean of the original absmax
	Blocksize int          // 256
}

// QuantizeAbsmax quantizes the scales of blocks as double quantization does. It is for scales made by [Quantize4BitNode];
// [Quantize4Bit] does it itself. No scales, and a mean beyond float32's range, for which bitsandbytes would write infinity
// and decode NaN, are errors.
func QuantizeAbsmax(absmax []float32) (*NestedState, error) {
	if len(absmax) == 0 {
		return nil, fmt.Errorf("double quantization: no block scales")
	}
	if i := indexNotFinite(absmax); i >= 0 {
		return nil, fmt.Errorf("double quantization: block scale %d of %d is %v: only finite values can be quantized", i, len(absmax), absmax[i])
	}
	return newNestedState(absmax)
}

func newNestedState(absmax []float32) (*NestedState, error) {
	n := &NestedState{
		Codes:     make([]uint8, len(absmax)),
		Absmax:    make([]float32, (len(absmax)+NestedBlocksize-1)/NestedBlocksize),
		Code:      DynamicMap(true),
		Offset:    mean32(absmax),
		Blocksize: NestedBlocksize,
	}
	if math.IsInf(float64(n.Offset), 0) {
		return nil, fmt.Errorf("double quantization: the sum of %d block scales is beyond float32's range; quantize without it, or scale the weight down", len(absmax))
	}
	codes := signedCodes()
	parallel(len(absmax), 1<<14, func(begin, end int) {
		for ; begin < end; begin += NestedBlocksize {
			n.encode(absmax, begin, min(begin+NestedBlocksize, end), codes)
		}
	})
	return n, nil
}

// encode quantizes absmax[begin:end], one nested block.
func (n *NestedState) encode(absmax []float32, begin, end int, codes *[dynamicSteps]uint8) {
	shifted := make([]float32, end-begin)
	for i := range shifted {
		shifted[i] = absmax[begin+i] - n.Offset
	}
	n.Absmax[begin/NestedBlocksize] = encodeSteps(n.Codes[begin:end], shifted, codes)
}

// decode returns the absmax that the codes stand for. The product is rounded before the sum: no fused multiply-add.
func (n *NestedState) decode() []float32 {
	absmax := make([]float32, len(n.Codes))
	parallel(len(absmax), 1<<14, func(begin, end int) {
		for b := begin; b < end; b++ {
			absmax[b] = float32(n.Code[n.Codes[b]]*n.Absmax[b/n.Blocksize]) + n.Offset
		}
	})
	return absmax
}

// size returns the number of values of shape, an error if there are none.
func size(shape []int) (int, error) {
	n := 1
	for _, d := range shape {
		if d <= 0 || n > math.MaxInt/d {
			return 0, fmt.Errorf("shape %v: every dimension must be positive and the size fit an int", shape)
		}
		n *= d
	}
	return n, nil
}

// blocks is the number of blocks of n values.
func blocks(n, blocksize int) int { return (n + blocksize - 1) / blocksize }

// check reports what makes s unfit to decode packed.
func (s *QuantState) check(packed []byte) error {
	if s == nil {
		return fmt.Errorf("no quantization state given")
	}
	if _, err := s.QuantType.book(); err != nil {
		return err
	}
	if bs, err := checkBlocksize(s.Blocksize); err != nil || bs != s.Blocksize {
		return fmt.Errorf("state has blocksize %d: bitsandbytes has 32, 64, 128, 256, 512, 1024, 2048 and 4096", s.Blocksize)
	}
	if err := checkDType(s.DType); err != nil {
		return err
	}
	n, err := size(s.Shape)
	if err != nil {
		return err
	}
	if len(packed) != (n+1)/2 {
		return fmt.Errorf("%d packed bytes for shape %v: %d values need %d", len(packed), s.Shape, n, (n+1)/2)
	}
	if want := blocks(n, s.Blocksize); len(s.Absmax) != want {
		return fmt.Errorf("%d absmax for shape %v in blocks of %d, want %d", len(s.Absmax), s.Shape, s.Blocksize, want)
	}
	return s.Nested.check(len(s.Absmax))
}

func (n *NestedState) check(nblocks int) error {
	if n == nil {
		return nil
	}
	if n.Blocksize <= 0 {
		return fmt.Errorf("nested blocksize %d must be positive", n.Blocksize)
	}
	if len(n.Codes) != nblocks || len(n.Absmax) != blocks(nblocks, n.Blocksize) {
		return fmt.Errorf("%d nested codes and %d nested absmax for %d blocks in groups of %d, want %d and %d",
			len(n.Codes), len(n.Absmax), nblocks, n.Blocksize, nblocks, blocks(nblocks, n.Blocksize))
	}
	return nil
}

// checkDType accepts the dtypes that bitsandbytes quantizes from and decodes to.
func checkDType(d dtypes.DType) error {
	if !slices.Contains([]dtypes.DType{dtypes.Float32, dtypes.Float16, dtypes.BFloat16}, d) {
		return fmt.Errorf("dtype %s: quantized weights come from and decode to float32, float16 or bfloat16", d)
	}
	return nil
}
