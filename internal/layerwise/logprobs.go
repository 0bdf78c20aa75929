package layerwise

import (
	"context"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
)

// scoredLogits bounds the logits that lie on the device at once while tokens are scored: 256 MB.
const scoredLogits = 1 << 26

// LogProbs returns the log-probability of each place's next token, targets [rows·length], given the tokens up to it. ids
// and segments are as for Logits; the logits are never all there: the head sees a part of the places at a time.
func (m *Model) LogProbs(ctx context.Context, adapters []*nn.Weights, ids, segments, targets []int32, rows, length int) ([]float32, error) {
	x, err := m.hidden(ctx, adapters, ids, segments, rows, length)
	if err != nil {
		return nil, err
	}
	defer x.FinalizeAll()
	return m.score(ctx, m.endsOf(adapters), x, targets, max(1, scoredLogits/m.Vocab))
}

// score returns the log-probabilities of targets at the places of x [rows, length, hidden], part of them at a time.
func (m *Model) score(ctx context.Context, e *ends, x *tensors.Tensor, targets []int32, part int) ([]float32, error) {
	out := make([]float32, len(targets))
	part = min(part, len(out))
	for at := 0; at < len(out); at += part {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		at = min(at, len(out)-part) // the last part is as long as the others
		values, err := m.scorePart(e, x, targets[at:at+part], at)
		if err != nil {
			return nil, err
		}
		copy(out[at:], values)
	}
	return out, nil
}

// scorePart returns the log-probabilities of targets at the places of x from at on.
func (m *Model) scorePart(e *ends, x *tensors.Tensor, targets []int32, at int) ([]float32, error) {
	index := make([]int32, len(targets))
	for i := range index {
		index[i] = int32(at + i)
	}
	places, err := backend.UploadValues(m.Device, index, len(index), 1)
	if err != nil {
		return nil, err
	}
	defer places.FinalizeAll()
	wanted, err := backend.UploadValues(m.Device, targets, len(targets), 1)
	if err != nil {
		return nil, err
	}
	defer wanted.FinalizeAll()
	return m.download("log_probs", e.key(), func(in []*Node) *Node {
		x := Gather(Reshape(in[0], -1, m.Shape.Hidden), in[1])
		logits := m.scores(e, x, in[3:]) // [part, vocab]
		logits = Sub(logits, ReduceAndKeep(logits, ReduceMax, -1))
		grid := shapes.Make(dtypes.Int32, logits.Shape().Dimensions...)
		own := Equal(Iota(x.Graph(), grid, 1), BroadcastToShape(in[2], grid))
		return Sub(ReduceSum(Where(own, logits, ZerosLike(logits)), -1), Log(ReduceSum(Exp(logits), -1)))
	}, append([]*tensors.Tensor{x, places, wanted}, m.scoreTensors(e)...)...)
}
