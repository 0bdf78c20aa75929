package layerwise

import (
	"fmt"
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
)

// param is a trainable tensor: where it is kept, and whether weight decay applies to it.
type param struct {
	at    **tensors.Tensor
	decay bool
}

// group are the trainable tensors of one span (or of the model's ends) with their summed gradients and AdamW moments,
// all float32. One program updates a whole group; groups of equal layout share it.
type group struct {
	params []param
	grads  []*tensors.Tensor // nil before the first micro-step of an optimizer step
	m, v   []*tensors.Tensor
}

func (g *group) values() (ts []*tensors.Tensor) {
	for _, p := range g.params {
		ts = append(ts, *p.at)
	}
	return ts
}

// exchange puts fresh values and moments, as update returned them, in the place of the group's, and returns those.
func (g *group) exchange(fresh []*tensors.Tensor) (old []*tensors.Tensor) {
	n := len(g.params)
	if n == 0 {
		return nil
	}
	old = append(append(g.values(), g.m...), g.v...)
	for i, p := range g.params {
		*p.at = fresh[i]
	}
	g.m, g.v = fresh[n:2*n], fresh[2*n:]
	return old
}

// accumulate adds grads, which it takes over, to the group's.
func (g *group) accumulate(m *Model, grads []*tensors.Tensor) error {
	if g.grads == nil {
		g.grads = grads
		return nil
	}
	sums, err := m.programs.get(m.Device, "accumulate", "", func(in []*Node) (out []*Node) {
		n := len(in) / 2
		for i := range n {
			out = append(out, Add(in[i], in[n+i]))
		}
		return out
	}).call(append(append([]*tensors.Tensor{}, g.grads...), grads...)...)
	if err != nil {
		return err
	}
	old := append(g.grads, grads...)
	g.grads = sums
	return backend.Free(old...)
}

// squares is the scalar Σ x² over all values of the tensors.
func (m *Model) squares(ts []*tensors.Tensor) (*tensors.Tensor, error) {
	return m.one("squares", func(in []*Node) (total *Node) {
		for _, x := range in {
			total = sum(total, ReduceAllSum(Mul(x, x)))
		}
		return total
	}, ts...)
}

// adamW are the hyper-parameters of the optimizer.
type adamW struct {
	beta1, beta2, epsilon, weightDecay float64
}

// update runs one AdamW step of torch.optim.AdamW (arXiv:1711.05101) on the group:
//
//	g = grad · scale,  θ ← θ (1 - lr·wd),  m ← β1 m + (1-β1) g,  v ← β2 v + (1-β2) g²
//	θ ← θ - lr/(1-β1ᵗ) · m / (√v / √(1-β2ᵗ) + ε)
//
// scalars are [lr, 1/(1-β1ᵗ), 1/√(1-β2ᵗ)] float32, scale a float32 scalar. It returns the new values; the group still
// has the old ones.
func (g *group) update(m *Model, o adamW, scalars, scale *tensors.Tensor) ([]*tensors.Tensor, error) {
	n := len(g.params)
	decay := make([]float64, n)
	for i, p := range g.params {
		if p.decay {
			decay[i] = o.weightDecay
		}
	}
	in := append(append(append(g.values(), g.grads...), g.m...), g.v...)
	return m.programs.get(m.Device, "adamw", fmt.Sprint(o, decay), func(in []*Node) []*Node {
		s := in[4*n]
		lr, c1, c2, scale := element(s, 0), element(s, 1), element(s, 2), in[4*n+1]
		out := make([]*Node, 3*n)
		for i := range n {
			p, mean, square := ConvertDType(in[i], dtypes.Float32), in[2*n+i], in[3*n+i]
			grad := Mul(in[n+i], scale)
			if decay[i] > 0 {
				p = Mul(p, OneMinus(MulScalar(lr, decay[i])))
			}
			mean = Add(MulScalar(mean, o.beta1), MulScalar(grad, 1-o.beta1))
			square = Add(MulScalar(square, o.beta2), MulScalar(Mul(grad, grad), 1-o.beta2))
			step := Div(mean, AddScalar(Mul(Sqrt(square), c2), o.epsilon))
			p = Sub(p, Mul(Mul(lr, c1), step))
			out[i], out[n+i], out[2*n+i] = ConvertDType(p, in[i].DType()), mean, square
		}
		return out
	}).call(append(in, scalars, scale)...)
}

// zeros returns float32 zeros in the shapes of the group's parameters.
func (g *group) zeros(d *backend.Device) (ts []*tensors.Tensor, err error) {
	for _, p := range g.params {
		s := (*p.at).Shape()
		t, err := d.Upload(shapes.Make(dtypes.Float32, s.Dimensions...), make([]byte, 4*s.Size()))
		if err != nil {
			return ts, err
		}
		ts = append(ts, t)
	}
	return ts, nil
}

// normAndScale turns the groups' sums of squares into two scalars: the gradient norm after division by items, and the
// factor by which the gradients are to be multiplied: 1/items, and clipped to maxNorm as torch.nn.utils.clip_grad_norm_
// does. maxNorm 0 does not clip.
func normAndScale(m *Model, squares []*tensors.Tensor, items, maxNorm float64) (norm, scale *tensors.Tensor, err error) {
	if maxNorm == 0 {
		maxNorm = math.Inf(1)
	}
	limits, err := backend.UploadValues(m.Device, []float32{float32(items), float32(maxNorm)}, 2)
	if err != nil {
		return nil, nil, err
	}
	defer limits.FinalizeAll()
	out, err := m.programs.get(m.Device, "norm", "", func(in []*Node) []*Node {
		var total *Node
		for _, x := range in[1:] {
			total = sum(total, x)
		}
		items, limit := element(in[0], 0), element(in[0], 1)
		norm := Div(Sqrt(total), items)
		clip := Min(ScalarOne(norm.Graph(), dtypes.Float32), Div(limit, AddScalar(norm, 1e-6)))
		return []*Node{norm, Div(clip, items)}
	}).call(append([]*tensors.Tensor{limits}, squares...)...)
	if err != nil {
		return nil, nil, err
	}
	return out[0], out[1], nil
}

// element is the i-th element of a vector, as a scalar.
func element(x *Node, i int) *Node { return Reshape(SliceAxis(x, 0, AxisRange(i, i+1))) }
