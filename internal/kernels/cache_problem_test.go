package kernels

import (
	"encoding/binary"
	"math"
	"math/rand/v2"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// cacheProblem lets a token of each row see its cache of that capacity, in which it is at position.
func cacheProblem(dtype dtypes.DType, batch, heads, kvHeads, dim, capacity, position int, o CacheOptions) problem {
	random := rand.New(rand.NewPCG(uint64(capacity), uint64(position)))
	cache := func() array { return normal(random, dtype, 1, batch, capacity, kvHeads, dim) }
	q, k, v := normal(random, dtype, 1, batch, 1, heads, dim), normal(random, dtype, 1, batch, 1, kvHeads, dim), normal(random, dtype, 1, batch, 1, kvHeads, dim)
	in := []array{q, k, v, cache(), cache(), ints(position), ints(make([]int, batch)...)}
	in[5].shape.Dimensions = nil
	starts := make([]int, batch)
	for b := range starts {
		starts[b] = min(position, b*7)
	}
	in[6] = ints(starts...)
	o.Scale = 0.3
	p := problem{
		inputs: in, rounding: 4e-3,
		launch:   cacheLaunch(dtype, batch, 1, heads, kvHeads, dim, capacity, false, o),
		operands: append(append([]array{}, in...), in[6], in[6]),
		op: func(in []*Node) []*Node {
			out, keys, values := CacheAttention(in[0], in[1], in[2], in[3], in[4], in[5], in[6], o)
			return []*Node{out, keys, values}
		},
		twin: func(in []*Node) []*Node {
			out, keys, values := cacheTwin(in[0], in[1], in[2], in[3], in[4], in[5], in[6], o)
			return []*Node{out, keys, values}
		},
		finish: func(r []array) []array {
			if r[0].shape.Size() == 1 {
				r[0] = combine(r[3], r[4])
			}
			return r[:3]
		},
	}
	keys, values := wideFloats(in[3].floats), wideFloats(in[4].floats)
	width := kvHeads * dim
	out := make([]float64, batch*heads*dim)
	for b := range batch {
		at := (b*capacity + position) * width
		copy(keys[at:], wideFloats(k.floats[b*width:(b+1)*width]))
		copy(values[at:], wideFloats(v.floats[b*width:(b+1)*width]))
		for h := range heads {
			kv := h / (heads / kvHeads)
			sum := 0.0
			y := out[(b*heads+h)*dim : (b*heads+h+1)*dim]
			for key := starts[b]; key <= position; key++ {
				if o.Window > 0 && key <= position-o.Window {
					continue
				}
				from := (b*capacity+key)*width + kv*dim
				score := 0.0
				for i := range dim {
					score += q.at(b, 0, h, i) * keys[from+i]
				}
				score *= o.Scale
				if o.SoftCap > 0 {
					score = o.SoftCap * math.Tanh(score/o.SoftCap)
				}
				e := math.Exp(score)
				sum += e
				for i := range dim {
					y[i] += e * values[from+i]
				}
			}
			for i := range y {
				y[i] /= sum
			}
		}
	}
	p.want = [][]float64{out, keys, values}
	return p.named("cache attention %s, %d rows, %d/%d heads of %d, %d of %d, %+v", dtype, batch, heads, kvHeads, dim, position, capacity, o)
}

// rotaryCacheProblem is cacheProblem for queries, keys and values side by side that are still to be rotated.
func rotaryCacheProblem(dtype dtypes.DType, batch, heads, kvHeads, dim, capacity, position int, o CacheOptions) problem {
	p := cacheProblem(dtype, batch, heads, kvHeads, dim, capacity, position, o)
	o.Scale = 0.3
	random := rand.New(rand.NewPCG(uint64(dim), uint64(position)))
	cos, sin := normal(random, dtypes.Float32, 1, batch, 1, dim/2), normal(random, dtypes.Float32, 1, batch, 1, dim/2)
	for i, angle := range cos.floats { // rotating back gives q and k, within a rounding
		s, c := math.Sincos(float64(angle))
		cos.floats[i], sin.floats[i] = float32(c), float32(s)
	}
	qkv := array{shape: shapes.Make(dtype, batch, 1, (heads+2*kvHeads)*dim)}
	for b := range batch {
		for i, x := range p.inputs[:3] {
			n := []int{heads, kvHeads, kvHeads}[i]
			for h := range n {
				head := append([]float32{}, x.floats[(b*n+h)*dim:(b*n+h+1)*dim]...)
				for j := range dim / 2 {
					c, s := cos.floats[b*dim/2+j], sin.floats[b*dim/2+j]
					if re, im := head[j], head[dim/2+j]; i < 2 {
						head[j], head[dim/2+j] = re*c+im*s, im*c-re*s
					}
				}
				qkv.floats = append(qkv.floats, floatArray(dtype, head, dim).floats...)
			}
		}
	}
	rest := p.inputs[3:]
	p.inputs = append([]array{qkv, cos, sin}, rest...)
	p.rounding = 6e-3
	p.launch = cacheLaunch(dtype, batch, 1, heads, kvHeads, dim, capacity, true, o)
	p.operands = append(append([]array{qkv, qkv, qkv}, rest...), cos, sin)
	form := func(f func(qkv, cos, sin, keys, values, position, start *Node, heads int, o CacheOptions) (out, newKeys, newValues *Node)) func(in []*Node) []*Node {
		return func(in []*Node) []*Node {
			out, keys, values := f(in[0], in[1], in[2], in[3], in[4], in[5], in[6], heads, o)
			return []*Node{out, keys, values}
		}
	}
	p.op, p.twin = form(RotaryCacheAttention), form(rotaryCacheTwin)
	return p.named("rotary %s", p.name)
}

// combine is what launch.combined does.
func combine(parts, stats array) array {
	d := parts.shape.Dimensions
	n, dim := d[1]*d[2], d[3]
	out := make([]float32, n*dim)
	for i := range n {
		top := math.Inf(-1)
		for s := range d[0] {
			top = max(top, float64(stats.floats[2*(s*n+i)]))
		}
		total, y := 0.0, make([]float64, dim)
		for s := range d[0] {
			w := math.Exp(float64(stats.floats[2*(s*n+i)]) - top)
			total += w * float64(stats.floats[2*(s*n+i)+1])
			for j := range dim {
				y[j] += w * float64(parts.floats[(s*n+i)*dim+j])
			}
		}
		for j := range dim {
			out[i*dim+j] = bf16(float32(y[j] / total))
		}
	}
	return array{floats: out}
}

// ints is a vector of int32.
func ints(values ...int) array {
	a := array{}
	for _, v := range values {
		a.bytes = binary.NativeEndian.AppendUint32(a.bytes, uint32(v))
	}
	a.shape = shapes.Make(dtypes.Int32, len(values))
	return a
}
