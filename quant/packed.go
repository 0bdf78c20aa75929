package quant

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// Layout is what a program must know of a quantized weight when it is built; weights of equal layout share programs.
type Layout struct {
	// QuantType is NF4, FP4 or Int8.
	QuantType QuantType
	// Blocksize is the number of weights that share a scale; of Int8 the length of a row.
	Blocksize int
	// Shape of the weight, [out, in].
	Shape []int
	// NestedBlocksize is the number of block scales that share a nested scale and an offset; 0 without double
	// quantization. It is 256, or a divisor of that after [Concat].
	NestedBlocksize int
}

// Packed is a quantized weight as it lies in device memory. Make it with [NewPacked], [Int8Weight.Packed] or [Concat].
type Packed struct {
	Layout
	// Codes are the half-planes ([HalfPlanes]), [(n+1)/2]; of Int8 the bytes of its codes, [n].
	Codes []byte
	// Absmax is the scale of each block, [ceil(n/Blocksize)]; nil with double quantization.
	Absmax []float32
	// AbsmaxCodes, [ceil(n/Blocksize)], are the scales' codes in the signed [DynamicMap], with double quantization.
	AbsmaxCodes []uint8
	// NestedAbsmax and NestedOffset, [ceil(nblocks/NestedBlocksize)], are what decodes each group of AbsmaxCodes:
	// float32(map[code]·NestedAbsmax) + NestedOffset.
	NestedAbsmax, NestedOffset []float32
}

// NewPacked prepares bitsandbytes' bytes and their state for the device. Scales that are quantized with other numbers
// than [DynamicMap]'s, as a checkpoint from another platform may have them, are kept decoded. It shares Absmax and the
// nested arrays with state; bytes that do not fit the state are an error.
func NewPacked(packed []byte, state *QuantState) (*Packed, error) {
	if err := state.check(packed); err != nil {
		return nil, err
	}
	p := &Packed{
		Layout: Layout{QuantType: state.QuantType, Blocksize: state.Blocksize, Shape: slices.Clone(state.Shape)},
		Codes:  HalfPlanes(packed),
		Absmax: state.Absmax,
	}
	if n := state.Nested; n != nil && n.Code == DynamicMap(true) {
		p.NestedBlocksize = n.Blocksize
		p.Absmax = nil
		p.AbsmaxCodes = n.Codes
		p.NestedAbsmax = n.Absmax
		p.NestedOffset = slices.Repeat([]float32{n.Offset}, len(n.Absmax))
	}
	return p, nil
}

// Input is one array that a program takes: Raw are the values in the machine's byte order, shared with the Packed.
type Input struct {
	Shape shapes.Shape
	Raw   []byte
}

// Inputs returns what [Layout.DequantizeNode] takes, in its order: codes and absmax, or codes, absmax codes, nested
// absmax and nested offset.
func (p *Packed) Inputs() []Input {
	u8 := func(x []byte) Input { return Input{shapes.Make(dtypes.Uint8, len(x)), x} }
	f32 := func(x []float32) Input {
		return Input{shapes.Make(dtypes.Float32, len(x)), unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))}
	}
	if p.QuantType == Int8 {
		return []Input{{shapes.Make(dtypes.Int8, len(p.Codes)), p.Codes}, f32(p.Absmax)}
	}
	if p.NestedBlocksize == 0 {
		return []Input{u8(p.Codes), f32(p.Absmax)}
	}
	return []Input{u8(p.Codes), u8(p.AbsmaxCodes), f32(p.NestedAbsmax), f32(p.NestedOffset)}
}

// Bytes is the device memory that the weight takes.
func (p *Packed) Bytes() int {
	total := 0
	for _, in := range p.Inputs() {
		total += len(in.Raw)
	}
	return total
}

// Dequantize decodes p on the host, as [Dequantize4Bit] or [Int8Weight.Dequantize] does and with the same bits: [n]
// values rounded to dtype.
func (p *Packed) Dequantize(dtype dtypes.DType) ([]float32, error) {
	if p.QuantType == Int8 {
		return p.int8Weight().Dequantize(dtype)
	}
	return Dequantize4Bit(FromHalfPlanes(p.Codes), &QuantState{
		QuantType: p.QuantType, Blocksize: p.Blocksize, Shape: p.Shape, DType: dtype, Absmax: p.decodedAbsmax(),
	})
}

func (p *Packed) decodedAbsmax() []float32 {
	if p.NestedBlocksize == 0 {
		return p.Absmax
	}
	numbers := DynamicMap(true)
	absmax := make([]float32, len(p.AbsmaxCodes))
	for b, code := range p.AbsmaxCodes {
		group := b / p.NestedBlocksize
		absmax[b] = float32(numbers[code]*p.NestedAbsmax[group]) + p.NestedOffset[group]
	}
	return absmax
}

// ErrUnaligned is why [Concat] cannot stack weights whose blocks would then begin inside blocks: keep them apart.
var ErrUnaligned = errors.New("the weight does not fill its last block, so no other can follow it")

// Concat stacks weights [outᵢ, in] to one [Σ outᵢ, in] that decodes to the same bits, so that linears which share their
// input (q|k|v, gate|up) take one dequantization and one product. Types, blocksizes and inner dimensions must agree,
// and every weight but the last must fill its blocks (else the error wraps [ErrUnaligned]); those of [Int8] always do.
//
// Each weight keeps its own nested scales and offset. Where a weight's last nested group is short, all groups are cut
// to a common divisor, and their scales repeated; where that would cost more than it saves, the scales are decoded.
func Concat(rows ...*Packed) (*Packed, error) {
	if len(rows) == 0 {
		return nil, errors.New("concat: no weights")
	}
	out, err := stackedLayout(rows)
	if err != nil {
		return nil, fmt.Errorf("concat: %w", err)
	}
	out.Codes = stackedCodes(rows)
	if group := commonGroup(rows); group > 0 {
		out.NestedBlocksize = group
		for _, p := range rows {
			out.appendNested(p)
		}
		return out, nil
	}
	for _, p := range rows {
		out.Absmax = append(out.Absmax, p.decodedAbsmax()...)
	}
	return out, nil
}

// stackedCodes returns the codes of rows one after the other.
func stackedCodes(rows []*Packed) []byte {
	total := 0
	for _, p := range rows {
		total += len(p.Codes)
	}
	codes := make([]byte, 0, total)
	if rows[0].QuantType == Int8 {
		for _, p := range rows {
			codes = append(codes, p.Codes...)
		}
		return codes
	}
	codes = codes[:total]
	at := 0
	for _, p := range rows {
		fromHalfPlanes(codes[at:at+len(p.Codes)], p.Codes)
		at += len(p.Codes)
	}
	return HalfPlanes(codes)
}

// stackedLayout returns an empty weight of the type, blocksize and shape of rows stacked, or why they cannot be.
func stackedLayout(rows []*Packed) (*Packed, error) {
	first := rows[0]
	out := &Packed{}
	for i, p := range rows {
		if p == nil || len(p.Shape) == 0 {
			return nil, fmt.Errorf("weight %d has no dimension to stack along", i)
		}
		if i == 0 {
			out.Layout = Layout{QuantType: p.QuantType, Blocksize: p.Blocksize, Shape: slices.Clone(p.Shape)}
			out.Shape[0] = 0
		}
		if p.QuantType != first.QuantType || p.Blocksize != first.Blocksize || !slices.Equal(p.Shape[1:], first.Shape[1:]) {
			return nil, fmt.Errorf("weight %d is %s in blocks of %d, shape %v, and weight 0 %s in blocks of %d, shape %v; all but the first dimension must agree",
				i, p.QuantType, p.Blocksize, p.Shape, first.QuantType, first.Blocksize, first.Shape)
		}
		n, err := size(p.Shape)
		if err != nil {
			return nil, fmt.Errorf("weight %d: %w", i, err)
		}
		if i < len(rows)-1 && n%p.Blocksize != 0 {
			return nil, fmt.Errorf("weight %d of shape %v has %d values, not a multiple of the blocksize %d: %w",
				i, p.Shape, n, p.Blocksize, ErrUnaligned)
		}
		out.Shape[0] += p.Shape[0]
	}
	return out, nil
}

// commonGroup returns the largest size of nested groups into which those of all rows can be cut, and 0 if some row has
// none or if groups of that size save nothing: they cost a byte a block and 8 a group, decoded scales 4 a block.
func commonGroup(rows []*Packed) int {
	group := 0
	for i, p := range rows {
		if p.NestedBlocksize == 0 {
			return 0
		}
		group = gcd(group, p.NestedBlocksize)
		if i < len(rows)-1 {
			group = gcd(group, len(p.AbsmaxCodes))
		}
	}
	if group < 4 {
		return 0
	}
	return group
}

// appendNested appends p's nested scales, cut to groups of out.NestedBlocksize.
func (out *Packed) appendNested(p *Packed) {
	out.AbsmaxCodes = append(out.AbsmaxCodes, p.AbsmaxCodes...)
	for b := 0; b < len(p.AbsmaxCodes); b += out.NestedBlocksize {
		out.NestedAbsmax = append(out.NestedAbsmax, p.NestedAbsmax[b/p.NestedBlocksize])
		out.NestedOffset = append(out.NestedOffset, p.NestedOffset[b/p.NestedBlocksize])
	}
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
