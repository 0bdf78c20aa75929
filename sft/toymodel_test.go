package sft

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// toyModel is a language model small enough to differentiate by hand, in float64. The logits at position t are
//
//	W[id_t] + P[position_t mod 16] + mean of U[id_s] over s ≤ t in the same segment
//
// with ids taken mod 40, so that it sees ids, positions and segments, as attention does. With dropout, U's terms are dropped by streams keyed by
// seed, step and row.
type toyModel struct {
	w       []float64 // W, P and U, row after row of toyVocab
	dropout float64

	sessions  int // open ones
	microStep func(n int) error
	evaluate  func() error
	micro     int // micro-steps run, over all sessions
	saveErr   error
}

const (
	toyIDs  = 40
	toyP    = toyIDs * toyVocab
	toyU    = toyP + 16*toyVocab
	toySize = toyU + toyIDs*toyVocab
)

func newToyModel() *toyModel {
	m := &toyModel{w: make([]float64, toySize)}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range m.w {
		m.w[i] = 0.02 * r.NormFloat64()
	}
	return m
}

func (m *toyModel) NewSession(o SessionOptions) (Session, error) {
	if o.ResidualBudget == "broken" {
		return nil, errors.New("no device")
	}
	m.sessions++
	return &toySession{model: m, o: o, grad: make([]float64, toySize), m: make([]float64, toySize), v: make([]float64, toySize)}, nil
}

func (m *toyModel) SavePretrained(dir string) error {
	if m.saveErr != nil {
		return m.saveErr
	}
	return writeGob(filepath.Join(dir, "weights.gob"), m.w)
}

type toySession struct {
	model      *toyModel
	o          SessionOptions
	grad, m, v []float64
	steps      int
}

func (s *toySession) MicroStep(ctx context.Context, b *Batch) (Stats, error) {
	s.model.micro++
	if s.model.microStep != nil {
		if err := s.model.microStep(s.model.micro); err != nil {
			return Stats{}, err
		}
	}
	return s.run(b, true)
}

func (s *toySession) Evaluate(ctx context.Context, b *Batch) (Stats, error) {
	if s.model.evaluate != nil {
		if err := s.model.evaluate(); err != nil {
			return Stats{}, err
		}
	}
	return s.run(b, false)
}

// run is forward and, when training, backward, row after row.
func (s *toySession) run(b *Batch, train bool) (st Stats, err error) {
	n := b.Rows * b.Length
	if len(b.IDs) != n || len(b.Labels) != n || len(b.Positions) != n || len(b.Segments) != n || len(b.RowSeeds) != b.Rows {
		return st, fmt.Errorf("malformed batch %+v", b)
	}
	for i := range b.Rows {
		s.row(b, i, train, &st)
	}
	return st, nil
}

func (s *toySession) row(b *Batch, row int, train bool, st *Stats) {
	w, grad := s.model.w, s.grad
	ids := b.IDs[row*b.Length:][:b.Length]
	drop := rand.New(rand.NewPCG(uint64(s.o.Seed)<<20^uint64(s.steps), b.RowSeeds[row]))
	sum, count := make([]float64, toyVocab), 0.0
	keep, dLogits, counts := make([]float64, b.Length), make([][]float64, b.Length), make([]float64, b.Length)
	logits := make([]float64, toyVocab)
	for t, id := range ids {
		at := row*b.Length + t
		if b.Segments[at] == 0 {
			continue
		}
		if t == 0 || b.Segments[at] != b.Segments[at-1] {
			clear(sum)
			count = 0
		}
		keep[t] = 1
		if train && s.model.dropout > 0 {
			keep[t] = 0
			if drop.Float64() >= s.model.dropout {
				keep[t] = 1 / (1 - s.model.dropout)
			}
		}
		count++
		counts[t] = count
		p := int(b.Positions[at]) % 16
		for v := range logits {
			sum[v] += keep[t] * w[toyU+int(id)%toyIDs*toyVocab+v]
			logits[v] = w[int(id)%toyIDs*toyVocab+v] + w[toyP+p*toyVocab+v] + sum[v]/count
		}
		label := b.Labels[at]
		if label == Ignored {
			continue
		}
		top := slices.Max(logits)
		if logits[label] == top {
			st.Correct++
		}
		z := 0.0
		for _, l := range logits {
			z += math.Exp(l - top)
		}
		logZ := top + math.Log(z)
		st.LossSum += logZ - logits[label]
		d := make([]float64, toyVocab)
		for v, l := range logits {
			d[v] = math.Exp(l - logZ)
			st.EntropySum += d[v] * (logZ - l)
		}
		d[label]--
		dLogits[t] = d
	}
	if !train {
		return
	}
	clear(sum) // now Σ dLogits / count over later positions of the segment
	for t := b.Length - 1; t >= 0; t-- {
		at := row*b.Length + t
		if t == b.Length-1 || b.Segments[at] != b.Segments[at+1] {
			clear(sum)
		}
		id, p := int(ids[t])%toyIDs, int(b.Positions[at])%16
		for v := range sum {
			if d := dLogits[t]; d != nil {
				grad[id*toyVocab+v] += d[v]
				grad[toyP+p*toyVocab+v] += d[v]
				sum[v] += d[v] / counts[t]
			}
			grad[toyU+id*toyVocab+v] += keep[t] * sum[v]
		}
	}
}

// Apply is torch's AdamW after clipping.
func (s *toySession) Apply(ctx context.Context, o ApplyOptions) (float64, error) {
	norm := 0.0
	for i := range s.grad {
		s.grad[i] /= o.NumItems
		norm += s.grad[i] * s.grad[i]
	}
	norm = math.Sqrt(norm)
	clip := 1.0
	if o.MaxGradNorm > 0 {
		clip = min(1, o.MaxGradNorm/(norm+1e-6))
	}
	s.steps++
	c1, c2 := 1-math.Pow(s.o.AdamBeta1, float64(s.steps)), 1-math.Pow(s.o.AdamBeta2, float64(s.steps))
	w := s.model.w
	for i, g := range s.grad {
		g *= clip
		w[i] *= 1 - o.LearningRate*s.o.WeightDecay
		s.m[i] = s.o.AdamBeta1*s.m[i] + (1-s.o.AdamBeta1)*g
		s.v[i] = s.o.AdamBeta2*s.v[i] + (1-s.o.AdamBeta2)*g*g
		w[i] -= o.LearningRate / c1 * s.m[i] / (math.Sqrt(s.v[i])/math.Sqrt(c2) + s.o.AdamEpsilon)
	}
	clear(s.grad)
	return norm, nil
}

type toyState struct {
	W, M, V []float64
	Steps   int
}

func (s *toySession) SaveState(dir string) error {
	return writeGob(filepath.Join(dir, "optimizer.gob"), toyState{s.model.w, s.m, s.v, s.steps})
}

func (s *toySession) LoadState(dir string) error {
	f, err := os.Open(filepath.Join(dir, "optimizer.gob"))
	if err != nil {
		return err
	}
	defer f.Close()
	var st toyState
	if err := gob.NewDecoder(f).Decode(&st); err != nil {
		return err
	}
	s.model.w, s.m, s.v, s.steps = st.W, st.M, st.V, st.Steps
	return nil
}

func (s *toySession) MemoryInUse() (int64, bool) { return 3 << 30, true }
func (s *toySession) Close() error               { s.model.sessions--; return nil }

func writeGob(path string, v any) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(gob.NewEncoder(f).Encode(v), f.Close())
}
