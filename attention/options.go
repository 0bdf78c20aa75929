package attention

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/support/exceptions"
)

// Options says who attends to whom and how it is computed. The zero value is full attention with the usual scale.
type Options struct {
	Causal bool    // query i sees keys up to its own position, i + QueryOffset
	Scale  float64 // factor on the scores before the softmax; 0: 1/sqrt(head_dim)
	// Window, if not 0, lets the query at position i see keys (i-Window, i] only, its own among them, as sliding_window
	// does in transformers. It implies Causal.
	Window  int
	SoftCap float64 // if not 0, scores become SoftCap·tanh(score/SoftCap) before masking, as in Gemma 2

	// SegmentIDs, int32 [batch, q_seq], and KVSegmentIDs, int32 [batch, kv_seq], let a query see the keys with its own id
	// only: several documents in one row. KVSegmentIDs nil: the same as SegmentIDs, which takes as many queries as keys. The
	// order of ids is free, and padding is a document like any other.
	SegmentIDs, KVSegmentIDs *Node

	// MaxSegments, if not 0, is a promise about SegmentIDs that lets cuDNN take them: all ids are at least 0 and below it,
	// and the tokens of an id lie side by side in their row. [CountSegments] finds it on the host. It is taken as the next
	// power of two, and 1 as 2, which is all that programs depend on. On the cuDNN route, ids that break this promise make
	// the log-sum-exp and all gradients NaN, and out is of no use; other routes need no promise.
	MaxSegments int

	QueryOffset int // position of query 0 among the keys, for Causal and Window where the lengths differ

	// Bias, [batch or 1, heads or 1, q_seq, kv_seq] in float32 or q's dtype, is added to the scores after scale and soft
	// cap. A first axis of 1 serves every row, a second axis of 1 every head; the last two are never stretched. -Inf, and
	// numbers far below a query's other scores, hide keys; only the tiled and the dense route allow that all of a query's
	// keys are hidden so, by numbers below -1e20: the query's output and gradients are then 0. Where lesser numbers, such as -1e9,
	// hide all of them, gradients through that query have no meaning. Bias gets a gradient in its own shape and dtype, summed over
	// what it serves, unless it comes through StopGradient.
	Bias *Node

	// DropoutRate, in [0, 1), is the probability, to 1/65536, with which a weight is dropped after the softmax; those that stay
	// grow by 1/(1-DropoutRate). Which ones depends on the row's entry in DropoutKeys, uint32 [batch], and on head, query,
	// key and q_seq alone, so that the backward pass, and any division of the rows among devices, draws the same. Mix seed,
	// step, row and layer into the keys.
	DropoutRate float64
	DropoutKeys *Node

	Route           Route
	BlockQ, BlockKV int // size of the tiles, in queries and keys; 0: chosen from the lengths
}

// Route is a way to compute attention. All give the same numbers within rounding.
type Route int

const (
	RouteAuto  Route = iota // cuDNN where it applies, dense for short sequences, tiled otherwise
	RouteTiled              // FlashAttention-2 in graph operations: linear memory, every option
	RouteDense              // the whole score matrix at once, gradient by autodiff (of FromSaved, the tiled one): the reference
	RouteCuDNN              // cuDNN's flash attention, on CUDA: see Explain for what it takes
)

// String returns "auto", "tiled", "dense" or "cudnn".
func (r Route) String() string {
	if r < RouteAuto || r > RouteCuDNN {
		return fmt.Sprintf("Route(%d)", int(r))
	}
	return [...]string{"auto", "tiled", "dense", "cudnn"}[r]
}

// call is one checked use of attention: its inputs, its sizes, and Options with the defaults filled in.
type call struct {
	Options
	q, k, v               *Node
	batch, queries, keys  int
	heads, kvHeads, group int // group = heads / kvHeads query heads share a key head
	dim                   int
	dtype                 dtypes.DType
}

// newCall checks shapes, dtypes and options, and panics with what is wrong.
func newCall(q, k, v *Node, o Options) *call {
	for i, x := range []*Node{q, k, v} {
		if x.Rank() != 4 {
			exceptions.Panicf("attention: %c has shape %s; want [batch, seq, heads, head_dim]", "qkv"[i], x.Shape())
		}
	}
	d, kd := q.Shape().Dimensions, k.Shape().Dimensions
	c := &call{Options: o, q: q, k: k, v: v, batch: d[0], queries: d[1], heads: d[2], dim: d[3], keys: kd[1], kvHeads: kd[2], dtype: q.DType()}
	if !k.Shape().Equal(v.Shape()) || kd[0] != c.batch || kd[3] != c.dim || k.DType() != c.dtype {
		exceptions.Panicf("attention: q %s, k %s, v %s do not fit; k and v need the same shape, and q's batch, head_dim and dtype",
			q.Shape(), k.Shape(), v.Shape())
	}
	if q.Shape().Size() == 0 || k.Shape().Size() == 0 {
		exceptions.Panicf("attention: q %s, k %s: no axis may be empty", q.Shape(), k.Shape())
	}
	if c.heads%c.kvHeads != 0 {
		exceptions.Panicf("attention: %d query heads cannot share %d key-value heads evenly", c.heads, c.kvHeads)
	}
	c.group = c.heads / c.kvHeads
	switch c.dtype {
	case dtypes.Float32, dtypes.BFloat16, dtypes.Float16:
	default:
		exceptions.Panicf("attention: dtype %s; use Float32, BFloat16 or Float16", c.dtype)
	}
	c.checkOptions()
	return c
}

// checkOptions checks the options and fills in their defaults.
func (c *call) checkOptions() {
	for name, v := range map[string]int{
		"Window": c.Window, "QueryOffset": c.QueryOffset, "BlockQ": c.BlockQ, "BlockKV": c.BlockKV, "MaxSegments": c.MaxSegments,
	} {
		if v < 0 {
			exceptions.Panicf("attention: %s is %d; use 0 or more", name, v)
		}
	}
	for name, v := range map[string]float64{"Scale": c.Scale, "SoftCap": c.SoftCap} {
		if !(v >= 0) || math.IsInf(v, 0) {
			exceptions.Panicf("attention: %s is %g; use 0 or a positive number", name, v)
		}
	}
	if c.Route < RouteAuto || c.Route > RouteCuDNN {
		exceptions.Panicf("attention: unknown %s; use RouteAuto, RouteTiled, RouteDense or RouteCuDNN", c.Route)
	}
	if c.Scale == 0 {
		c.Scale = 1 / math.Sqrt(float64(c.dim))
	}
	if c.Window > 0 {
		c.Causal = true
		if last := c.QueryOffset + c.queries - 1; c.Window > last {
			c.Window = 0 // reaches back to key 0 from every query
		}
	}
	if !c.Causal {
		c.QueryOffset = 0
	}
	c.checkSegments()
	c.checkBias()
	c.checkDropout()
}

func (c *call) checkSegments() {
	if c.SegmentIDs == nil {
		if c.KVSegmentIDs != nil {
			exceptions.Panicf("attention: KVSegmentIDs without SegmentIDs")
		}
		return
	}
	if c.KVSegmentIDs == nil {
		c.KVSegmentIDs = c.SegmentIDs
	}
	for name, x := range map[string]struct {
		ids *Node
		seq int
	}{"SegmentIDs": {c.SegmentIDs, c.queries}, "KVSegmentIDs": {c.KVSegmentIDs, c.keys}} {
		if want := shapes.Make(dtypes.Int32, c.batch, x.seq); !x.ids.Shape().Equal(want) {
			exceptions.Panicf("attention: %s has shape %s; want %s", name, x.ids.Shape(), want)
		}
	}
	// One program serves all counts up to the next power of two. A promise of 1 says that ids are all 0, and cuDNN could do
	// without them; as 2, it is still told of them, and a promise that does not hold is noticed.
	if c.MaxSegments > 0 {
		c.MaxSegments = 1 << bits.Len(uint(max(c.MaxSegments, 2)-1))
	}
}

func (c *call) checkBias() {
	if c.Bias == nil {
		return
	}
	s := c.Bias.Shape()
	fits := s.Rank() == 4 && (s.Dim(0) == 1 || s.Dim(0) == c.batch) && (s.Dim(1) == 1 || s.Dim(1) == c.heads) &&
		s.Dim(2) == c.queries && s.Dim(3) == c.keys
	if !fits {
		exceptions.Panicf("attention: Bias has shape %s; want [%d or 1, %d or 1, %d, %d]", s, c.batch, c.heads, c.queries, c.keys)
	}
	if s.DType != dtypes.Float32 && s.DType != c.dtype {
		exceptions.Panicf("attention: Bias is %s; use Float32 or the dtype of q, %s", s.DType, c.dtype)
	}
}

func (c *call) checkDropout() {
	switch {
	case !(c.DropoutRate >= 0 && c.DropoutRate < 1):
		exceptions.Panicf("attention: DropoutRate is %g; use a probability in [0, 1)", c.DropoutRate)
	case c.DropoutRate == 0:
		c.DropoutKeys = nil
	case c.DropoutKeys == nil:
		exceptions.Panicf("attention: DropoutRate %g without DropoutKeys; give one uint32 per row", c.DropoutRate)
	default:
		if want := shapes.Make(dtypes.Uint32, c.batch); !c.DropoutKeys.Shape().Equal(want) {
			exceptions.Panicf("attention: DropoutKeys has shape %s; want %s", c.DropoutKeys.Shape(), want)
		}
	}
}
