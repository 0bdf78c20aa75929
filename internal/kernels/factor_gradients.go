package kernels

import (
	"fmt"
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/matmul"
	"github.com/loris-ml/loris/internal/seam"
)

// Behind a frozen weight [out, in] with adapters' Bs, which y = … + low·Bᵀ used, FactorGradients are the gradients of the factors for
// the gradient dy [T, out] at y, in its dtype but for DB:
//
//	P [T, n]      = dy·B, the gradient of low
//	Scaled [T, n] = P, its rows times rstd; nil without rstd
//	DB            = of each factor, in the shape of its X, the gradient of X, float32
//	Dy            = [dy | P | 0] where P rides along, else dy
type FactorGradients struct {
	Dy, P, Scaled *Node
	DB            []*Node
}

// GradientsOfFactors are the gradients of the factors bs beside a weight of out rows, for dy [T, out] or with more columns, and low
// [T, n], of dy's dtype. With ride, P is written behind dy's columns, whose number is out and n or more. rstd is [T], float32.
//
// The kernels take bfloat16, up to three factors, whose places and rows are multiples of 8, of ranks 8 and 16. What they add up
// is in a fixed order.
func GradientsOfFactors(dy, low *Node, bs []Factor, out int, rstd *Node, ride bool) FactorGradients {
	const op = "GradientsOfFactors"
	rows, width, n := checkGradient(op, dy, bs, out, rstd, ride)
	check(op, "low", low, dy.DType(), rows, n)
	places := besides(bs)
	k := factorGradientsLaunch(dy.DType(), rows, width, out, places).use(dy.Graph())
	if k == nil {
		return factorGradientsTwin(dy, low, bs, out, rstd, ride)
	}
	operands := []*Node{dy, low}
	for i := range maxFactors {
		operands = append(operands, bs[min(i, len(bs)-1)].X) // those behind the last are never read
	}
	parts := k.call(operands...)
	return stripedSums(dy.Shape(), out, places, rstd != nil, ride, k.out[1].Dim(0)).call(parts[0], parts[1], dy, rstd)
}

// checkGradient panics unless dy, of so many rows and columns, and rstd fit the factors, which have n ranks.
func checkGradient(op string, dy *Node, bs []Factor, out int, rstd *Node, ride bool) (rows, width, n int) {
	rows, width = checkMatrix(op, "dy", dy)
	n = checkFactors(op, bs, math.MaxInt, 1, []int{out, 0})
	if rstd != nil {
		check(op, "rstd", rstd, dtypes.Float32, rows)
	}
	need := out
	if ride {
		need += n
	}
	if width < need {
		panic(fmt.Errorf("kernels: %s: dy has %d columns, want %d or more", op, width, need))
	}
	return rows, width, n
}

func factorGradientsTwin(dy, low *Node, bs []Factor, out int, rstd *Node, ride bool) FactorGradients {
	b := ConvertDType(BlockDiagonal(bs, dy.Shape().Dim(1)), dy.DType()) // nothing stands next to what is behind dy
	g := placed(dy, matmul.Contract(dy, 1, b, 0), out, rstd, ride)
	g.separate(matmul.Wide(g.Dy, []int{0}, nil, low, []int{0}, nil), bs, true)
	return g
}

// placed are the gradients without those of B.
func placed(dy, p *Node, out int, rstd *Node, ride bool) FactorGradients {
	g := FactorGradients{Dy: dy, P: p}
	if ride {
		g.Dy = DynamicUpdateSlice(dy, p, []*Node{Const(dy.Graph(), int32(0)), Const(dy.Graph(), int32(out))})
	}
	if rstd != nil {
		g.Scaled = ConvertDType(Mul(wide(p), InsertAxes(rstd, 1)), dy.DType())
	}
	return g
}

// separate sets those of B from a matrix of all, whose columns are diagonal or, beside each weight, the factor's.
func (g *FactorGradients) separate(dB *Node, bs []Factor, diagonal bool) {
	kept := OptimizationBarriers(g.Dy, g.P, dB) // so that P is written in place before another reads dy
	g.Dy, g.P, dB = kept[0], kept[1], kept[2]
	column := 0
	for _, f := range bs {
		d := f.X.Shape().Dimensions
		part := Slice(dB, AxisRange(f.At, f.At+d[0]), AxisRange(column, column+d[1]))
		g.DB = append(g.DB, Factor{X: part, Scale: f.Scale}.scaled())
		if diagonal {
			column += d[1]
		}
	}
}

// SumsOfFactors are [GradientsOfFactors] of which the products have been taken: p [T, n] and db [parts, out, R], float32, the latter to be added
// up over the parts and of each row the columns of its own factor.
//
// The kernel takes bfloat16, up to three factors, of ranks that are multiples of 4 up to 16.
func SumsOfFactors(dy, p, db *Node, bs []Factor, out int, rstd *Node, ride bool) FactorGradients {
	const op = "SumsOfFactors"
	rows, _, n := checkGradient(op, dy, bs, out, rstd, ride)
	check(op, "p", p, dtypes.Float32, rows, n)
	parts, d := 0, 0
	if db.Rank() == 3 {
		parts, d = db.Shape().Dim(0), db.Shape().Dim(2)
	}
	check(op, "db", db, dtypes.Float32, parts, out, d)
	places := besides(bs)
	if k := wholeSums(dy.Shape(), out, places, rstd != nil, ride, parts, d); k.launch.use(dy.Graph()) != nil {
		return k.call(p, db, dy, rstd)
	}
	return sumsOfFactorsTwin(dy, p, db, bs, out, rstd, ride)
}

func sumsOfFactorsTwin(dy, p, db *Node, bs []Factor, out int, rstd *Node, ride bool) FactorGradients {
	g := placed(dy, ConvertDType(p, dy.DType()), out, rstd, ride)
	g.separate(ReduceSum(db, 0), bs, false)
	return g
}

// What factor_gradients.cu and factor_sums.cu have.
const (
	maxFactors     = 3
	factorColumns  = 256 // of a stripe
	factorRows     = 32  // tokens of a tile
	factorRank     = 16
	factorThreads  = 256
	factorStages   = 4
	factorLow      = factorRank + 8
	factorShared   = 2*(factorStages*factorRows*(factorColumns+8+factorLow)+factorColumns*factorLow) + 32*factorThreads
	factorSumRanks = 4 // that a thread of factor_sums has
)

// beside is where a factor stands beside a weight: in these rows, with that rank.
type beside struct {
	at, rows, rank int
	scale          float64
}

func besides(bs []Factor) (all []beside) {
	for _, f := range bs {
		d := f.X.Shape().Dimensions
		all = append(all, beside{f.At, d[0], d[1], f.Scale})
	}
	return all
}

// stripes is how many of them stand next to the factor.
func (b beside) stripes() int { return ceilDiv(b.rows, factorColumns) }

// sizes are the factor's as both kernels take them; column is its first in low.
func (b beside) sizes(column int) []int32 {
	return []int32{int32(b.at), int32(b.rows), int32(b.rank), int32(column), int32(math.Float32bits(float32(b.scale)))}
}

func factorGradientsLaunch(dtype dtypes.DType, rows, width, out int, bs []beside) *launch {
	if dtype != dtypes.BFloat16 || rows == 0 || width%chunk != 0 || len(bs) == 0 || len(bs) > maxFactors {
		return nil
	}
	stripes, n := 0, 0
	var factors []int32
	for _, b := range bs {
		if b.at%chunk != 0 || b.rows%chunk != 0 || b.rank != 8 && b.rank != factorRank {
			return nil
		}
		factors = append(factors, b.sizes(n)...)
		stripes, n = stripes+b.stripes(), n+b.rank
	}
	factors = append(factors, make([]int32, 5*(maxFactors-len(bs)))...)
	tiles := ceilDiv(rows, factorRows)
	group := ceilDiv(tiles, max(1, residentBlocks/stripes)) // tiles
	groups := ceilDiv(tiles, group)
	if groups > maxGridY {
		return nil
	}
	return &launch{
		kernel: "factor_gradients", grid: [3]int{stripes, groups}, threads: factorThreads, shared: factorShared,
		sizes: append([]int32{int32(rows), int32(width / chunk), int32(out), int32(n), int32(group * factorRows)}, factors...),
		out:   []shapes.Shape{shapes.Make(dtypes.Float32, stripes, rows, factorRank), shapes.Make(dtypes.Float32, groups, out, factorRank)},
	}
}

// factorSums is a launch of factor_sums.
type factorSums struct {
	*launch
	factors       int
	scaled, rides bool
}

// stripedSums is that behind a factor_gradients of so many groups, for dy of this shape.
func stripedSums(dy shapes.Shape, out int, bs []beside, scaled, ride bool, groups int) factorSums {
	var where [][3]int32
	stripes := 0
	for _, b := range bs {
		where = append(where, [3]int32{int32(stripes), int32(b.stripes()), 0})
		stripes += b.stripes()
	}
	return factorSumsLaunch(dy, out, bs, scaled, ride, where, factorRank, groups, factorRank)
}

// wholeSums is that of one p [T, n] and so many db whose rows have d columns; without a launch if the kernel does not take it.
func wholeSums(dy shapes.Shape, out int, bs []beside, scaled, ride bool, parts, d int) factorSums {
	var where [][3]int32
	n, takes := 0, dy.DType == dtypes.BFloat16 && dy.Dim(0) > 0 && dy.Dim(1)%chunk == 0 && out%4 == 0 && d%4 == 0 && len(bs) > 0 && len(bs) <= maxFactors
	for _, b := range bs {
		takes = takes && b.rank%4 == 0 && b.rank <= factorRank
		where = append(where, [3]int32{0, 1, int32(n)})
		n += b.rank
	}
	if !takes {
		return factorSums{}
	}
	return factorSumsLaunch(dy, out, bs, scaled, ride, where, n, parts, d)
}

// factorSumsLaunch is the launch where p's parts, with so many columns, lie where they are said to for each factor.
func factorSumsLaunch(dy shapes.Shape, out int, bs []beside, scaled, ride bool, where [][3]int32, columns, groups, d int) factorSums {
	rows, n, threads := dy.Dim(0), 0, 0
	var factors []int32
	var dbs []shapes.Shape
	for i, b := range bs {
		factors = append(append(factors, b.sizes(n)...), where[i][:]...)
		dbs = append(dbs, shapes.Make(dtypes.Float32, b.rows, b.rank))
		n, threads = n+b.rank, threads+(rows+b.rows)*factorRank/factorSumRanks
	}
	for range maxFactors - len(bs) {
		factors, dbs = append(factors, make([]int32, 8)...), append(dbs, shapes.Make(dtypes.Float32, 1)) // never written
	}
	low := shapes.Make(dy.DType, rows, n)
	k := &launch{
		kernel: "factor_sums", grid: [3]int{ceilDiv(threads, factorThreads)}, threads: factorThreads,
		sizes: append([]int32{
			int32(rows), int32(dy.Dim(1)), int32(out), int32(n), int32(columns), int32(groups), int32(d), flag(ride), flag(scaled),
		}, factors...),
		out:     append([]shapes.Shape{dy, low, low}, dbs...),
		aliases: []seam.Alias{{Result: 0, Operand: 2}},
	}
	if !ride {
		k.out[0], k.aliases = shapes.Make(dy.DType, 1), nil
	}
	if !scaled {
		k.out[2] = shapes.Make(dy.DType, 1)
	}
	return factorSums{k, len(bs), scaled, ride}
}

// call adds up p and db, and writes p behind dy.
func (s factorSums) call(p, db, dy, rstd *Node) FactorGradients {
	if rstd == nil {
		rstd = Const(dy.Graph(), []float32{1}) // never read
	}
	out := s.launch.call(p, db, dy, rstd)
	g := FactorGradients{Dy: dy, P: out[1], DB: out[3 : 3+s.factors]}
	if s.rides {
		g.Dy = out[0]
	}
	if s.scaled {
		g.Scaled = out[2]
	}
	return g
}
