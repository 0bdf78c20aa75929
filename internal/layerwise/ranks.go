package layerwise

import (
	"slices"
	"strings"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
)

// AdaLoRA's part in a session (arXiv:2303.10512): what triplets of a row of A [r, in], a column of B [out, r] and a value of E [r, 1]
// are worth, the regularization of A and B, and zeros in E. Triplets belong to the linear that they are on, by the number of its
// layer and its name: "3.self_attn.q_proj". Which of them stay is decided by a [training.Allocator].

// The names of a triplet's tensors behind that of their linear.
var tripletNames = []string{".lora_A", ".lora_B", ".lora_E"}

// inTriplet tells whether a tensor of that name belongs to triplets.
func inTriplet(name string) bool {
	for _, suffix := range tripletNames {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// weigh is the importance of a parameter after a step to value with gradient g: the smoothed |p·g| (equation 5), and how much it
// varies (6).
func (o optimizer) weigh(value, g, importance, uncertainty *Node) []*Node {
	now := Abs(Mul(value, g))
	importance = Add(MulScalar(importance, o.rankBeta1), MulScalar(now, 1-o.rankBeta1))
	uncertainty = Add(MulScalar(uncertainty, o.rankBeta2), MulScalar(Abs(Sub(now, importance)), 1-o.rankBeta2))
	return []*Node{importance, uncertainty}
}

// triplets are those of a group, by the indices of their A, B and E.
func (g *group) triplets() (linears []string, at [][3]int) {
	for i, p := range g.params {
		if linear, ok := strings.CutSuffix(p.name, tripletNames[0]); ok && i+2 < len(g.params) && g.params[i+2].name == linear+tripletNames[2] {
			linears, at = append(linears, linear), append(at, [3]int{i, i + 1, i + 2})
		}
	}
	return linears, at
}

// weights returns the importance and the uncertainty of parameter i, of the group's moments or others in their place.
func (g *group) weights(o optimizer, state []*tensors.Tensor, i int) []*tensors.Tensor {
	end := 0
	for _, p := range g.params[:i+1] {
		end += len(o.state(p))
	}
	return state[end-2 : end]
}

// allocate asks which triplets stay, and makes E of the others zero in the new values: what is taken away comes and goes with the
// step.
func (s *Session) allocate(fresh [][]*tensors.Tensor) error {
	if s.ranks == nil {
		return nil
	}
	keep, err := s.ranks.Allocate(s.steps, func(updated bool) (map[string][]float32, error) { return s.rankScores(fresh, updated) })
	if err != nil {
		return err
	}
	for i, g := range s.all() {
		if err := s.maskRanks(g, fresh[i], keep); err != nil {
			return err
		}
	}
	return nil
}

// rankScores are of each triplet the importance times its uncertainty of E, and the means of those of A and B: by the groups'
// moments, or by the new ones.
func (s *Session) rankScores(fresh [][]*tensors.Tensor, updated bool) (map[string][]float32, error) {
	scores := map[string][]float32{}
	for i, g := range s.all() {
		linears, at := g.triplets()
		if len(linears) == 0 {
			continue
		}
		state := g.state
		if updated {
			state = fresh[i][len(g.params):]
		}
		var in []*tensors.Tensor
		for _, t := range at {
			for _, p := range t {
				in = append(in, g.weights(s.optim, state, p)...)
			}
		}
		values, err := s.score(in)
		if err != nil {
			return nil, err
		}
		for k, linear := range linears {
			r := (*g.params[at[k][2]].at).Shape().Dim(0)
			scores[linear], values = values[:r], values[r:]
		}
	}
	return scores, nil
}

// score is what triplets are worth by the importance and the uncertainty of their A, B and E.
func (s *Session) score(weights []*tensors.Tensor) ([]float32, error) {
	if s.paged {
		here, err := s.model.copyTo("device", weights)
		if err != nil {
			return nil, err
		}
		defer backend.Free(here...)
		weights = here
	}
	out, err := s.model.one("rank_scores", func(in []*Node) *Node {
		var all []*Node
		for ; len(in) > 0; in = in[6:] {
			a, b, e := Mul(in[0], in[1]), Mul(in[2], in[3]), Mul(in[4], in[5])
			all = append(all, Add(Reshape(e, -1), Add(ReduceMean(a, 1), ReduceMean(b, 0))))
		}
		return concat(all)
	}, weights...)
	if err != nil {
		return nil, err
	}
	defer out.FinalizeAll()
	return backend.DownloadFloats(out)
}

// concat joins vectors.
func concat(parts []*Node) *Node {
	if len(parts) == 1 {
		return parts[0]
	}
	return Concatenate(parts, 0)
}

// maskRanks makes E zero in a group's new values for triplets that are not to be kept. One program makes all E of the group, masked
// or not, so that any of them tells whether it failed.
func (s *Session) maskRanks(g *group, fresh []*tensors.Tensor, keep map[string][]bool) error {
	linears, at := g.triplets()
	if !slices.ContainsFunc(linears, func(linear string) bool { return keep[linear] != nil }) {
		return nil
	}
	in := []*tensors.Tensor{nil}
	var factors []float32
	for k, linear := range linears {
		e := fresh[at[k][2]]
		factors = append(factors, maskOf(keep[linear], e.Shape().Dim(0))...)
		in = append(in, e)
	}
	var err error
	if in[0], err = backend.UploadValues(s.model.Device, factors, len(factors), 1); err != nil {
		return err
	}
	defer in[0].FinalizeAll()
	masked, err := s.model.programs.get(s.model.Device, "mask_ranks", "", func(in []*Node) (out []*Node) {
		first := 0
		for _, e := range in[1:] {
			mask := SliceAxis(in[0], 0, AxisRange(first, first+e.Shape().Dim(0)))
			out = append(out, Where(Equal(mask, ZerosLike(mask)), mask, e))
			first += e.Shape().Dim(0)
		}
		return out
	}).call(in...)
	if err != nil {
		return err
	}
	for k, t := range at {
		fresh[t[2]] = masked[k]
	}
	return backend.Free(in[1:]...)
}

// maskOf is 1 for each of n triplets that stays, and 0 for others; nil: all stay.
func maskOf(keep []bool, n int) []float32 {
	mask := make([]float32, n)
	for i := range mask {
		if keep == nil || keep[i] {
			mask[i] = 1
		}
	}
	return mask
}

// regularize adds to the sums of gradients, which are divided by items later, those of ‖A Aᵀ - I‖ and ‖Bᵀ B - I‖ of all triplets'
// matrices, times the weight of the regularization.
func (s *Session) regularize(items float64) error {
	if s.optim.rankBeta1 == 0 || s.orthogonal == 0 {
		return nil
	}
	factor, err := backend.UploadValues(s.model.Device, []float32{float32(s.orthogonal * items)})
	if err != nil {
		return err
	}
	defer factor.FinalizeAll()
	for _, g := range s.groups {
		_, at := g.triplets()
		in := []*tensors.Tensor{factor}
		var which []int
		for _, t := range at {
			for _, i := range t[:2] {
				in, which = append(in, *g.params[i].at, g.grads[i]), append(which, i)
			}
		}
		if len(which) == 0 {
			continue
		}
		sums, err := s.model.programs.get(s.model.Device, "orthogonal", "", func(in []*Node) (out []*Node) {
			for k := 1; k < len(in); k += 4 {
				out = append(out, Add(in[k+1], Mul(in[0], orthogonalGradient(in[k], false))), Add(in[k+3], Mul(in[0], orthogonalGradient(in[k+2], true))))
			}
			return out
		}).call(in...)
		if err != nil {
			return err
		}
		for k, i := range which {
			s.trash = append(s.trash, g.grads[i])
			g.grads[i] = sums[k]
		}
	}
	return nil
}

// orthogonalGradient is that of ‖P Pᵀ - I‖ at p, or with columns of ‖Pᵀ P - I‖: 2 C P / ‖C‖ or 2 P C / ‖C‖ with C what the norm is of.
func orthogonalGradient(p *Node, columns bool) *Node {
	axis := 1
	if columns {
		axis = 0
	}
	c := Dot(p, p).General([]int{axis}, nil, []int{axis}, nil)
	c = Sub(c, DiagonalWithValue(ScalarOne(p.Graph(), p.DType()), c.Shape().Dim(0)))
	norm := MaxScalar(Sqrt(ReduceAllSum(Mul(c, c))), 1e-30)
	left, right := c, p
	if columns {
		left, right = p, c
	}
	return Div(MulScalar(Dot(left, right).General([]int{1}, nil, []int{0}, nil), 2), norm)
}
