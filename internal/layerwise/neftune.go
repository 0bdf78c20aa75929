package layerwise

import (
	"fmt"
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/draw"
)

// neftuneStream keeps the noise apart from what adapters draw with the same keys.
const neftuneStream = 0x6e656674

// addNoise adds NEFTune's noise (arXiv:2310.05914) to the pass's embeddings.
func (p *pass) addNoise() error {
	m, b := p.s.model, p.batch
	keys, err := backend.UploadValues(m.Device, rowKeys(p.s.seed, p.s.steps, b), b.Rows)
	if err != nil {
		return err
	}
	defer backend.Free(keys)
	amount := p.s.noise / math.Sqrt(float64(b.Length*m.Shape.Hidden))
	out, err := m.programs.get(m.Device, "neftune", fmt.Sprint(amount), func(in []*Node) []*Node {
		return []*Node{noisy(in[0], in[1], amount)}
	}).call(p.x[0], keys)
	if err != nil {
		return err
	}
	old := p.x[0]
	p.x[0] = out[0]
	return backend.Free(old)
}

// noisy is x [rows, length, hidden] with numbers added that are uniform in ±amount. They follow from the row's key, uint32
// [rows], and the element's place alone.
func noisy(x, keys *Node, amount float64) *Node {
	g, d := x.Graph(), x.Shape().Dimensions
	key := draw.Mix(BitwiseXor(keys, Const(g, uint32(neftuneStream))))
	place := Add(Mul(Iota(g, shapes.Make(dtypes.Uint32, 1, d[1], d[2]), 1), Const(g, uint32(d[2]))),
		Iota(g, shapes.Make(dtypes.Uint32, 1, d[1], d[2]), 2))
	bits := draw.Mix(Add(draw.Mix(place), Reshape(key, d[0], 1, 1)))
	// 24 bits, which float32 holds exactly: the middles of 2²⁴ equal parts of (-1, 1).
	unit := ConvertDType(ConvertDType(BitwiseShiftRightLogicalScalar(bits, uint32(8)), dtypes.Int32), dtypes.Float32)
	unit = AddScalar(MulScalar(AddScalar(unit, 0.5), 1.0/(1<<23)), -1)
	return ConvertDType(Add(ConvertDType(x, dtypes.Float32), MulScalar(unit, amount)), x.DType())
}
