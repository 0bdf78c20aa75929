package attention

import (
	"math"
	"math/bits"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// CountSegments returns what [Options.MaxSegments] may be for rows of that length, one after the other in ids: the power
// of two that is above every id. It returns 0, no promise, where an id is negative or its tokens in a row do not lie side
// by side, or ids does not consist of whole rows.
func CountSegments(ids []int32, length int) int {
	if length <= 0 || len(ids) == 0 || len(ids)%length != 0 {
		return 0
	}
	top := int32(0)
	for at := 0; at < len(ids); at += length {
		seen := map[int32]bool{}
		for i, id := range ids[at : at+length] {
			if i > 0 && id == ids[at+i-1] {
				continue
			}
			if id < 0 || id == math.MaxInt32 || seen[id] {
				return 0
			}
			seen[id] = true
			top = max(top, id)
		}
	}
	return 1 << bits.Len32(uint32(top))
}

// packed is how cuDNN is told of documents in rows: as a list over the whole batch, one after the other, documents that
// are not there at the end, with length 0 and beginning behind the last token.
type packed struct {
	c              *call
	slots          int   // in the list: batch · MaxSegments
	starts         *Node // first tokens, counted over the batch, int32 [slots]
	lengths        *Node // int32 [slots]
	place, inside  *Node // of each token: its document in the list, and its number there, int32 [batch, seq]
	promiseHolds   *Node // bool scalar: the documents, as ids and counts tell them, tile the batch
	tokens, maxSeg int
}

// pack makes the list from the segment ids, in comparisons and sums: ids are below MaxSegments, and each one's tokens lie
// side by side.
func (c *call) pack() *packed {
	g := c.SegmentIDs.Graph()
	i32 := func(v int) *Node { return Const(g, int32(v)) }
	p := &packed{c: c, slots: c.batch * c.MaxSegments, tokens: c.batch * c.queries, maxSeg: c.MaxSegments}

	// Of each id in each row, also of those that are not there: its first token and how many it has.
	grid := shapes.Make(dtypes.Int32, c.batch, c.queries, c.MaxSegments)
	own := Equal(BroadcastToShape(ExpandAxes(c.SegmentIDs, 2), grid), Iota(g, grid, 2))
	token := Add(Mul(Iota(g, grid, 0), i32(c.queries)), Iota(g, grid, 1))
	first := ReduceMin(Where(own, token, BroadcastToShape(i32(p.tokens), grid)), 1)
	count := ReduceSum(ConvertDType(own, dtypes.Int32), 1)

	// Their places in the list are the order of first tokens; those that are not there, all "behind the last token", keep
	// their own order.
	pairs := shapes.Make(dtypes.Int32, p.slots, p.slots)
	mine := BroadcastToShape(Reshape(first, p.slots, 1), pairs)
	other := BroadcastToShape(Reshape(first, 1, p.slots), pairs)
	before := LogicalOr(LessThan(other, mine), LogicalAnd(Equal(other, mine), LessThan(Iota(g, pairs, 1), Iota(g, pairs, 0))))
	rank := ReduceSum(ConvertDType(before, dtypes.Int32), 1)

	at := Equal(BroadcastToShape(Reshape(rank, p.slots, 1), pairs), Iota(g, pairs, 1)) // [id, place]
	list := func(x *Node) *Node {
		x = BroadcastToShape(Reshape(x, p.slots, 1), pairs)
		return ReduceSum(Where(at, x, ZerosLike(x)), 0)
	}
	p.starts, p.lengths = list(first), list(count)

	ofToken := func(x *Node) *Node { // [batch, MaxSegments] to [batch, seq], by id
		x = BroadcastToShape(ExpandAxes(x, 1), grid)
		return ReduceSum(Where(own, x, ZerosLike(x)), 2)
	}
	p.place = ofToken(Reshape(rank, c.batch, c.MaxSegments))
	tokens := shapes.Make(dtypes.Int32, c.batch, c.queries)
	p.inside = Sub(Add(Mul(Iota(g, tokens, 0), i32(c.queries)), Iota(g, tokens, 1)), ofToken(first))

	ends := Concatenate([]*Node{Const(g, []int32{0}), Add(p.starts, p.lengths)}, 0)
	begins := Concatenate([]*Node{p.starts, Const(g, []int32{int32(p.tokens)})}, 0)
	p.promiseHolds = LogicalAll(Equal(ends, begins))
	return p
}

// operands returns lengths [batch, MaxSegments], twice, and offsets [batch, MaxSegments+1] of q and of k and v, in
// elements of their memory.
func (p *packed) operands() []*Node {
	g, c := p.starts.Graph(), p.c
	lengths := Reshape(p.lengths, c.batch, p.maxSeg)
	rest := make([]int32, c.batch)
	for i := range rest {
		rest[i] = int32(p.tokens)
	}
	starts := Reshape(Concatenate([]*Node{p.starts, Const(g, rest)}, 0), c.batch, p.maxSeg+1)
	stride := func(heads int) *Node { return Mul(starts, Const(g, int32(heads*c.dim))) }
	return []*Node{lengths, lengths, stride(c.heads), stride(c.kvHeads)}
}

// gather turns the statistics of the documents in the list, [slots, heads, seq], into those of the tokens,
// [batch, heads, q_seq]: NaN where the promise is broken.
func (p *packed) gather(stats *Node) *Node {
	g, c := stats.Graph(), p.c
	out := shapes.Make(dtypes.Int32, c.batch, c.heads, c.queries)
	of := func(x *Node) *Node { return BroadcastToShape(ExpandAxes(x, 1), out) }
	index := Add(Mul(of(p.place), Const(g, int32(c.heads))), Iota(g, out, 1))
	index = Add(Mul(index, Const(g, int32(c.queries))), of(p.inside))
	lse := Gather(Reshape(stats, -1), ExpandAxes(index, 3))
	return Where(BroadcastToShape(p.promiseHolds, lse.Shape()), lse, AddScalar(ZerosLike(lse), math.NaN()))
}

// scatter is the way back: [batch, heads, q_seq] to [slots, heads, seq], 0 behind each document's end.
func (p *packed) scatter(lse *Node) *Node {
	g, c := lse.Graph(), p.c
	i32 := func(v int) *Node { return Const(g, int32(v)) }
	out := shapes.Make(dtypes.Int32, p.slots, c.heads, c.queries)
	start := BroadcastToShape(ExpandAxes(p.starts, 1, 2), out)
	inside := Iota(g, out, 2)
	token := Min(Add(start, inside), i32(p.tokens-1))
	row := Div(token, i32(c.queries))
	index := Add(Mul(Add(Mul(row, i32(c.heads)), Iota(g, out, 1)), i32(c.queries)), Sub(token, Mul(row, i32(c.queries))))
	stats := Gather(Reshape(lse, -1), ExpandAxes(index, 3))
	there := LessThan(inside, BroadcastToShape(ExpandAxes(p.lengths, 1, 2), out))
	return Where(there, stats, ZerosLike(stats))
}
