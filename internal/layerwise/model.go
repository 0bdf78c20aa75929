package layerwise

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
)

// Model is a decoder with its weights on a device.
type Model struct {
	Device    *backend.Device
	Shape     nn.Shape
	Vocab     int
	Rope      nn.Rope
	Block     func(l *nn.Layer, x *Node) *Node
	Layers    []*nn.Weights
	Embed     Embedding
	Norm      *tensors.Tensor // gain of the final norm [hidden]
	Head      *tensors.Tensor // [vocab, hidden]; nil: tied to Embed.Table
	Logit     Logit
	Trainable bool // embedding, final norm and head are trained, as are the layers' trainable slots

	programs   programs
	headTokens int // see chunkTokens; 0: as many as logitElements allows
}

// Embedding is the table of token embeddings [vocab, hidden]. A frozen one stays on the host, where the rows of a batch
// are gathered: the same numbers, and no memory of the device unless the head is tied to it.
type Embedding struct {
	Table *tensors.Tensor // on the device, or nil
	Rows  []byte          // on the host in DType, or nil
	DType dtypes.DType    // of Rows
	Scale float64         // factor on what comes out; 0: 1
	// ScaleVirtual says that the factor is on virtual tokens' embeddings, too: a model multiplies what it is given, and does
	// not look up rows that are scaled.
	ScaleVirtual bool
	// Padding is the token whose row gets no gradient of being looked up, as torch.nn.Embedding's padding_idx; nil: none.
	Padding *int32
}

// Close frees the weights and the compiled programs, not the device.
func (m *Model) Close() error {
	m.programs.close()
	ts := []*tensors.Tensor{m.Embed.Table, m.Norm, m.Head}
	for _, l := range m.Layers {
		ts = append(ts, l.Tensors...)
	}
	return backend.Free(ts...)
}

// Compiled is how many programs have been compiled for the model so far.
func (m *Model) Compiled() int64 { return m.programs.built.Load() }

// head returns the head's weight [vocab, hidden].
func (m *Model) head() *tensors.Tensor {
	if m.Head != nil {
		return m.Head
	}
	return m.Embed.Table
}

// checkIDs refuses ids, rows of the given length, that the model does not have.
func (m *Model) checkIDs(ids []int32, length int) error {
	for i, id := range ids {
		if id < 0 || int(id) >= m.Vocab {
			return fmt.Errorf("token id %d at position %d of row %d is outside the model's vocabulary of %d",
				id, i%length, i/length, m.Vocab)
		}
	}
	return nil
}

// embed returns x [rows, length, hidden] of the ids, which have been checked, in the compute dtype.
func (m *Model) embed(ids []int32, rows, length int) (*tensors.Tensor, error) {
	if m.Embed.Rows == nil {
		return m.embedOnDevice(ids, rows, length)
	}
	x, err := m.Device.Upload(shapes.Make(m.Embed.DType, rows, length, m.Shape.Hidden), m.gathered(ids))
	if err != nil || m.Embed.DType == m.Shape.Compute && m.Embed.Scale == 0 {
		return x, err
	}
	defer x.FinalizeAll()
	return m.one("convert", m.embedded, x)
}

// gathered are the rows of ids in the embedding on the host.
func (m *Model) gathered(ids []int32) []byte {
	width := m.Shape.Hidden * m.Embed.DType.Size()
	raw := make([]byte, len(ids)*width)
	for i, id := range ids {
		copy(raw[i*width:], m.Embed.Rows[int(id)*width:][:width])
	}
	return raw
}

func (m *Model) embedOnDevice(ids []int32, rows, length int) (*tensors.Tensor, error) {
	at, err := backend.UploadValues(m.Device, ids, rows, length, 1)
	if err != nil {
		return nil, err
	}
	defer at.FinalizeAll()
	return m.one("embed", func(in []*Node) *Node {
		return m.embedded([]*Node{Gather(in[0], in[1])})
	}, m.Embed.Table, at)
}

// embedded are rows of the embedding as the first layer takes them: scaled, rounded to their own dtype as in transformers,
// and in the compute dtype.
func (m *Model) embedded(rows []*Node) *Node {
	x := rows[0]
	if m.Embed.Scale != 0 {
		x = ConvertDType(MulScalar(ConvertDType(x, dtypes.Float32), m.Embed.Scale), x.DType())
	}
	return ConvertDType(x, m.Shape.Compute)
}

// one runs a program of one result.
func (m *Model) one(name string, build func(in []*Node) *Node, in ...*tensors.Tensor) (*tensors.Tensor, error) {
	return m.named(name, "", build, in...)
}

// named is one with a graph that depends on variant.
func (m *Model) named(name, variant string, build func(in []*Node) *Node, in ...*tensors.Tensor) (*tensors.Tensor, error) {
	out, err := m.programs.get(m.Device, name, variant, func(in []*Node) []*Node { return []*Node{build(in)} }).call(in...)
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// Float32s returns the host's rows as float32.
func (e Embedding) Float32s() ([]float32, error) {
	return backend.DecodeFloats(e.DType, e.Rows)
}
