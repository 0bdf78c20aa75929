package kernels

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// murmur is the finalizer of MurmurHash3.
func murmur(x uint32) uint32 {
	x ^= x >> 16
	x *= 0x85ebca6b
	x ^= x >> 13
	x *= 0xc2b2ae35
	return x ^ x>>16
}

// drawn is the draw of a column of the row that a key stands for.
func drawn(key uint32, column int) uint32 {
	h := murmur(key + uint32(column/8))
	if column&4 != 0 {
		h *= 0x9e3779b1
		h ^= h >> 16
	}
	return bits.RotateLeft32(h, [4]int{17, 1, 25, 9}[column%4])
}

// keeps tells whether dropout of that rate keeps it.
func keeps(key uint32, column int, rate float64) bool {
	return drawn(key, column) >= uint32(math.Round(rate*(1<<15)))<<17
}

// dropped are the problems of the three operations of dropout, for adapters of these ranks and rates before an input of so
// many columns, which lie in rows of width.
func dropped(dtype dtypes.DType, rows, in, width int, ranks []int, rates []float64) (all []problem) {
	random := rand.New(rand.NewPCG(uint64(rows), uint64(in)))
	n := 0
	for _, r := range ranks {
		n += r
	}
	keys := make([]uint32, len(ranks)*rows)
	var raw []byte
	for i := range keys {
		keys[i] = random.Uint32()
		raw = binary.NativeEndian.AppendUint32(raw, keys[i])
	}
	x, a, p := normal(random, dtype, 1, rows, width), normal(random, dtype, 1, n, in), normal(random, dtype, 1, rows, n)
	keyArray := array{shape: shapes.Make(dtypes.Uint32, len(ranks), rows), bytes: raw}
	kept := func(i, t, c int) bool {
		return keeps(keys[i*rows+t], c, rates[i])
	}
	low, product, gradient := make([]float64, rows*n), make([]float64, rows*in), make([]float64, n*in)
	for t := range rows {
		for c := range in {
			at := 0
			for i, r := range ranks {
				if kept(i, t, c) {
					for k := at; k < at+r; k++ {
						low[t*n+k] += x.at(t, c) * a.at(k, c)
						product[t*in+c] += p.at(t, k) * a.at(k, c)
						gradient[k*in+c] += p.at(t, k) * x.at(t, c)
					}
				}
				at += r
			}
		}
	}
	drop := func(keys *Node) Dropout { return Dropout{keys, rates, ranks} }
	d := drop(nil)
	full := d.fullRank()
	widened := func(x array, axis int) array { return widenOnHost(x, axis, ranks, full) }
	one := func(f func(in []*Node) *Node) func(in []*Node) []*Node {
		return func(in []*Node) []*Node { return []*Node{f(in)} }
	}
	all = append(all,
		problem{
			name: "DropoutLow", inputs: []array{x, a, keyArray}, want: [][]float64{low}, launch: dropoutLowLaunch(dtype, rows, in, width, d),
			op:       one(func(v []*Node) *Node { return DropoutLow(v[0], v[1], drop(v[2])) }),
			twin:     one(func(v []*Node) *Node { return dropoutLowTwin(v[0], v[1], drop(v[2]), in) }),
			operands: []array{x, widened(a, 0), keyArray},
			finish:   func(out []array) []array { return []array{narrowOnHost(out[0], ranks, full)} },
		},
		problem{
			name: "DropoutProduct", inputs: []array{p, a, keyArray}, want: [][]float64{product}, launch: dropoutProductLaunch(dtype, rows, in, d),
			op:       one(func(v []*Node) *Node { return DropoutProduct(v[0], v[1], drop(v[2])) }),
			twin:     one(func(v []*Node) *Node { return dropoutProductTwin(v[0], v[1], drop(v[2])) }),
			operands: []array{widened(p, 1), transposed(widened(a, 0)), keyArray},
		},
		problem{
			name: "DropoutGradient", inputs: []array{p, x, keyArray}, want: [][]float64{gradient}, launch: dropoutGradientLaunch(dtype, rows, in, width, d),
			op:       one(func(v []*Node) *Node { return DropoutGradient(v[0], v[1], in, drop(v[2])) }),
			twin:     one(func(v []*Node) *Node { return dropoutGradientTwin(v[0], v[1], in, drop(v[2])) }),
			operands: []array{widened(p, 1), x, keyArray},
			finish: func(out []array) []array {
				return []array{transposed(narrowOnHost(sumSplits(out[0]), ranks, full))}
			},
		})
	for i := range all {
		all[i].name += fmt.Sprintf(" %s %dx%d of %d, ranks %v, rates %v", dtype, rows, in, width, ranks, rates)
	}
	return all
}

func dropoutProblems(dtype dtypes.DType) []problem {
	return slices.Concat(
		dropped(dtype, 1, 8, 8, []int{16}, []float64{0.5}),
		dropped(dtype, 37, 136, 200, []int{16, 16, 16}, []float64{0.05, 0.05, 0.05}),
		dropped(dtype, 75, 264, 264, []int{7}, []float64{0.2}),
		dropped(dtype, 45, 200, 200, []int{16, 5}, []float64{0.1, 0.4}),
		dropped(dtype, 70, 264, 264, []int{3, 40}, []float64{0.1, 0}),
		dropped(dtype, 130, 600, 664, []int{64, 64, 20}, []float64{0.3, 0.05, 0.9}),
		dropped(dtype, 5, 33, 40, []int{2}, []float64{0.5}),
		dropped(dtype, 9, 64, 64, []int{16}, []float64{0.98}), // no float16
		dropped(dtype, 33, 64, 64, slices.Repeat([]int{1}, 9), slices.Repeat([]float64{0.5}, 9)),
	)
}

func transposed(x array) array {
	d := x.shape.Dimensions
	y := array{shape: shapes.Make(x.shape.DType, d[1], d[0]), floats: make([]float32, len(x.floats))}
	for i := range d[0] {
		for j := range d[1] {
			y.floats[j*d[0]+i] = x.floats[i*d[1]+j]
		}
	}
	return y
}

// widenOnHost puts zeros behind each part along the axis of a matrix, narrowOnHost takes columns away again.
func widenOnHost(x array, axis int, ranks []int, full int) array {
	if axis == 0 {
		return transposed(widenOnHost(transposed(x), 1, ranks, full))
	}
	rows := x.shape.Dimensions[0]
	y := array{shape: shapes.Make(x.shape.DType, rows, full*len(ranks)), floats: make([]float32, rows*full*len(ranks))}
	for t := range rows {
		at := 0
		for i, r := range ranks {
			for k := range r {
				y.floats[t*full*len(ranks)+i*full+k] = float32(x.at(t, at+k))
			}
			at += r
		}
	}
	return y
}

func narrowOnHost(x array, ranks []int, full int) array {
	rows, n := x.shape.Dimensions[0], 0
	var values []float32
	for t := range rows {
		for i, r := range ranks {
			for k := range r {
				values = append(values, float32(x.at(t, i*full+k)))
			}
		}
	}
	for _, r := range ranks {
		n += r
	}
	return array{shape: shapes.Make(x.shape.DType, rows, n), floats: values}
}
