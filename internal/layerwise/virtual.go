package layerwise

import (
	"errors"
	"fmt"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/training"
)

// Prompt and prefix tuning put virtual tokens before those of a row. From here on they are tokens of negative ids, -1 the
// first: embeddings of their own are in their places, or any, where layers have a prefix. Rows with them are longer, and all
// that follows from places (positions, masks, the cache) is that of longer rows; labels there are IgnoreIndex, but that the
// last of embeddings predicts a row's first token, as in PEFT. Callers see rows without them.

// virtualTokens is how many virtual tokens rows begin with.
func (e *ends) virtualTokens() int {
	if e == nil {
		return 0
	}
	return e.virtual
}

// widened are values of rows of the given length with those of the virtual tokens, first to last, before each row; nil stays.
func (e *ends) widened(values []int32, length int, virtual func(i int) int32) []int32 {
	n := e.virtualTokens()
	if n == 0 || values == nil {
		return values
	}
	head := make([]int32, n)
	for i := range head {
		head[i] = virtual(i)
	}
	out := make([]int32, 0, len(values)/length*(length+n))
	for row := range slices.Chunk(values, length) {
		out = append(append(out, head...), row...)
	}
	return out
}

func virtualID(i int) int32    { return int32(-1 - i) }
func virtualLabel(int) int32   { return training.IgnoreIndex }
func virtualSegment(int) int32 { return 1 } // that of the tokens, as masks and batches of whole documents have it

// errPackedVirtual refuses rows of several documents.
var errPackedVirtual = errors.New("rows hold several documents, and virtual tokens are before the first of a row only, as in PEFT: set Packing to false for prompt and prefix tuning")

// widen is the batch with virtual tokens before its rows; the batch itself where there are none.
func (e *ends) widen(b *training.Batch) *training.Batch {
	n := e.virtualTokens()
	if n == 0 {
		return b
	}
	w := *b
	w.Length += n
	w.IDs = e.widened(b.IDs, b.Length, virtualID)
	w.Labels = e.widened(b.Labels, b.Length, virtualLabel)
	w.Segments = e.widened(b.Segments, b.Length, virtualSegment)
	if e.prompt >= 0 && len(b.FirstLabels) == b.Rows { // a prefix puts out nothing
		for i, l := range b.FirstLabels {
			w.Labels[i*w.Length+n-1] = l
		}
	}
	w.Positions = nil // they count from the first virtual token
	return &w
}

// withoutVirtual frees x [rows, length, hidden] and returns the places behind the virtual tokens.
func (m *Model) withoutVirtual(e *ends, x *tensors.Tensor) (*tensors.Tensor, error) {
	if e.virtualTokens() == 0 {
		return x, nil
	}
	defer x.FinalizeAll()
	return m.named("drop_virtual", e.key(), func(in []*Node) *Node { return SliceAxis(in[0], 1, AxisRange(e.virtual)) }, x)
}

// embedVirtual is embed of ids with virtual tokens among them.
func (m *Model) embedVirtual(e *ends, ids []int32, rows, length int) (*tensors.Tensor, error) {
	real, places := make([]int32, len(ids)), make([]int32, len(ids))
	for i, id := range ids {
		if real[i], places[i] = id, int32(e.virtual); id < 0 {
			real[i], places[i] = 0, -1-id
		}
	}
	x, err := m.embed(real, rows, length)
	if err != nil || e.prompt < 0 {
		return x, err
	}
	defer x.FinalizeAll()
	at, err := backend.UploadValues(m.Device, places, rows, length, 1)
	if err != nil {
		return nil, err
	}
	defer at.FinalizeAll()
	return m.named("embed_prompt", e.key(), func(in []*Node) *Node {
		own := ConvertDType(MulScalar(Gather(withZeroRow(in[2]), in[1]), m.virtualScale()), in[0].DType())
		virtual := LessThan(in[1], Const(in[1].Graph(), int32(e.virtual)))
		return Where(BroadcastToShape(virtual, shapes.Make(dtypes.Bool, in[0].Shape().Dimensions...)), own, in[0])
	}, x, at, e.w.Tensors[e.prompt])
}

// virtualScale is the factor on virtual tokens' embeddings.
func (m *Model) virtualScale() float64 {
	if m.Embed.ScaleVirtual {
		return m.embedScale()
	}
	return 1
}

// promptGradient is the gradient at the virtual tokens' embeddings for p.dx.
func (m *Model) promptGradient(e *ends, p *pass) ([]*tensors.Tensor, error) {
	rows := p.batch.Rows
	return m.programs.get(m.Device, "prompt_backward", fmt.Sprint(rows, e.key()), func(in []*Node) []*Node {
		dx := in[0]
		if dx.Rank() == 2 { // with room behind
			dx = Reshape(SliceAxis(dx, 1, AxisRange(0, m.Shape.Hidden)), rows, -1, m.Shape.Hidden)
		}
		dx = ConvertDType(SliceAxis(dx, 1, AxisRange(0, e.virtual)), dtypes.Float32)
		return []*Node{MulScalar(ReduceSum(dx, 0), m.virtualScale())}
	}).call(p.dx)
}
