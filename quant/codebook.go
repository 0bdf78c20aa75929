package quant

import (
	"fmt"
	"math"
	"sync"
)

// QuantType names a 4-bit data type as bitsandbytes does: "nf4" or "fp4".
type QuantType string

const (
	// NF4 is NormalFloat4 (QLoRA, arXiv:2305.14314): 16 quantiles of the normal distribution, 0 among them.
	NF4 QuantType = "nf4"
	// FP4 is bitsandbytes' 4-bit float: a sign and 3 bits for 0, 1/192, 1/6, 1/4, 1/3, 1/2, 2/3, 1.
	FP4 QuantType = "fp4"
)

// nf4Values are the NF4 numbers by code, ascending.
var nf4Values = [16]float32{
	-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
	-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
	0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
	0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
}

// fp4Values are the FP4 numbers by code: bitsandbytes divides 0, 0.0625, 8, 12, 4, 6, 2, 3 by 12 in float32.
var fp4Values = [16]float32{
	0, 0.0625 / 12., 8 / 12., 1, 4 / 12., 6 / 12., 2 / 12., 3 / 12.,
	0, -0.0625 / 12., -8 / 12., -1, -4 / 12., -6 / 12., -2 / 12., -3 / 12.,
}

// fp4Order lists the FP4 codes by ascending value. Of the two zeros the positive one comes first, because that is how
// torch.argsort leaves them in bitsandbytes: 0 is code 0, and a positive value too small for code 1 is code 8.
var fp4Order = [16]uint8{11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3}

var nf4Order = [16]uint8{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// cells is how many equal intervals of [-1, 1] the encoder's first guess distinguishes. FP4's boundaries next to zero
// are 0.0026 apart, and no cell may contain two.
const cells = 2048

// A codebook finds the nearest of 16 numbers without branches: the cell that a value lies in gives the number of
// boundaries certainly below it, and one comparison with the next boundary the exact rank.
type codebook struct {
	values [16]float32 // by code, as quant_map has them
	decode [16]float32 // the same, but that a code with a sign bit for zero gives -0
	bounds [16]float32 // ascending midpoints of neighbouring values, then +Inf
	rank   [cells]uint8
	pair   [256]uint8 // two ranks, high and low nibble → two codes

	// The same for vectors: the boundaries that a binary search compares with, by level, in the order of the bits found
	// before (repeated), and codes by rank, for either half of a byte, twice.
	levels              [4][8]float32
	lowCodes, highCodes [32]uint8
}

// cellOf maps a scaled value in [-1, 1], or an ulp beyond, to a cell. It never decreases with s, whatever the rounding.
func cellOf(s float32) int { return int(int32(float32(s*(cells/2-1))+cells/2)) & (cells - 1) }

func newCodebook(values [16]float32, order [16]uint8) *codebook {
	c := &codebook{values: values, decode: values}
	for i := range 15 {
		c.bounds[i] = (values[order[i]] + values[order[i+1]]) / 2
		// Every value above the boundary is at least the next float, so all cells beyond that float's are above it.
		above := math.Nextafter32(c.bounds[i], 2)
		for cell := cellOf(above) + 1; cell < cells; cell++ {
			c.rank[cell]++
		}
	}
	c.bounds[15] = float32(math.Inf(1))
	for i := range 256 {
		c.pair[i] = order[i>>4]<<4 | order[i&15]
	}
	for i := range 8 {
		c.levels[0][i] = c.bounds[7]
		c.levels[1][i] = c.bounds[3+8*(i%2)]
		c.levels[2][i] = c.bounds[1+4*(i%4)]
		c.levels[3][i] = c.bounds[2*i]
	}
	for i := range c.lowCodes {
		code := order[i%16]
		c.lowCodes[i], c.highCodes[i] = code, code<<4
	}
	return c
}

var (
	nf4Book = sync.OnceValue(func() *codebook { return newCodebook(nf4Values, nf4Order) })
	fp4Book = sync.OnceValue(func() *codebook {
		c := newCodebook(fp4Values, fp4Order)
		c.decode[8] = float32(math.Copysign(0, -1))
		return c
	})
)

// book returns the codebook of q, or an error that says which types exist.
func (q QuantType) book() (*codebook, error) {
	switch q {
	case NF4:
		return nf4Book(), nil
	case FP4:
		return fp4Book(), nil
	}
	return nil, fmt.Errorf("quant type %q is unknown; use quant.NF4 (%q) or quant.FP4 (%q)", string(q), NF4, FP4)
}

// Values returns the 16 numbers that q's codes 0…15 stand for, which bitsandbytes calls quant_map. An unknown type is
// an error.
func (q QuantType) Values() ([16]float32, error) {
	c, err := q.book()
	if err != nil {
		return [16]float32{}, err
	}
	return c.values, nil
}

// DefaultBlocksize is the number of values that share one scale unless told otherwise; transformers knows no other.
const DefaultBlocksize = 64

// checkBlocksize accepts what bitsandbytes accepts; 0 is the default.
func checkBlocksize(blocksize int) (int, error) {
	if blocksize == 0 {
		return DefaultBlocksize, nil
	}
	if blocksize < 32 || blocksize > 4096 || blocksize&(blocksize-1) != 0 {
		return 0, fmt.Errorf("blocksize %d: bitsandbytes has 32, 64, 128, 256, 512, 1024, 2048 and 4096", blocksize)
	}
	return blocksize, nil
}
