package layerwise

import (
	"fmt"
	"testing"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/internal/training"
)

// keepBest keeps of each linear the triplet that is worth most, and the scores that it saw.
type keepBest struct{ seen []map[string][]float32 }

func (k *keepBest) Allocate(steps int, scores func(updated bool) (map[string][]float32, error)) (map[string][]bool, error) {
	found, err := scores(steps != 1)
	k.seen = append(k.seen, found)
	keep := map[string][]bool{}
	for linear, v := range found {
		keep[linear] = []bool{v[0] > v[1], v[0] <= v[1]}
	}
	return keep, err
}

func (k *keepBest) TakeBack(int) {}

func TestTripletsAreScoredBeforeOrAfterAnUpdateWhereverMomentsLie(t *testing.T) {
	shapes := [][]int{{2, 3}, {4, 2}, {2, 1}}
	for _, d := range testDevices(t) {
		var want string
		for _, paged := range []bool{false, true} {
			if _, ok := seam.Of(d.Backend); paged && !ok {
				continue
			}
			o := training.SessionOptions{AdamBeta1: 0.9, AdamBeta2: 0.999, AdamEpsilon: 1e-8, Triplets: &training.Triplets{Beta1: 0.85, Beta2: 0.85}}
			s := ranked(t, d, o, shapes)
			k := &keepBest{}
			if s.ranks, s.paged = k, paged; paged {
				if err := s.page(s.groups[0]); err != nil {
					t.Fatal(err)
				}
			}
			for step := range 3 {
				s.take(t, 1e-2, gradient(0, step, 6), gradient(1, step, 8), gradient(2, step, 2))
			}
			if got := fmt.Sprint(k.seen); want == "" {
				want = got
			} else if got != want {
				t.Errorf("paged: scores %s, else %s", got, want)
			}
			if fmt.Sprint(k.seen[1]) != fmt.Sprint(k.seen[0]) {
				t.Errorf("scores before the second step %v, after the first %v", k.seen[1], k.seen[0])
			}
			if fmt.Sprint(k.seen[2]) == fmt.Sprint(k.seen[1]) {
				t.Error("a step's gradients do not count after it")
			}
			e, err := backend.DownloadFloats(*s.groups[0].params[2].at)
			if err != nil || (e[0] == 0) == (e[1] == 0) {
				t.Errorf("E is %v, error %v: one of two triplets was to stay", e, err)
			}
		}
	}
}

// ranked is a session over a linear's triplets.
func ranked(t *testing.T, d *backend.Device, o training.SessionOptions, shapes [][]int) *Session {
	t.Helper()
	var params [][]float32
	for i, shape := range shapes {
		params = append(params, reference.Normal(uint64(i+1), shape[0]*shape[1], 1))
	}
	s := bare(t, d, o, params, shapes)
	g := s.groups[0]
	for i := range g.params {
		g.params[i].name = "0.q_proj" + tripletNames[i]
	}
	for _, held := range g.state {
		held.FinalizeAll()
	}
	g.state = nil
	if err := s.optim.start(g, d); err != nil { // with names: importance is kept beside the moments
		t.Fatal(err)
	}
	return s
}
