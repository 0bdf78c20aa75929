package layerwise

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/quant"
)

// What bitsandbytes' 8-bit optimizers have: values that share a scale, and the size from which a tensor's moments are
// 8-bit (min_8bit_size).
const (
	momentBlock  = 256
	min8BitSize  = 4096
	absmaxSuffix = ".absmax"
)

// optimizer is an update rule with its hyper-parameters, and how moments are kept.
type optimizer struct {
	training.Optimizer
	beta1, beta2, epsilon, weightDecay float64
	search                             quant.Search // of 8-bit codes
}

func newOptimizer(o training.SessionOptions, d *backend.Device) (optimizer, error) {
	kind, err := training.ParseOptimizer(o.Optim)
	if err != nil {
		return optimizer{}, err
	}
	search := quant.ByTable // each kind of device has the codes of bitsandbytes' kernels for that kind
	if d.Kind == backend.CUDA {
		search = quant.Nearest
	}
	return optimizer{kind, o.AdamBeta1, o.AdamBeta2, o.AdamEpsilon, o.WeightDecay, search}, nil
}

// moments is how many moments the rule has: m, or m and v.
func (o optimizer) moments() int {
	if o.Rule == training.Lion {
		return 1
	}
	return 2
}

// eightBit reports whether the moments of p are kept in 8 bits.
func (o optimizer) eightBit(p param) bool {
	return o.EightBit && !p.fullMoments && (*p.at).Size() >= min8BitSize
}

// eightBits is eightBit of each parameter.
func (o optimizer) eightBits(params []param) []bool {
	eight := make([]bool, len(params))
	for i, p := range params {
		eight[i] = o.eightBit(p)
	}
	return eight
}

// moment are the shapes of the tensors that hold one moment of p: float32 in p's shape, or uint8 codes [n] and float32
// scales [ceil(n/256)] (bitsandbytes' state and absmax).
func (o optimizer) moment(p param) []shapes.Shape {
	n := (*p.at).Size()
	if !o.eightBit(p) {
		return []shapes.Shape{shapes.Make(dtypes.Float32, (*p.at).Shape().Dimensions...)}
	}
	return []shapes.Shape{shapes.Make(dtypes.Uint8, n), shapes.Make(dtypes.Float32, (n+momentBlock-1)/momentBlock)}
}

// momentParts are the names of the tensors that hold a moment of p, as suffixes.
func (o optimizer) momentParts(p param) []string {
	if o.eightBit(p) {
		return []string{"", absmaxSuffix}
	}
	return []string{""}
}

// start gives the group moments of zero. Codes and scales of 0 stand for it in bitsandbytes too.
func (o optimizer) start(g *group, d *backend.Device) error {
	for _, at := range []*[]*tensors.Tensor{&g.m, &g.v}[:o.moments()] {
		for _, p := range g.params {
			for _, s := range o.moment(p) {
				t, err := d.Upload(s, make([]byte, s.ByteSize()))
				if err != nil {
					return fmt.Errorf("moments of the optimizer: %w", err)
				}
				*at = append(*at, t)
			}
		}
	}
	return nil
}

// decode turns the tensors of the moments, all parameters' first moments before the second ones, into float32 values:
// for each parameter its moments, in its shape. eight tells which are in 8 bits.
func (o optimizer) decode(held, params []*Node, eight []bool) [][]*Node {
	out := make([][]*Node, len(params))
	for k := range o.moments() {
		for i, p := range params {
			x := held[0]
			held = held[1:]
			if eight[i] {
				x = Reshape(quant.DequantizeBlockwiseNode(x, held[0], momentNumbers(k), momentBlock), p.Shape().Dimensions...)
				held = held[1:]
			}
			out[i] = append(out[i], x)
		}
	}
	return out
}

// encode is the inverse of decode.
func (o optimizer) encode(moments [][]*Node, eight []bool) (held []*Node) {
	for k := range o.moments() {
		for i, m := range moments {
			if !eight[i] {
				held = append(held, m[k])
				continue
			}
			codes, absmax := quant.QuantizeBlockwiseNode(m[k], momentNumbers(k), momentBlock, o.search)
			held = append(held, codes, absmax)
		}
	}
	return held
}

// momentNumbers are what the codes of moment k stand for: m is signed, v is not.
func momentNumbers(k int) [256]float32 { return quant.DynamicMap(k == 0) }

// stepScalars are what changes from step to step: the learning rate, 1/(1-β1ᵗ) and 1/√(1-β2ᵗ), float32 scalars.
type stepScalars struct{ lr, c1, c2 *Node }

// step runs the rule on one parameter p with gradient g and moments, all float32 and of one shape. decay is its weight
// decay wd. AdamW is torch.optim.AdamW (arXiv:1711.05101):
//
//	p ← p (1 - lr·wd),  m ← β1 m + (1-β1) g,  v ← β2 v + (1-β2) g²
//	p ← p - lr/(1-β1ᵗ) · m / (√v / √(1-β2ᵗ) + ε)
//
// and Lion (arXiv:2302.06675):
//
//	p ← p (1 - lr·wd),  p ← p - lr sign(β1 m + (1-β1) g),  m ← β2 m + (1-β2) g
//
// bitsandbytes has the same rules; where moments are kept in 8 bits, p moves by those before they are rounded. (Its CUDA
// kernel for 8-bit AdamW alone decays p after the step, which is a part lr·wd of the step away.)
func (o optimizer) step(s stepScalars, decay float64, p, g *Node, moments []*Node) (*Node, []*Node) {
	if decay > 0 {
		p = Mul(p, OneMinus(MulScalar(s.lr, decay)))
	}
	if o.Rule == training.Lion {
		direction := Sign(average(moments[0], g, o.beta1))
		return Sub(p, Mul(s.lr, direction)), []*Node{average(moments[0], g, o.beta2)}
	}
	m := average(moments[0], g, o.beta1)
	v := Add(MulScalar(moments[1], o.beta2), Mul(MulScalar(g, 1-o.beta2), g)) // the products in torch's order
	step := Div(m, AddScalar(Mul(Sqrt(v), s.c2), o.epsilon))
	return Sub(p, Mul(Mul(s.lr, s.c1), step)), []*Node{m, v}
}

// average is β·old + (1-β)·x.
func average(old, x *Node, beta float64) *Node {
	return Add(MulScalar(old, beta), MulScalar(x, 1-beta))
}
