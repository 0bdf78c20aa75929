package layerwise

import (
	"fmt"
	"strings"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
)

// AdaLoRA's part in a session (arXiv:2303.10512): what triplets of a row of A [r, in], a column of B [out, r] and a value of E [r, 1]
// are worth, the regularization of A and B, and zeros in E. Triplets belong to the linear that they are on, by the number of its
// layer and its name: "3.self_attn.q_proj". Which of them stay is decided by whoever drives the session.

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

// weights returns the importance and the uncertainty of parameter i.
func (g *group) weights(o optimizer, i int) []*tensors.Tensor {
	end := 0
	for _, p := range g.params[:i+1] {
		end += len(o.state(p))
	}
	return g.state[end-2 : end]
}

// RankScores implements [training.Ranker]: of each triplet the importance times its uncertainty of E, and the means of those of A
// and B.
func (s *Session) RankScores() (map[string][]float32, error) {
	scores := map[string][]float32{}
	for _, g := range s.groups {
		linears, at := g.triplets()
		var in []*tensors.Tensor
		for _, t := range at {
			for _, i := range t {
				in = append(in, g.weights(s.optim, i)...)
			}
		}
		if len(in) == 0 {
			continue
		}
		out, err := s.model.one("rank_scores", func(in []*Node) *Node {
			var all []*Node
			for ; len(in) > 0; in = in[6:] {
				a, b, e := Mul(in[0], in[1]), Mul(in[2], in[3]), Mul(in[4], in[5])
				all = append(all, Add(Reshape(e, -1), Add(ReduceMean(a, 1), ReduceMean(b, 0))))
			}
			return concat(all)
		}, in...)
		if err != nil {
			return nil, err
		}
		values, err := backend.DownloadFloats(out)
		if err != nil {
			return nil, err
		}
		for k, linear := range linears {
			r := (*g.params[at[k][2]].at).Shape().Dim(0)
			scores[linear], values = values[:r], values[r:]
		}
		if err := backend.Free(out); err != nil {
			return nil, err
		}
	}
	return scores, nil
}

// concat joins vectors.
func concat(parts []*Node) *Node {
	if len(parts) == 1 {
		return parts[0]
	}
	return Concatenate(parts, 0)
}

// MaskRanks implements [training.Ranker].
func (s *Session) MaskRanks(keep map[string][]bool) error {
	for _, g := range s.groups {
		linears, at := g.triplets()
		for k, linear := range linears {
			mask, ok := keep[linear]
			if !ok {
				continue
			}
			if err := s.maskRank(&g.params[at[k][2]], mask); err != nil {
				return fmt.Errorf("ranks of %s: %w", linear, err)
			}
		}
	}
	return nil
}

func (s *Session) maskRank(e *param, keep []bool) error {
	factors := make([]float32, len(keep))
	for i, k := range keep {
		if k {
			factors[i] = 1
		}
	}
	mask, err := backend.UploadValues(s.model.Device, factors, len(keep), 1)
	if err != nil {
		return err
	}
	masked, err := s.model.one("mask_ranks", func(in []*Node) *Node { return Where(Equal(in[1], ZerosLike(in[1])), in[1], in[0]) }, *e.at, mask)
	if err != nil {
		return err
	}
	old := *e.at
	*e.at = masked
	return backend.Free(old, mask)
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
