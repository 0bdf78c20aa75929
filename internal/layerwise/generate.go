package layerwise

import (
	"context"
	"errors"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
)

// Logits runs the model over ids [rows][length] and returns [rows·length·vocab] float32. segments [rows·length] may be
// nil; positions of different segments do not see each other.
func (m *Model) Logits(ctx context.Context, adapters []*nn.Weights, ids, segments []int32, rows, length int) ([]float32, error) {
	x, err := m.hidden(ctx, adapters, ids, segments, rows, length)
	if err != nil {
		return nil, err
	}
	defer x.FinalizeAll()
	e := m.endsOf(adapters)
	return m.download("logits", e.key(), func(in []*Node) *Node { return m.scores(e, in[0], in[1:]) }, append([]*tensors.Tensor{x}, m.scoreTensors(e)...)...)
}

// hidden runs the layers and returns what the last one puts out, [rows, length, hidden].
func (m *Model) hidden(ctx context.Context, adapters []*nn.Weights, ids, segments []int32, rows, length int) (*tensors.Tensor, error) {
	if err := m.checkIDs(ids, length); err != nil {
		return nil, err
	}
	e := m.endsOf(adapters)
	ids, segments = e.widened(ids, length, virtualID), e.widened(segments, length, virtualSegment)
	length += e.virtualTokens()
	sh, err := m.share(nil, segments, rows, length)
	defer sh.free()
	if err != nil {
		return nil, err
	}
	x, err := m.embedWith(e, ids, rows, length)
	if err != nil {
		return nil, err
	}
	for _, sp := range spans(m.Layers, adapters, m.spanLayers()) {
		if err := ctx.Err(); err != nil {
			return nil, errors.Join(err, backend.Free(x))
		}
		in := append(append([]*tensors.Tensor{x}, sh.inputs(nil)...), sp.tensors()...)
		next, err := m.forward(sp, sh, spanPlan{tokens: tokensAtOnce(length, mlpTokens)}).call(in...)
		if err := errors.Join(err, backend.Free(x)); err != nil {
			return nil, err
		}
		x = next[0]
	}
	return m.withoutVirtual(e, x)
}

// scoreTensors are the inputs of scores beside x.
func (m *Model) scoreTensors(e *ends) []*tensors.Tensor {
	norm := m.Norm
	if e.trainsNorm() {
		norm = e.w.Tensors[e.norm]
	}
	return append([]*tensors.Tensor{norm}, m.headTensors(e)...)
}

// scores are the head's logits of x [..., hidden] in float32; in are the nodes of scoreTensors.
func (m *Model) scores(e *ends, x *Node, in []*Node) *Node {
	h := m.Shape.RMSNorm(x, in[0])
	w, sides := m.headParts(e, in[1:])
	logits, _ := m.Logit.apply(ConvertDType(headLogits(h, nil, w, sides), dtypes.Float32))
	return logits
}

// download runs a program, whose graph depends on variant, and reads its float32 result.
func (m *Model) download(name, variant string, build func(in []*Node) *Node, in ...*tensors.Tensor) ([]float32, error) {
	y, err := m.named(name, variant, build, in...)
	if err != nil {
		return nil, err
	}
	defer y.FinalizeAll()
	return tensors.CopyFlatData[float32](y)
}
