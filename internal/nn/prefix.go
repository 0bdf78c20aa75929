package nn

import (
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// Prefix tuning (arXiv:2101.00190) trains keys and values that every token of a layer sees before those of its own row.
//
// They lie in the places of virtual tokens, which rows begin with: what the layer computes for these places up to its keys and
// values is replaced, so that positions, masks, windows and the cache are those of longer rows. What comes out at the places
// themselves is of no use to anyone, and no gradient arrives there.

// Prefix adds the keys and values [tokens, 2·width] of a prefix as float32, trainable, width = KVHeads·HeadDim: of each token
// its keys, then its values.
func (b *LayoutBuilder) Prefix(tokens, width int) {
	b.l.prefix = b.slot(Slot{
		Shape: shapes.Make(dtypes.Float32, tokens, 2*width), Parts: []Part{{"prefix", tokens}}, Trainable: true, Decay: true, Embedding: true,
	}) + 1
}

// Prefix is the slot of the prefix, -1 if the layout has none.
func (l *Layout) Prefix() int { return l.prefix - 1 }

// withPrefix are k and v [B, S, KVHeads, HeadDim] with the layer's prefix in the places of its tokens: the first ones of a
// row, which in a cache that is being made begins at its start. Later tokens find it in the cache.
func (l *Layer) withPrefix(k, v *Node) (*Node, *Node) {
	if l.prefix == nil || l.cache != nil && l.cache.K != nil {
		return k, v
	}
	kv := l.tape.plain([]*Node{k, v, l.prefix}, func(in []*Node) []*Node {
		width := in[2].Shape().Dim(1) / 2
		return []*Node{
			l.inPlace(in[0], SliceAxis(in[2], 1, AxisRange(0, width))),
			l.inPlace(in[1], SliceAxis(in[2], 1, AxisRange(width))),
		}
	})
	return kv[0], kv[1]
}

// inPlace is x [B, S, heads, dim] with own [tokens, heads·dim] in the places of the virtual tokens.
func (l *Layer) inPlace(x, own *Node) *Node {
	d, n := x.Shape().Dimensions, own.Shape().Dim(0)
	own = Reshape(own, n, d[2], d[3])
	if l.cache == nil {
		// Wide until the rows are there, so that gradients are summed over them in float32.
		all := BroadcastToShape(InsertAxes(own, 0), shapes.Make(own.DType(), d[0], n, d[2], d[3]))
		return Concatenate([]*Node{ConvertDType(all, x.DType()), SliceAxis(x, 1, AxisRange(n))}, 1)
	}
	g := x.Graph()
	places := shapes.Make(dtypes.Int32, d[0], d[1])
	at := Sub(Iota(g, places, 1), BroadcastToShape(ExpandAxes(l.cache.Start, -1), places))
	zero, end := Const(g, int32(0)), Const(g, int32(n))
	virtual := LogicalAnd(GreaterOrEqual(at, zero), LessThan(at, end))
	rows := Gather(ConvertDType(own, x.DType()), InsertAxes(Where(virtual, at, ZerosLike(at)), -1)) // [B, S, heads, dim]
	return Where(BroadcastToShape(InsertAxes(virtual, -1, -1), shapes.Make(dtypes.Bool, d...)), rows, x)
}

// Virtual says that rows begin with places of n virtual tokens. With embeddings these are trained, [n, hidden] in float32;
// without, layers have prefixes there.
func (b *LayoutBuilder) Virtual(n, hidden int, embeddings bool) {
	b.l.virtual = n
	if embeddings {
		b.slot(Slot{Shape: shapes.Make(dtypes.Float32, n, hidden), Parts: []Part{{PromptName, n}}, Trainable: true, Decay: true, Embedding: true})
	}
}

// PromptName is the part of a slot that holds the embeddings of virtual tokens, as PEFT's files call them.
const PromptName = "prompt_embeddings"

// Virtual is how many virtual tokens rows begin with.
func (l *Layout) Virtual() int { return l.virtual }
