package attention

import (
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

const (
	hidden = -1e30 // added to scores that a query may not see: exp gives exactly 0
	// floor bounds the row maximum from below, so that also a row of hidden scores only gets weights exp(hidden-floor) = 0.
	// Such a row's log-sum-exp is this number, and in the backward its weights are 0 again, without a special case.
	floor = -1e20
	tiny  = 1e-10 // divisor of a row without weights, and its square one of autodiff's; any other row's sum is at least 1
)

// tiled computes tile by tile. Inside, tensors are head-major, [batch, kv_heads, rows, ...], where the rows of a block of
// queries are those of all the query heads that share a key head: one matrix product serves the group, and k and v are
// never repeated.
type tiled struct {
	*call
	q, k, v   *Node         // [batch, kv_heads, group, q_seq, dim] with the scale where foldScale; [batch, kv_heads, kv_seq, dim]
	added     *Node         // the bias, [batch or 1, kv_heads or 1, group or 1, q_seq, kv_seq]; nil: none
	foldScale bool          // the scale is in q, else it is applied to the scores
	ks, vs    map[int]*Node // blocks of k and v by their first key, as they come into use
	turn      []*Node       // the results of the tile that was last built
}

func newTiled(c *call, q, k, v, bias *Node) *tiled {
	t := &tiled{call: c, k: headMajor(k), v: headMajor(v), ks: map[int]*Node{}, vs: map[int]*Node{}}
	if bias != nil {
		t.added = c.splitHeads(bias)
	}
	// In float32, and where it only changes bfloat16's exponent, scaling q is as exact as scaling the scores, and cheaper; float16
	// has fewer exponents.
	frac, _ := math.Frexp(c.Scale)
	t.foldScale = c.dtype == dtypes.Float32 || c.dtype == dtypes.BFloat16 && frac == 0.5
	t.q = c.grouped(q)
	if t.foldScale {
		t.q = MulScalar(t.q, c.Scale)
	}
	return t
}

// headMajor turns [batch, seq, heads, dim] into [batch, heads, seq, dim].
func headMajor(x *Node) *Node { return TransposeAllDims(x, 0, 2, 1, 3) }

// grouped turns [batch, q_seq, heads, dim] into [batch, kv_heads, group, q_seq, dim].
func (c *call) grouped(x *Node) *Node {
	return Reshape(headMajor(x), c.batch, c.kvHeads, c.group, c.queries, x.Shape().Dim(-1))
}

// rows takes queries [q0, q1) of x [batch, kv_heads, group, q_seq, width] as [batch, kv_heads, group·(q1-q0), width].
func (c *call) rows(x *Node, q0, q1 int) *Node {
	if q1-q0 < c.queries {
		x = Slice(x, AxisRange(), AxisRange(), AxisRange(), AxisRange(q0, q1), AxisRange())
	}
	return Reshape(x, c.batch, c.kvHeads, c.group*(q1-q0), x.Shape().Dim(-1))
}

// ungroup joins blocks of rows along the queries: [batch, kv_heads, group·block, width] each, [batch, heads, q_seq, width] together.
func (c *call) ungroup(blocks []*Node) *Node {
	for i, b := range blocks {
		blocks[i] = Reshape(b, c.batch, c.heads, b.Shape().Dim(2)/c.group, b.Shape().Dim(3))
	}
	if len(blocks) == 1 {
		return blocks[0]
	}
	return Concatenate(blocks, 2)
}

// forward returns out [batch, q_seq, heads, dim] and its log-sum-exp [batch, heads, q_seq].
func (t *tiled) forward() (out, lse *Node) {
	var outs, lses []*Node
	for _, b := range t.bands() {
		o, l := t.forwardBand(b)
		outs, lses = append(outs, o), append(lses, l)
	}
	return headMajor(t.ungroup(outs)), Squeeze(t.ungroup(lses), -1)
}

// forwardBand is the online softmax over the keys that a block of queries sees.
func (t *tiled) forwardBand(b band) (out, lse *Node) {
	q := t.rows(t.q, b.q0, b.q1)
	if len(b.tiles) == 0 {
		return ZerosLike(q), AddScalar(Zeros(q.Graph(), shapes.Make(dtypes.Float32, t.batch, t.kvHeads, q.Shape().Dim(2), 1)), floor)
	}
	var top, sum, acc *Node // row maximum and sum of weights [.., rows, 1], weighted values [.., rows, dim], float32
	for _, x := range b.tiles {
		s, _ := t.scores(t.inTurn(q)[0], b, x)
		m := ReduceAndKeep(s, ReduceMax, -1)
		if top == nil {
			m = MaxScalar(m, floor)
		} else {
			m = Max(top, m)
		}
		p := Exp(Sub(s, m))
		l := ReduceAndKeep(p, ReduceSum, -1)
		o := product(ConvertDType(t.drop(p, b, x), t.dtype), 3, t.vs[x.k0], 2)
		if top != nil {
			shrink := Exp(Sub(top, m))
			l, o = Add(Mul(sum, shrink), l), Add(Mul(acc, shrink), o)
		}
		top, sum, acc = m, l, o
		t.turn = []*Node{sum, acc}
	}
	sum = MaxScalar(sum, tiny)
	return ConvertDType(Div(acc, sum), t.dtype), Add(top, Log(sum))
}

// backward returns the gradients of q, k, v and, where there is one, the bias, for dOut, given what forward returned.
func (t *tiled) backward(out, lse, dOut *Node) []*Node {
	lseRows := Reshape(lse, t.batch, t.kvHeads, t.group, t.queries, 1)
	outRows, dOutRows := t.grouped(out), t.grouped(dOut)
	g := &gradients{dks: map[int]*Node{}, dvs: map[int]*Node{}}
	for _, b := range t.bands() {
		dO := t.rows(dOutRows, b.q0, b.q1)
		t.backwardBand(g, b, dO, t.rows(lseRows, b.q0, b.q1),
			ReduceAndKeep(Mul(wide(dO), wide(t.rows(outRows, b.q0, b.q1))), ReduceSum, -1))
	}
	keyScale := t.Scale
	if t.foldScale {
		keyScale = 1 // q has it
	}
	all := []*Node{headMajor(t.ungroup(g.dqs)), t.joinKeys(g.dks, keyScale), t.joinKeys(g.dvs, 1)}
	switch {
	case t.wantsBiasGradient():
		all = append(all, t.joinBias(g.dBias))
	case t.added != nil:
		all = append(all, nil)
	}
	return all
}

// gradients are what the tiles so far gave.
type gradients struct {
	dqs      []*Node       // by band, as rows
	dks, dvs map[int]*Node // by first key, float32
	dBias    []*Node       // by band, as the bias, float32
}

func addAt(sums map[int]*Node, key int, x *Node) {
	if sums[key] != nil {
		x = Add(sums[key], x)
	}
	sums[key] = x
}

// backwardBand goes over the keys that a block of queries sees. lse and delta, the sum over a row of weight times its
// gradient, are [batch, kv_heads, rows, 1].
func (t *tiled) backwardBand(g *gradients, b band, dO, lse, delta *Node) {
	rows := t.rows(t.q, b.q0, b.q1)
	var dq *Node
	dBias := map[int]*Node{}
	for _, x := range b.tiles {
		turn := t.inTurn(rows, dO, lse, delta)
		q, dO, lse, delta := turn[0], turn[1], turn[2], turn[3]
		s, slope := t.scores(q, b, x)
		p := Exp(Sub(s, lse))
		addAt(g.dvs, x.k0, product(ConvertDType(t.drop(p, b, x), t.dtype), 2, dO, 2))
		ds := Mul(p, Sub(t.drop(product(dO, 3, t.vs[x.k0], 3), b, x), delta))
		if t.wantsBiasGradient() {
			dBias[x.k0] = t.biasGradient(ds, b, x)
		}
		if slope != nil {
			ds = Mul(ds, slope)
		}
		ds = ConvertDType(ds, t.dtype)
		addAt(g.dks, x.k0, product(ds, 2, q, 2))
		d := product(ds, 3, t.ks[x.k0], 2)
		if dq != nil {
			d = Add(dq, d)
		}
		dq = d
		t.turn = []*Node{dq, g.dks[x.k0], g.dvs[x.k0]}
	}
	if dq == nil {
		dq = ZerosLike(rows)
	} else {
		dq = ConvertDType(MulScalar(dq, t.Scale), t.dtype)
	}
	g.dqs = append(g.dqs, dq)
	if t.wantsBiasGradient() {
		g.dBias = append(g.dBias, t.biasRow(dBias, b))
	}
}

// joinKeys joins sums over blocks of keys to [batch, kv_seq, kv_heads, dim]; blocks that no query sees are zero.
func (t *tiled) joinKeys(sums map[int]*Node, scale float64) *Node {
	var blocks []*Node
	_, blockKV := t.blocks()
	for k0 := 0; k0 < t.keys; k0 += blockKV {
		x := sums[k0]
		if x == nil {
			x = Zeros(t.k.Graph(), shapes.Make(t.dtype, t.batch, t.kvHeads, min(blockKV, t.keys-k0), t.dim))
		} else {
			if scale != 1 {
				x = MulScalar(x, scale)
			}
			x = ConvertDType(x, t.dtype)
		}
		blocks = append(blocks, x)
	}
	if len(blocks) > 1 {
		return headMajor(Concatenate(blocks, 2))
	}
	return headMajor(blocks[0])
}

// scores returns scale·q·kᵀ of a tile, soft-capped and masked, [batch, kv_heads, rows, keys] in float32, and the soft
// cap's derivative, nil without one.
func (t *tiled) scores(q *Node, b band, x tile) (s, slope *Node) {
	s = product(q, 3, t.keyBlock(x), 3)
	if !t.foldScale {
		s = MulScalar(s, t.Scale)
	}
	if t.SoftCap > 0 {
		th := Tanh(DivScalar(s, t.SoftCap))
		s, slope = MulScalar(th, t.SoftCap), OneMinus(Square(th))
	}
	mask := t.mask(b, x)
	if mask == nil && t.added == nil {
		return s, slope
	}
	split := t.split(s, b, x)
	if t.added != nil {
		split = Add(split, wide(t.biasTile(b, x)))
	}
	if mask != nil {
		split = Add(split, mask)
	}
	return Reshape(split, s.Shape().Dimensions...), slope
}

// split takes apart the rows of a tile's scores: [batch, kv_heads, group, queries, keys].
func (t *tiled) split(s *Node, b band, x tile) *Node {
	return Reshape(s, t.batch, t.kvHeads, t.group, b.q1-b.q0, x.k1-x.k0)
}

// mask is hidden where a query does not see a key and 0 elsewhere, [batch or 1, 1, 1, queries, keys]; nil where all see all.
func (t *tiled) mask(b band, x tile) *Node {
	visible := t.visible(b.q0, b.q1, x.k0, x.k1, x.masked)
	if visible == nil {
		return nil
	}
	mask := Where(visible, Scalar(visible.Graph(), dtypes.Float32, 0), Scalar(visible.Graph(), dtypes.Float32, hidden))
	if mask.Rank() == 2 {
		return ExpandAxes(mask, 0, 1, 2)
	}
	return ExpandAxes(mask, 1, 2)
}

// visible says which queries of [q0, q1) see which keys of [k0, k1): [queries, keys] by position, [batch, queries, keys]
// with segments, nil if all do.
func (c *call) visible(q0, q1, k0, k1 int, byPosition bool) (visible *Node) {
	g := c.q.Graph()
	if byPosition {
		grid := shapes.Make(dtypes.Int32, q1-q0, k1-k0)
		// How far behind the query the key lies. Tiles with the same offset make equal nodes, which backends merge.
		distance := AddScalar(Sub(Iota(g, grid, 0), Iota(g, grid, 1)), float64(q0+c.QueryOffset-k0))
		visible = GreaterOrEqual(distance, ScalarZero(g, dtypes.Int32))
		if c.Window > 0 {
			visible = LogicalAnd(visible, LessThan(distance, Scalar(g, dtypes.Int32, c.Window)))
		}
	}
	if c.SegmentIDs == nil {
		return visible
	}
	same := Equal(
		ExpandAxes(Slice(c.SegmentIDs, AxisRange(), AxisRange(q0, q1)), 2),
		ExpandAxes(Slice(c.KVSegmentIDs, AxisRange(), AxisRange(k0, k1)), 1))
	if visible == nil {
		return same
	}
	return LogicalAnd(same, ExpandAxes(visible, 0))
}

// keyBlock returns the keys of a tile and sees to it that vs has its values.
func (t *tiled) keyBlock(x tile) *Node {
	if t.ks[x.k0] == nil {
		block := func(n *Node) *Node {
			if x.k1-x.k0 == t.keys {
				return n
			}
			return Slice(n, AxisRange(), AxisRange(), AxisRange(x.k0, x.k1), AxisRange())
		}
		t.ks[x.k0], t.vs[x.k0] = block(t.k), block(t.v)
	}
	return t.ks[x.k0]
}

// inTurn is what a tile is computed from, to be had only when all results of the tile before are there. XLA may else compute the
// scores of all tiles first, or leave a product of each for later, and keep what it takes. The Go backend goes by the order in
// which nodes are made.
func (t *tiled) inTurn(of ...*Node) []*Node {
	if t.turn == nil {
		return of
	}
	return OptimizationBarriers(append(of, t.turn...)...)[:len(of)]
}
