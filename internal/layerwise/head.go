package layerwise

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/support/exceptions"

	"github.com/loris-ml/loris/internal/kernels"
	"github.com/loris-ml/loris/internal/matmul"
	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/training"
)

// logitElements bounds the logits of one chunk: 2^27 elements are 512 MB in float32, 256 in bfloat16.
const logitElements = 1 << 27

// chunkTokens is how many tokens the head takes at a time.
func (m *Model) chunkTokens(tokens int) int {
	if m.headTokens > 0 {
		return min(tokens, m.headTokens)
	}
	return min(tokens, max(16, logitElements/m.Vocab/256*256))
}

// lossOutputs are the scores of the loss program, [rows] each: Σ cross entropy, Σ entropy of the predictions in nats, number of
// labels that the model ranks first. All float32.
const lossOutputs = 3

// scaled tells whether gradients are computed for a scaled loss: float16 has too few small numbers for them.
func (m *Model) scaled() bool { return m.Shape.Compute == dtypes.Float16 }

// loss is the program x [B, S, hidden], labels [B, S] int32, norm, headTensors, with gradient also the scale of the loss if it is
// scaled, and with dropout the rows' random streams → the scores of lossOutputs and, with
// gradient, dx of the summed loss as the blocks take it; when the ends are trained, also the gradients of norm and head in float32.
// Position t is scored against label t: the caller has shifted.
func (m *Model) loss(loss *training.Loss, e *ends, gradient, dropout bool) *program {
	train := gradient && m.Trainable
	name := ""
	if loss != nil {
		name = loss.Name
	}
	return m.programs.get(m.Device, "head_loss", fmt.Sprintf("%v %v %v %v %v %q", gradient, train, dropout, e.key(), loss != nil, name), func(in []*Node) []*Node {
		x, labels, norm := in[0], in[1], in[2]
		d := x.Shape().Dimensions
		tokens := d[0] * d[1]
		n := len(m.headTensors(e))
		w, sides := m.headParts(e, in[3:3+n])
		rest := in[3+n:]
		c := chunked{loss: loss, w: w, sides: sides, gradient: gradient, train: train || gradient && e != nil && e.head.full >= 0}
		c.hidden = m.Shape.RMSNorm(Reshape(x, tokens, d[2]), norm)
		if gradient && m.scaled() {
			c.scale, rest = rest[0], rest[1:]
		}
		if dropout {
			l := nn.NewLayer(m.Shape, nn.Batch{RowKeys: rest[0]}, nil).At(Const(x.Graph(), uint32(headLayer)))
			c.dropped = Reshape(l.Drop(Reshape(c.hidden, d...), HeadName, e.head.dropout), tokens, d[2])
		}
		scores := m.chunks(&c, Reshape(labels, tokens))
		for i, s := range scores {
			scores[i] = ReduceSum(Reshape(s, d[0], d[1]), 1)
		}
		hidden, dHidden, dHead := c.hidden, c.dHidden, c.dHead
		if !gradient {
			return scores
		}
		wrt := []*Node{x}
		if train || e.trainsNorm() {
			wrt = append(wrt, norm)
		}
		total := ReduceAllSum(ConvertDType(Mul(hidden, StopGradient(dHidden)), dtypes.Float32))
		if c.dDropped != nil {
			total = Add(total, ReduceAllSum(ConvertDType(Mul(c.dropped, StopGradient(c.dDropped)), dtypes.Float32)))
		}
		grads := Gradient(total, wrt...)
		if m.Shape.Fused(m.Device.Backend) {
			grads[0] = nn.Record(nn.KeepNothing).AddRoom(grads[0])
		}
		out := append(scores, grads...)
		if c.train {
			out = append(out, dHead)
		}
		return append(out, headGradients(sides)...)
	})
}

// chunked is the head's part of a loss: what goes in and, with gradient, what comes out.
type chunked struct {
	loss              *training.Loss
	hidden, dropped   *Node // [tokens, hidden]; dropped is what adapters on the head see of it, nil: hidden
	w                 *Node
	sides             []*side
	scale             *Node // of the loss; nil: 1
	gradient, train   bool  // train: the head's weight
	dHidden, dDropped *Node
	dHead             *Node
}

// chunks walks over the tokens, chunk after chunk, so that only one chunk's logits are alive. It returns what lossOutputs sum,
// [tokens] each.
func (m *Model) chunks(c *chunked, labels *Node) (scores []*Node) {
	tokens, size := c.hidden.Shape().Dim(0), m.chunkTokens(c.hidden.Shape().Dim(0))
	var parts, dropped []*Node
	var each [][]*Node // chunk
	for at := 0; at < tokens; at += size {
		rows := AxisRange(at, min(at+size, tokens))
		h, l := SliceAxis(c.hidden, 0, rows), SliceAxis(labels, 0, rows)
		if i := len(each) - 1; i >= 0 { // not before the chunk ahead is done, and its scores with it: they would hold its logits
			after := OptimizationBarriers(append([]*Node{h}, each[i]...)...)
			h, each[i] = after[0], after[1:]
		}
		seen := h
		if c.dropped != nil {
			seen = SliceAxis(c.dropped, 0, rows)
		}
		s, dLogits := m.lossOf(c.loss, headLogits(h, seen, c.w, c.sides), l, c.gradient)
		if c.gradient {
			d, dSeen := c.backward(h, seen, dLogits)
			if parts = append(parts, d); dSeen != nil {
				dropped = append(dropped, dSeen)
			}
			if size < tokens { // the next chunk waits for this one's gradient too
				b := OptimizationBarriers(append(s, parts[len(parts)-1])...)
				s, parts[len(parts)-1] = b[:lossOutputs], b[lossOutputs]
			}
		}
		each = append(each, s)
	}
	for i := range lossOutputs {
		var vectors []*Node
		for _, s := range each {
			vectors = append(vectors, s[i])
		}
		scores = append(scores, Concatenate(vectors, 0))
	}
	if c.gradient {
		c.dHidden = Concatenate(parts, 0)
		if len(dropped) > 0 {
			c.dDropped = Concatenate(dropped, 0)
		}
	}
	return scores
}

// backward returns the gradients at a chunk's h and, where that is another node, at what adapters see of it; those of weights
// it adds up.
func (c *chunked) backward(h, seen, dLogits *Node) (dHidden, dSeen *Node) {
	if c.scale != nil {
		dLogits = Mul(dLogits, c.scale)
	}
	dLogits = ConvertDType(dLogits, h.DType())
	dHidden = matmul.Contract(dLogits, 1, c.w, 0)
	if c.train {
		c.dHead = sum(c.dHead, matmul.Wide(dLogits, []int{0}, nil, h, []int{0}, nil))
	}
	for _, s := range c.sides {
		if s.dropped && c.dropped != nil {
			dSeen = sum(dSeen, s.backward(seen, dLogits))
			continue
		}
		dHidden = Add(dHidden, s.backward(h, dLogits))
	}
	return dHidden, dSeen
}

func sum(a, b *Node) *Node {
	if a == nil {
		return b
	}
	return Add(a, b)
}

// lossOf is crossEntropy, or the same of another loss.
func (m *Model) lossOf(loss *training.Loss, logits, labels *Node, gradient bool) (scores []*Node, dLogits *Node) {
	if loss == nil {
		return m.crossEntropy(logits, labels, gradient)
	}
	logits, slope := m.Logit.apply(ConvertDType(logits, dtypes.Float32))
	// Of float32 this is no kernel, and shares passes with the loss.
	_, entropy, first, _ := kernels.CrossEntropy(logits, labels, training.IgnoreIndex, false)
	per := loss.PerLabel(logits, labels)
	if per.DType() != dtypes.Float32 || per.Rank() != 1 || per.Shape().Dim(0) != labels.Shape().Dim(0) {
		exceptions.Panicf("the loss %q returns %s for logits %s; want one float32 per label, [%d]", loss.Name, per.Shape(), logits.Shape(), labels.Shape().Dim(0))
	}
	scored := NotEqual(labels, Const(labels.Graph(), int32(training.IgnoreIndex)))
	per = Where(scored, per, ZerosLike(per))
	if gradient {
		dLogits = slope(Gradient(ReduceAllSum(per), logits)[0])
	}
	return []*Node{per, entropy, first}, dLogits
}

// crossEntropy scores the head's product [n, vocab] against labels [n]: what lossOutputs sum, [n] each, and the gradient of the
// summed cross entropy, softmax minus one-hot through m.Logit, zero where there is no label. The gradient is float32 if more is done
// with it before it is rounded, else of the product's dtype.
func (m *Model) crossEntropy(logits, labels *Node, gradient bool) (scores []*Node, dLogits *Node) {
	if m.Logit != (Logit{}) || m.scaled() {
		logits = ConvertDType(logits, dtypes.Float32)
	}
	logits, slope := m.Logit.apply(logits)
	loss, entropy, first, dLogits := kernels.CrossEntropy(logits, labels, training.IgnoreIndex, gradient)
	if gradient {
		dLogits = slope(dLogits)
	}
	return []*Node{loss, entropy, first}, dLogits
}
