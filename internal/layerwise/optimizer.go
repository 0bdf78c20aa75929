package layerwise

import (
	"math"
	"slices"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/training"
)

// param is a trainable tensor.
type param struct {
	at          **tensors.Tensor // where it is kept
	decay       bool             // weight decay applies to it
	fullMoments bool             // its moments are float32 whatever the optimizer, as transformers' Trainer keeps those of embeddings
	hidden      bool             // it belongs to a layer, not to the model's ends
	plus        bool             // LoRA+ gives it another learning rate: a LoRA's B, or a vector (arXiv:2402.12354)
	embedding   bool             // it is A or B of a LoRA at the embedding, to which LoRA+ gives a learning rate of its own
	name        string           // of a tensor of a layer, with the layer's number: "3.self_attn.q_proj.lora_A"
	rows        []int            // of the checkpoint's tensors that are joined in it; nil: it is one
}

// joined are the rows of the checkpoint's tensors in it.
func (p param) joined() []int {
	if p.rows == nil {
		return []int{(*p.at).Shape().Dimensions[0]}
	}
	return p.rows
}

// group are the trainable tensors of some spans (or of the model's ends) with their summed gradients, float32, and their
// moments. One program updates a whole group; groups of equal layout share it.
type group struct {
	params []param
	grads  []*tensors.Tensor // nil before the first micro-step of an optimizer step
	state  []*tensors.Tensor // parameter after parameter, what optimizer.state lists
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
	old = append(g.values(), g.state...)
	for i, p := range g.params {
		*p.at = fresh[i]
	}
	g.state = fresh[n:]
	return old
}

// accumulate adds grads, which it takes over, to the group's, times weight, a float32 scalar; nil: 1, as it is where the group has none.
func (g *group) accumulate(m *Model, grads []*tensors.Tensor, weight *tensors.Tensor) error {
	if g.grads == nil {
		g.grads = grads
		return nil
	}
	in, variant := slices.Concat(g.grads, grads), ""
	if weight != nil {
		in, variant = append(in, weight), "weighed"
	}
	sums, err := m.programs.get(m.Device, "accumulate", variant, func(in []*Node) (out []*Node) {
		n := len(in) / 2
		for i := range n {
			x := in[n+i]
			if weight != nil {
				x = Mul(x, in[2*n])
			}
			out = append(out, Add(in[i], x))
		}
		return out
	}).call(in...)
	if err != nil {
		return err
	}
	old := append(g.grads, grads...)
	g.grads = sums
	return backend.Free(old...)
}

// squares is the float32 scalar Σ x² over all values of the tensors. Small ones go through one sum together: on a GPU each
// sum takes microseconds, however small.
func (m *Model) squares(ts []*tensors.Tensor) (*tensors.Tensor, error) {
	return m.one("squares", func(in []*Node) (total *Node) {
		small := 0
		if m.Device.Kind == backend.CUDA {
			small = 1 << 20
		}
		var together []*Node
		for _, x := range in {
			x = ConvertDType(Reshape(x, -1), dtypes.Float32)
			if x.Shape().Size() <= small {
				together = append(together, x)
				continue
			}
			total = sum(total, ReduceAllSum(Mul(x, x)))
		}
		if together != nil {
			x := Concatenate(together, 0)
			total = sum(total, ReduceAllSum(Mul(x, x)))
		}
		return total
	}, ts...)
}

// update runs one step of the optimizer on the group. scalars are optimizer.scalars, scale is a float32 scalar by which
// gradients are multiplied; bound is what values are projected by before, or nil. It returns the new values and moments; the group
// still has the old ones.
func (g *group) update(m *Model, o optimizer, bound *training.Constraint, scalars, scale *tensors.Tensor) ([]*tensors.Tensor, error) {
	n := len(g.params)
	forms, moments, rows := make([]form, n), make([][]moment, n), make([][]int, n)
	for i, p := range g.params {
		forms[i], moments[i], rows[i] = o.form(p), o.moments(p), p.joined()
		if bound != nil && p.name != "" && bound.Applies(p.name) {
			forms[i].bound = bound.Name
		}
	}
	in := slices.Concat([]*tensors.Tensor{scalars, scale}, g.values(), g.grads, g.state)
	return m.programs.get(m.Device, o.String(), o.key(forms), func(in []*Node) []*Node {
		s := stepScalars{element(in[0], 0), element(in[0], 1), element(in[0], 2)}
		values, grads, rest := in[2:2+n], in[2+n:2+2*n], in[2+2*n:]
		var state, held []*Node
		for i, p := range values {
			held, rest = decode(moments[i], forms[i].eight, p.Shape().Dimensions, rest)
			from := ConvertDType(p, dtypes.Float32)
			if forms[i].bound != "" {
				from = bound.Project(from)
			}
			values[i], held = o.step(forms[i], s, from, Mul(grads[i], in[1]), rows[i], held)
			state = append(state, o.encode(moments[i], forms[i].eight, held)...)
			if forms[i].ranks {
				state = append(state, o.weigh(values[i], Mul(grads[i], in[1]), rest[0], rest[1])...)
				rest = rest[2:]
			}
			values[i] = ConvertDType(values[i], p.DType())
		}
		return append(values, state...)
	}).call(in...)
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
