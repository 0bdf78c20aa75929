package kernels

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/matmul"
	"github.com/loris-ml/loris/internal/seam"
)

// CacheOptions says how scores of attention over a cache are made, as attention.Options does.
type CacheOptions struct {
	Scale   float64 // factor on the scores; 0: 1/sqrt(D)
	SoftCap float64 // if not 0, scores become SoftCap·tanh(score/SoftCap)
	Window  int     // if not 0, a query sees so many keys, its own the last of them
}

// CacheAttention writes the keys and values k and v [B, S, KVHeads, D] of new tokens into caches keys and values
// [B, capacity, KVHeads, D] from position on (int32 scalar), and lets each query of q [B, S, Heads, D] see what lies at or
// before its own place and not before its row's start [B] (int32). It returns attention's output in the shape of q, and the
// caches, which take the memory of the old ones where the program may have it. Softmax and sums are float32.
//
// The kernel takes bfloat16, S = 1, and D a multiple of 8 up to 256. The twin's scores, [B, Heads, S, capacity] in float32,
// are all there at once.
func CacheAttention(q, k, v, keys, values, position, start *Node, o CacheOptions) (out, newKeys, newValues *Node) {
	const op = "CacheAttention"
	if q.Rank() != 4 || keys.Rank() != 4 {
		panic(fmt.Errorf("kernels: %s: q has shape %s and keys %s, want four axes", op, q.Shape(), keys.Shape()))
	}
	d, dtype := q.Shape().Dimensions, q.DType()
	batch, queries, heads, dim := d[0], d[1], d[2], d[3]
	capacity, kvHeads := keys.Shape().Dim(1), keys.Shape().Dim(2)
	if kvHeads == 0 || heads%kvHeads != 0 || queries > capacity {
		panic(fmt.Errorf("kernels: %s: q has shape %s and keys %s, want heads that share the keys' evenly, and room", op, q.Shape(), keys.Shape()))
	}
	check(op, "k", k, dtype, batch, queries, kvHeads, dim)
	check(op, "v", v, dtype, batch, queries, kvHeads, dim)
	check(op, "keys", keys, dtype, batch, capacity, kvHeads, dim)
	check(op, "values", values, dtype, batch, capacity, kvHeads, dim)
	check(op, "position", position, dtypes.Int32)
	check(op, "start", start, dtypes.Int32, batch)
	o = o.filled(dim)
	if l := cacheLaunch(dtype, batch, queries, heads, kvHeads, dim, capacity, false, o).use(q.Graph()); l != nil {
		never := start // read
		results := l.call(q, k, v, keys, values, position, start, never, never)
		return l.combined(results, d), results[1], results[2]
	}
	return cacheTwin(q, k, v, keys, values, position, start, o)
}

// RotaryCacheAttention is [CacheAttention] of one token of each row whose queries, keys and values lie side by side, qkv
// [B, 1, (Heads+2·KVHeads)·D], the first two still to be rotated: the halves of a head are real and imaginary parts, cos and sin
// [1 or B, 1, D/2] float32. Rotated ones are rounded to qkv's dtype. The output is [B, 1, Heads, D].
//
// The kernel takes what that of CacheAttention does, and D a multiple of 16.
func RotaryCacheAttention(qkv, cos, sin, keys, values, position, start *Node, heads int, o CacheOptions) (out, newKeys, newValues *Node) {
	const op = "RotaryCacheAttention"
	if qkv.Rank() != 3 || keys.Rank() != 4 || cos.Rank() != 3 {
		panic(fmt.Errorf("kernels: %s: qkv has shape %s, keys %s and cos %s, want three, four and three axes", op, qkv.Shape(), keys.Shape(), cos.Shape()))
	}
	dtype, batch := qkv.DType(), qkv.Shape().Dim(0)
	capacity, kvHeads, dim := keys.Shape().Dim(1), keys.Shape().Dim(2), keys.Shape().Dim(3)
	check(op, "qkv", qkv, dtype, batch, 1, (heads+2*kvHeads)*dim)
	angles := shapes.Make(dtypes.Float32, batch, 1, dim/2)
	if cos.Shape().Dim(0) == 1 {
		cos, sin = BroadcastToShape(cos, angles), BroadcastToShape(sin, angles)
	}
	check(op, "cos", cos, dtypes.Float32, angles.Dimensions...)
	check(op, "sin", sin, dtypes.Float32, angles.Dimensions...)
	if l := cacheLaunch(dtype, batch, 1, heads, kvHeads, dim, capacity, true, o.filled(dim)).use(qkv.Graph()); l != nil {
		check(op, "keys", keys, dtype, batch, capacity, kvHeads, dim)
		check(op, "values", values, dtype, batch, capacity, kvHeads, dim)
		check(op, "position", position, dtypes.Int32)
		check(op, "start", start, dtypes.Int32, batch)
		results := l.call(qkv, qkv, qkv, keys, values, position, start, cos, sin)
		return l.combined(results, []int{batch, 1, heads, dim}), results[1], results[2]
	}
	return rotaryCacheTwin(qkv, cos, sin, keys, values, position, start, heads, o)
}

func rotaryCacheTwin(qkv, cos, sin, keys, values, position, start *Node, heads int, o CacheOptions) (out, newKeys, newValues *Node) {
	kvHeads, dim := keys.Shape().Dim(2), keys.Shape().Dim(3)
	q, k, v := ropeTwin(qkv, cos, sin, heads, kvHeads)
	return cacheTwin(q, k, v, keys, values, position, start, o.filled(dim))
}

// filled has the default scale for heads of so many features.
func (o CacheOptions) filled(dim int) CacheOptions {
	if o.Scale == 0 {
		o.Scale = 1 / math.Sqrt(float64(dim))
	}
	return o
}

func cacheTwin(q, k, v, keys, values, position, start *Node, o CacheOptions) (out, newKeys, newValues *Node) {
	g := q.Graph()
	zero := Const(g, int32(0))
	at := []*Node{zero, position, zero, zero}
	keys, values = DynamicUpdateSlice(keys, k, at), DynamicUpdateSlice(values, v, at)

	d := q.Shape().Dimensions
	batch, queries, heads, dim := d[0], d[1], d[2], d[3]
	capacity, kvHeads := keys.Shape().Dim(1), keys.Shape().Dim(2)
	grid := shapes.Make(dtypes.Int32, queries, capacity)
	own := Add(Iota(g, grid, 0), position)
	visible := LessOrEqual(Iota(g, grid, 1), own)
	if o.Window > 0 {
		visible = And(visible, GreaterThan(Iota(g, grid, 1), AddScalar(own, float64(-o.Window))))
	}
	grouped := Reshape(q, batch, queries, kvHeads, heads/kvHeads, dim)
	// [B, KVHeads, S, heads per KV head, capacity]
	scores := MulScalar(matmul.Wide(grouped, []int{4}, []int{0, 2}, keys, []int{3}, []int{0, 2}), o.Scale)
	if o.SoftCap > 0 {
		scores = MulScalar(Tanh(DivScalar(scores, o.SoftCap)), o.SoftCap)
	}
	mask := Reshape(visible, 1, 1, queries, 1, capacity)
	rows := shapes.Make(dtypes.Int32, batch, capacity)
	padding := LessThan(Iota(g, rows, 1), BroadcastToShape(ExpandAxes(start, -1), rows))
	mask = And(mask, Reshape(LogicalNot(padding), batch, 1, 1, 1, capacity))
	mask = BroadcastToShape(mask, shapes.Make(dtypes.Bool, scores.Shape().Dimensions...))
	scores = Where(mask, scores, AddScalar(ZerosLike(scores), -1e30))
	weights := ConvertDType(Softmax(scores, -1), v.DType())
	out = matmul.General(weights, []int{4}, []int{0, 1}, values, []int{1}, []int{0, 2}) // [B, KVHeads, S, group, D]
	return Reshape(TransposeAllDims(out, 0, 2, 1, 3, 4), d...), keys, values
}

// What cache_attention.cu has.
const (
	cacheHeads = 4 // query heads that it takes at once
	cacheWarps = 8
)

// cacheLaunch cuts the cache into parts of 256 keys where that is how the GPU gets enough to do, else of 2048. rotary says that
// queries, keys and values lie side by side and are to be rotated.
func cacheLaunch(dtype dtypes.DType, batch, queries, heads, kvHeads, dim, capacity int, rotary bool, o CacheOptions) *launch {
	blocks := batch * kvHeads
	if rotary && dim%(2*chunk) != 0 {
		return nil
	}
	if dtype != dtypes.BFloat16 || queries != 1 || dim%chunk != 0 || dim > 256 || blocks == 0 || blocks > maxRows || o.Window >= 1<<31 {
		return nil
	}
	each := 2048
	if blocks < 128 {
		each = 256
	}
	each = min(each, capacity)
	splits := ceilDiv(capacity, each)
	float := func(x float64) int32 { return int32(math.Float32bits(float32(x))) }
	lanes := int32(bits.Len(uint(dim/chunk - 1)))
	q, kv := int32(heads*dim/chunk), int32(kvHeads*dim/chunk) // chunks of a row
	k := &launch{
		kernel: "cache_attention", grid: [3]int{blocks, splits}, threads: 32 * cacheWarps,
		shared: 4 * cacheHeads * (each + cacheWarps*dim),
		sizes: []int32{int32(heads), int32(kvHeads), int32(dim), int32(capacity), int32(each), int32(splits), int32(o.Window),
			float(o.Scale), float(o.SoftCap), lanes, 0, 0, 0, q, kv},
		aliases: []seam.Alias{{Result: 1, Operand: 3}, {Result: 2, Operand: 4}},
	}
	if rotary {
		copy(k.sizes[10:], []int32{1, q, q + kv, q + 2*kv, q + 2*kv})
	}
	cache := shapes.Make(dtype, batch, capacity, kvHeads, dim)
	never := shapes.Make(dtypes.Float32, 1) // written
	k.out = []shapes.Shape{shapes.Make(dtype, batch, 1, heads, dim), cache, cache, never, never}
	if splits > 1 {
		k.out[0] = shapes.Make(dtype, 1)
		k.out[3] = shapes.Make(dtypes.Float32, splits, batch, heads, dim)
		k.out[4] = shapes.Make(dtypes.Float32, splits, batch, heads, 2)
	}
	return k
}

// combined is attention's output [B, 1, Heads, D] from the kernel's results.
func (k *launch) combined(results []*Node, dims []int) *Node {
	if k.grid[1] == 1 {
		return results[0]
	}
	parts, stats := results[3], results[4]
	top, sum := SliceAxis(stats, -1, AxisElem(0)), SliceAxis(stats, -1, AxisElem(1)) // [splits, B, H, 1]
	weight := Exp(Sub(top, ReduceAndKeep(top, ReduceMax, 0)))                        // 0 where a part has no keys
	y := Div(ReduceSum(Mul(parts, weight), 0), ReduceSum(Mul(sum, weight), 0))
	return Reshape(ConvertDType(y, results[1].DType()), dims...)
}
