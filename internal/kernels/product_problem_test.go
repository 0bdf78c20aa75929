package kernels

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/quant"
)

// productCase is rows times a weight, with adapters of n columns, and what is before and behind.
type productCase struct {
	weight
	rows, n int
	then    ProductThen
	normed  bool
	offset  bool // of the norm's gain
}

func productProblem(t testing.TB, c productCase, dtype dtypes.DType) problem {
	packed := c.pack(t)
	l, rows, n, then := packed.Layout, c.rows, c.n, c.then
	out, in := l.Shape[0], l.Shape[1]
	random := rand.New(rand.NewPCG(uint64(rows), uint64(out)))
	x := normal(random, dtype, 1, rows, in)
	inputs := []array{x}
	for _, a := range packed.Inputs() {
		inputs = append(inputs, array{shape: a.Shape, bytes: a.Raw})
	}
	arrays := len(inputs)
	low, tail, residual, gain := x, x, x, x // never read
	if n > 0 {
		low, tail = normal(random, dtype, 1, rows, n), normal(random, dtype, 0.1, out, n)
		inputs = append(inputs, low, tail)
	}
	if then == ThenAdd {
		residual = normal(random, dtype, 1, rows, out)
		inputs = append(inputs, residual)
	}
	if c.normed {
		gain = normal(random, dtype, 1, in)
		inputs = append(inputs, gain)
	}
	const eps = 1e-5
	options := func(in []*Node) ProductOptions {
		o, rest := ProductOptions{Then: then}, in[arrays:]
		if n > 0 {
			o.Low, o.Tail, rest = rest[0], rest[1], rest[2:]
		}
		if then == ThenAdd {
			o.Residual, rest = rest[0], rest[1:]
		}
		if c.normed {
			o.Gain, o.Eps, o.Offset = rest[0], eps, c.offset
		}
		return o
	}
	known := ProductOptions{Then: then, Eps: eps, Offset: c.offset}
	if c.normed {
		known.Gain = &Node{} // asked only whether it is there
	}
	p := problem{
		inputs: inputs, launch: productLaunch(l, dtype, rows, n, known), rounding: 8e-3, // a unit in the last place: six sums may round otherwise
		op:   func(in []*Node) []*Node { return []*Node{Product(l, in[0], options(in), in[1:arrays]...)} },
		twin: func(in []*Node) []*Node { return []*Node{productTwin(l, in[0], options(in), in[1:arrays])} },
	}
	if then.gates() {
		p.rounding = 1e-2 // of both factors, of which one is near 0 where the activation bends
	}
	values, err := packed.Dequantize(dtypes.Float32)
	if err != nil {
		t.Fatal(err)
	}
	h := wideFloats(x.floats)
	if c.normed {
		h = normalized(h, wideFloats(gain.floats), eps, c.offset)
	}
	sums := make([]float64, rows*out)
	for i := range sums {
		row, o := i/out, i%out
		for j := range in {
			sums[i] += h[row*in+j] * float64(values[o*in+j])
		}
		for j := range n {
			sums[i] += low.at(row, j) * tail.at(o, j)
		}
	}
	p.want = [][]float64{after(sums, residual, then, rows)}
	p = p.named("product %+v %s", c, dtype)
	if p.launch == nil {
		return p
	}
	if c.normed && !p.launch.normalizes(known) {
		p.launch = nil // of another x
		return p
	}

	p.operands = append([]array{}, inputs[:arrays]...)
	if l.NestedBlocksize > 0 {
		numbers := quant.DynamicMap(true)
		p.operands = append(p.operands, floatArray(dtypes.Float32, numbers[:], 256))
	} else {
		p.operands = append(p.operands, inputs[2], inputs[2], inputs[2])
	}
	p.operands = append(p.operands, low, tail)
	if rows == 1 {
		p.operands = append(p.operands, residual, gain)
	} else {
		p.finish = func(results []array) []array { // what the graph does with the kernel's sums
			sums := wideFloats(sumSplits(results[0]).floats)
			y := after(sums, residual, then, rows)
			narrow := make([]float32, len(y))
			for i, v := range y {
				narrow[i] = bf16(float32(v))
			}
			return []array{{floats: narrow}}
		}
	}
	return p
}

// normalized is RMSNorm of rows x.
func normalized(x, gain []float64, eps float64, offset bool) []float64 {
	h := make([]float64, len(x))
	for at := 0; at < len(x); at += len(gain) {
		sum := 0.0
		for _, v := range x[at : at+len(gain)] {
			sum += v * v
		}
		for i, g := range gain {
			if offset {
				g++
			}
			h[at+i] = x[at+i] * g / math.Sqrt(sum/float64(len(gain))+eps)
		}
	}
	return h
}

// after is what follows the sums [rows, out].
func after(sums []float64, residual array, then ProductThen, rows int) []float64 {
	switch out := len(sums) / rows; {
	case then == ThenAdd:
		for i := range sums {
			sums[i] += float64(residual.floats[i])
		}
	case then.gates():
		var gated []float64
		for row := range rows {
			for i := range out / 2 {
				act, _ := activation(then.activation(), sums[row*out+i])
				gated = append(gated, act*sums[row*out+out/2+i])
			}
		}
		return gated
	}
	return sums
}

// decodingProblems are those of generating texts.
func decodingProblems(t testing.TB, dtype dtypes.DType) (all []problem) {
	small, wide, fp4 := weight{[]int{64}, 64, quant.NF4, 64, false}, weight{[]int{6}, 4672, quant.NF4, 64, true}, weight{[]int{130}, 1088, quant.FP4, 64, true}
	three, long, many := weight{[]int{96, 32, 32}, 576, quant.NF4, 64, true}, weight{[]int{30}, 256, quant.NF4, 128, true}, weight{[]int{600}, 192, quant.NF4, 64, true}
	odd := weight{[]int{33}, 64, quant.NF4, 64, true}
	for _, c := range []productCase{
		{small, 1, 0, ThenNothing, false, false}, {three, 1, 48, ThenAdd, false, false}, {long, 1, 16, ThenSwiGLU, false, false}, {fp4, 1, 320, ThenNothing, false, false}, {many, 1, 16, ThenGeGLU, false, false},
		{wide, 1, 0, ThenAdd, false, false}, {wide, 1, 16, ThenNothing, false, false}, {small, 2, 16, ThenNothing, false, false}, {three, 8, 0, ThenAdd, false, false}, {wide, 3, 0, ThenNothing, false, false},
		{long, 9, 16, ThenSwiGLU, false, false}, {three, 32, 48, ThenAdd, false, false}, {many, 37, 0, ThenNothing, false, false}, {wide, 17, 0, ThenNothing, false, false}, {fp4, 64, 16, ThenGeGLU, false, false},
		{small, 65, 16, ThenNothing, false, false}, {small, 1, 8, ThenNothing, false, false}, {odd, 1, 0, ThenNothing, false, false}, {odd, 8, 16, ThenAdd, false, false},
		{three, 1, 0, ThenSwiGLU, true, false}, {wide, 1, 16, ThenNothing, true, true}, {fp4, 1, 0, ThenAdd, true, false}, {three, 3, 0, ThenAdd, true, true},
	} {
		all = append(all, productProblem(t, c, dtype))
	}
	return append(all,
		cacheProblem(dtype, 1, 4, 1, 64, 32, 0, CacheOptions{}), cacheProblem(dtype, 3, 8, 2, 128, 96, 95, CacheOptions{}),
		cacheProblem(dtype, 2, 6, 6, 96, 40, 17, CacheOptions{SoftCap: 2}), cacheProblem(dtype, 2, 12, 2, 256, 50, 40, CacheOptions{Window: 9}),
		cacheProblem(dtype, 2, 4, 2, 16, 700, 400, CacheOptions{}), cacheProblem(dtype, 1, 5, 1, 80, 1024, 1023, CacheOptions{Window: 300}),
		cacheProblem(dtype, 1, 4, 2, 8, 520, 255, CacheOptions{}), cacheProblem(dtype, 1, 4, 2, 8, 520, 256, CacheOptions{}),
		cacheProblem(dtype, 33, 8, 4, 64, 300, 256, CacheOptions{}), cacheProblem(dtype, 1, 2, 1, 12, 33, 31, CacheOptions{}),
		rotaryCacheProblem(dtype, 1, 8, 2, 128, 96, 40, CacheOptions{}), rotaryCacheProblem(dtype, 3, 4, 2, 64, 300, 299, CacheOptions{Window: 20}),
		rotaryCacheProblem(dtype, 2, 2, 2, 16, 33, 0, CacheOptions{}), rotaryCacheProblem(dtype, 1, 4, 1, 40, 20, 9, CacheOptions{}),
	)
}
