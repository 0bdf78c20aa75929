package nn

import (
	"slices"

	. "github.com/gomlx/gomlx/core/graph"
)

// What attention reads and writes takes some tens of kilobytes per token of an 8B model, the MLP between its linears five
// times as much. But the MLP sees one token at a time: a long row can go through it in parts, one after the other, and
// only attention needs memory for the whole.

// PerToken is f(x), x [B, S, features], for an f that treats each token alone and adds to x as the layer's residual stream
// does. Where the batch says so it takes the rows in parts of Batch.PartTokens tokens, keeps nothing inside for the backward
// pass, and there computes each part again right before its gradient.
func (l *Layer) PerToken(x *Node, f func(x *Node) *Node) *Node {
	ranges := l.parts(x.Shape().Dim(1))
	if len(ranges) == 1 {
		return f(x)
	}
	outer := l.tape
	l.tape = nil
	var ys []*Node
	for i, r := range ranges {
		part := l.tokens(x, r)
		if i > 0 { // not before the part ahead is done
			part = OptimizationBarriers(part, ys[i-1])[0]
		}
		l.from = r[0]
		ys = append(ys, f(part))
	}
	y := Concatenate(ys, 1)
	l.tape, l.from = outer, 0
	outer.record([]*Node{y}, func(d []*Node) { l.partsBackward(x, d[0], ranges, f) })
	return outer.value(KeepResidual, y)
}

// partsBackward adds the gradients of f(x) for dy, part after part.
func (l *Layer) partsBackward(x, dy *Node, ranges [][2]int, f func(x *Node) *Node) {
	outer := l.tape
	defer func() { l.tape, l.from = outer, 0 }()
	var dxs, wrt, grads []*Node
	for i, r := range ranges {
		part, dPart := l.tokens(x, r), l.tokens(dy, r)
		if i > 0 {
			after := OptimizationBarriers(append([]*Node{part, dxs[i-1]}, grads...)...)
			part, grads = after[0], after[2:]
		}
		l.tape, l.from = &Tape{replay: true, grads: map[*Node]*Node{}, fusion: outer.fusion}, r[0]
		l.tape.backward(f(part), dPart)
		dxs = append(dxs, l.tape.take(part))
		if i == 0 {
			wrt = l.tape.arrivals()
			grads = make([]*Node, len(wrt))
		}
		for k, n := range wrt {
			grads[k] = sum(grads[k], l.tape.take(n))
		}
	}
	l.tape = outer
	for k, n := range wrt {
		outer.add(n, grads[k])
	}
	outer.add(x, l.join(dxs, x))
}

// parts are the ranges of a row's tokens that go through PerToken one after the other.
func (l *Layer) parts(length int) (ranges [][2]int) {
	size := l.batch.PartTokens
	if size <= 0 || l.cache != nil || l.inputs != nil {
		size = length
	}
	for at := 0; at < length; at += size {
		ranges = append(ranges, [2]int{at, min(at+size, length)})
	}
	return ranges
}

// tokens are those of x [B, S, features] in a range; of a single row with the room behind them, if there is any.
func (l *fusion) tokens(x *Node, r [2]int) *Node {
	part := SliceAxis(x, 1, AxisRange(r[0], r[1]))
	if b, ok := l.buffers[x]; ok && b.clean && x.Shape().Dim(0) == 1 {
		return l.head(SliceAxis(b.data, 0, AxisRange(r[0], r[1])), part, true)
	}
	return part
}

// join is the inverse of tokens.
func (l *fusion) join(parts []*Node, like *Node) *Node {
	if like.Shape().Dim(0) > 1 || slices.ContainsFunc(parts, func(n *Node) bool { return !l.buffers[n].clean }) {
		return Concatenate(parts, 1)
	}
	var data []*Node
	for _, n := range parts {
		data = append(data, l.buffers[n].data)
	}
	return l.head(Concatenate(data, 0), like, true)
}
