package kernels

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/draw"
)

// Dropout says what dropout before adapters that share an input leaves of it, for each adapter anew: element [t, c] of the
// input is kept for adapter i where draw.Keep(draw.Columns(Keys[i], ·), Rates[i]) says so at [t, c]. Kept elements stay
// as they are here; the factor 1/(1-rate) is the caller's, who has something smaller to multiply.
//
// The masks are never in memory: each operation draws them again. Half a hash for an element costs less than reading one.
type Dropout struct {
	Keys  *Node     // uint32 [adapters, T]: the random streams of the tokens
	Rates []float64 // of each adapter, [0, 1)
	Ranks []int     // of each adapter; together n
}

// rank is the sum of the ranks.
func (d Dropout) rank() (n int) {
	for _, r := range d.Ranks {
		n += r
	}
	return n
}

func (d Dropout) check(op string, rows int) {
	adapters := len(d.Ranks)
	if len(d.Rates) != adapters || adapters == 0 {
		panic(fmt.Errorf("kernels: %s: %d rates and %d ranks; give one of both for each adapter", op, len(d.Rates), adapters))
	}
	check(op, "keys", d.Keys, dtypes.Uint32, adapters, rows)
}

// kept is x [T, columns] with what is dropped for adapter i replaced by zeros.
func (d Dropout) kept(i int, x *Node) *Node {
	if d.Rates[i] == 0 {
		return x
	}
	keys := Reshape(SliceAxis(d.Keys, 0, AxisRange(i, i+1)), -1)
	return Where(draw.Keep(draw.Columns(keys, x.Shape().Dimensions[1]), d.Rates[i]), x, ZerosLike(x))
}

// split cuts x along an axis into the adapters' parts.
func (d Dropout) split(x *Node, axis int) (parts []*Node) {
	at := 0
	for _, r := range d.Ranks {
		parts = append(parts, SliceAxis(x, axis, AxisRange(at, at+r)))
		at += r
	}
	return parts
}

// DropoutLow is the product of what dropout keeps of x with the adapters' As: for each adapter kept(x)·Aᵀ, side by side,
// [T, n] float32. x is [T, in] or has more columns, which do not count; a [n, in] holds the As, one below the other.
//
// The kernel takes bfloat16, and numbers of columns that are multiples of 8.
func DropoutLow(x, a *Node, d Dropout) *Node {
	const op = "DropoutLow"
	rows, width := checkMatrix(op, "x", x)
	_, in := checkMatrix(op, "a", a)
	check(op, "a", a, x.DType(), d.rank(), min(in, width))
	d.check(op, rows)
	if k := dropoutLowLaunch(x.DType(), rows, in, width, d).use(x.Graph()); k != nil {
		return d.narrow(k.call(x, d.widen(a, 0), d.Keys)[0], 1)
	}
	return dropoutLowTwin(x, a, d, in)
}

func dropoutLowTwin(x, a *Node, d Dropout, in int) *Node {
	var parts []*Node
	x = columns(x, 0, in)
	for i, a := range d.split(a, 0) {
		parts = append(parts, product(d.kept(i, x), 1, a, 1))
	}
	return Concatenate(parts, 1)
}

// DropoutProduct is the gradient of [DropoutLow] at x: Σ over the adapters of kept(p·A), [T, in] of p's dtype. p [T, n] is
// the gradient at its result.
//
// The kernel takes bfloat16, and an in that is a multiple of 8.
func DropoutProduct(p, a *Node, d Dropout) *Node {
	const op = "DropoutProduct"
	rows, n := checkMatrix(op, "p", p)
	_, in := checkMatrix(op, "a", a)
	check(op, "p", p, p.DType(), rows, d.rank())
	check(op, "a", a, p.DType(), n, in)
	d.check(op, rows)
	if k := dropoutProductLaunch(p.DType(), rows, in, d).use(p.Graph()); k != nil {
		return k.call(d.widen(p, 1), TransposeAllDims(d.widen(a, 0), 1, 0), d.Keys)[0]
	}
	return dropoutProductTwin(p, a, d)
}

func dropoutProductTwin(p, a *Node, d Dropout) *Node {
	var total *Node
	as := d.split(a, 0)
	for i, p := range d.split(p, 1) {
		part := d.kept(i, product(p, 1, as[i], 0))
		if total != nil {
			part = Add(total, part)
		}
		total = part
	}
	return ConvertDType(total, p.DType())
}

// DropoutGradient is the gradient of [DropoutLow] at a: for each adapter pᵀ·kept(x), one below the other, [n, in] float32. p
// [T, n] is the gradient at its result; of x [T, in or more] the first in columns count.
//
// The kernel takes bfloat16, and numbers of columns that are multiples of 8.
func DropoutGradient(p, x *Node, in int, d Dropout) *Node {
	const op = "DropoutGradient"
	rows, _ := checkMatrix(op, "p", p)
	_, width := checkMatrix(op, "x", x)
	check(op, "p", p, x.DType(), rows, d.rank())
	if in > width || in <= 0 {
		panic(fmt.Errorf("kernels: %s: %d of %d columns of x", op, in, width))
	}
	d.check(op, rows)
	if k := dropoutGradientLaunch(x.DType(), rows, in, width, d).use(x.Graph()); k != nil {
		return d.narrow(TransposeAllDims(ReduceSum(k.call(d.widen(p, 1), x, d.Keys)[0], 0), 1, 0), 0)
	}
	return dropoutGradientTwin(p, x, in, d)
}

func dropoutGradientTwin(p, x *Node, in int, d Dropout) *Node {
	var parts []*Node
	x = columns(x, 0, in)
	for i, p := range d.split(p, 1) {
		parts = append(parts, product(p, 0, d.kept(i, x), 0))
	}
	return Concatenate(parts, 0)
}

// rankTile is the rank to whose multiples the kernels want every adapter widened; all get the same.
const rankTile = 16

func (d Dropout) fullRank() (r int) {
	for _, rank := range d.Ranks {
		r = max(r, rank)
	}
	return ceilDiv(r, rankTile) * rankTile
}

// widen puts zeros behind each adapter's part along the axis, up to the full rank.
func (d Dropout) widen(x *Node, axis int) *Node {
	full := d.fullRank()
	var parts []*Node
	for i, part := range d.split(x, axis) {
		parts = append(parts, part)
		if d.Ranks[i] < full {
			dims := append([]int{}, part.Shape().Dimensions...)
			dims[axis] = full - d.Ranks[i]
			parts = append(parts, Zeros(x.Graph(), shapes.Make(x.DType(), dims...)))
		}
	}
	return Concatenate(parts, axis)
}

// narrow is the reverse of widen.
func (d Dropout) narrow(x *Node, axis int) *Node {
	full := d.fullRank()
	var parts []*Node
	for i, r := range d.Ranks {
		parts = append(parts, SliceAxis(x, axis, AxisRange(i*full, i*full+r)))
	}
	return Concatenate(parts, axis)
}

// maxDropped is the most adapters that the kernels take, which have their thresholds among the sizes.
const maxDropped = 8

// launch is what the launches have in common: kernels in bfloat16 of rows of whole chunks, sizes followed by the thresholds.
func (d Dropout) launch(kernel string, dtype dtypes.DType, rows, in, width int, sizes ...int32) *launch {
	if dtype != dtypes.BFloat16 || rows == 0 || rows > maxRows || in%chunk != 0 || width%chunk != 0 || len(d.Ranks) > maxDropped {
		return nil
	}
	for _, rate := range d.Rates {
		t, ok := thresholds(rate)
		if !ok {
			return nil
		}
		sizes = append(sizes, t)
	}
	return &launch{kernel: kernel, threads: 256, sizes: sizes}
}

// thresholds are what two draws of 15 bits must reach to be kept, as draw.Keep has it; false for a rate above 31/32, whose threshold is no
// float16 that the kernels can compare with.
func thresholds(rate float64) (t int32, ok bool) {
	one := draw.Threshold(rate) >> 17
	return int32(one | one<<16), one < 0x7c00
}

// What the kernels dropout_*.cu have.
const (
	dropoutThreads        = 512 // of dropout_low
	dropoutTokens         = 32  // that a block takes
	dropoutColumns        = 128 // that a block of dropout_gradient owns
	dropoutTileRows       = 64  // tokens that it takes at once
	dropoutTiles          = 8   // of 8 ranks, that a block of dropout_low and dropout_gradient has sums of
	productTokens         = 64  // that a block of dropout_product takes
	productColumns        = 128 // and columns; a warp takes 32
	dropoutProductThreads = 128
	dropoutShared         = 2 * (dropoutTileRows*(dropoutColumns+8) + 2*dropoutTileRows*(8*dropoutTiles+8))
)

func dropoutLowLaunch(dtype dtypes.DType, rows, in, width int, d Dropout) *launch {
	n := len(d.Ranks) * d.fullRank()
	k := d.launch("dropout_low", dtype, rows, in, width, int32(rows), int32(in/chunk), int32(width/chunk), int32(n/8), int32(d.fullRank()/8))
	if k != nil {
		k.grid, k.threads = [3]int{ceilDiv(rows, dropoutTokens), ceilDiv(n/8, dropoutTiles)}, dropoutThreads
		k.out = []shapes.Shape{shapes.Make(dtypes.Float32, rows, n)}
	}
	return k
}

func dropoutProductLaunch(dtype dtypes.DType, rows, in int, d Dropout) *launch {
	k := d.launch("dropout_product", dtype, rows, in, in, int32(rows), int32(in/chunk), int32(len(d.Ranks)), int32(d.fullRank()/16))
	if k != nil {
		k.grid, k.threads = [3]int{ceilDiv(in, productColumns), ceilDiv(rows, productTokens)}, dropoutProductThreads
		if k.grid[1] > maxGridY {
			return nil
		}
		k.out = []shapes.Shape{shapes.Make(dtype, rows, in)}
	}
	return k
}

// maxGridY is the most blocks that a grid's second axis has.
const maxGridY = 65535

func dropoutGradientLaunch(dtype dtypes.DType, rows, in, width int, d Dropout) *launch {
	n := len(d.Ranks) * d.fullRank()
	stripes, groups := ceilDiv(in, dropoutColumns), ceilDiv(n/8, dropoutTiles)
	tiles := ceilDiv(rows, dropoutTileRows)
	perSplit := ceilDiv(tiles, max(1, residentBlocks/(stripes*groups))) // tiles
	splits := ceilDiv(tiles, perSplit)
	k := d.launch("dropout_gradient", dtype, rows, in, width, int32(rows), int32(in/chunk), int32(width/chunk), int32(n/8), int32(d.fullRank()/8),
		int32(perSplit*dropoutTileRows), int32(splits))
	if k != nil {
		k.grid, k.shared = [3]int{stripes, splits * groups}, dropoutShared
		k.out = []shapes.Shape{shapes.Make(dtypes.Float32, splits, in, n)}
	}
	return k
}
