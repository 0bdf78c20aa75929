package layerwise_test

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

// In float16 a loss that is scaled by too much makes gradients that are not finite: such steps change nothing but the scale,
// until it fits. It is saved and comes back.
func TestStepsThatOverflowAreLeftOutAndTheLossIsScaledByLess(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, spec string) {
		m, a := trainee(t, models.Options{Backend: spec, DType: models.Float16}, 0)
		s := session(t, m, a, settings)
		layerwise.SetLossScale(s, 1<<40)
		scaler := s.(training.LossScaler)
		batches := []*training.Batch{packed(12, documents(1, 12), documents(2, 5, 7)), packed(12, documents(3, 9))}
		step := func() float64 {
			t.Helper()
			labels := 0
			for _, b := range batches {
				st, err := s.MicroStep(t.Context(), b)
				if err != nil || math.IsNaN(st.LossSum) || math.IsInf(st.LossSum, 0) {
					t.Fatalf("loss %v, error %v", st.LossSum, err)
				}
				labels += st.Labels
			}
			norm, err := s.Apply(t.Context(), training.ApplyOptions{LearningRate: 1e-3, NumItems: float64(labels), MaxGradNorm: 1})
			if err != nil {
				t.Fatal(err)
			}
			return norm
		}
		before, skips := weights(t, s), 0
		for {
			norm := step()
			scale, skipped := scaler.LossScale()
			if finite := !math.IsNaN(norm) && !math.IsInf(norm, 0); finite == skipped {
				t.Fatalf("the norm is %v, left out %v", norm, skipped)
			}
			if !skipped {
				break
			}
			skips++
			if want := math.Ldexp(1, 40-skips); scale != want || !bytes.Equal(weights(t, s), before) {
				t.Fatalf("after %d steps left out the scale is %v, want %v; the weights are unchanged: %v", skips, scale, want, bytes.Equal(weights(t, s), before))
			}
		}
		if skips < 5 || skips > 36 || bytes.Equal(weights(t, s), before) {
			t.Errorf("%d steps were left out", skips)
		}
		dir := t.TempDir()
		if err := s.SaveState(dir); err != nil {
			t.Fatal(err)
		}
		scale, _ := scaler.LossScale()
		layerwise.SetLossScale(s, 1)
		if err := s.LoadState(dir); err != nil {
			t.Fatal(err)
		}
		if got, _ := scaler.LossScale(); got != scale {
			t.Errorf("the scale comes back as %v, was %v", got, scale)
		}
	})
}

// weights are the saved tensors of a session, without what is said about them.
func weights(t *testing.T, s training.Session) (all []byte) {
	t.Helper()
	dir := t.TempDir()
	if err := s.SaveState(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "optimizer.safetensors")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	header := 8 + int(raw[0]) + int(raw[1])<<8 + int(raw[2])<<16
	return raw[header:]
}

// torch scales the mean loss of the step: which of its batches comes first, and how many labels that has, makes no difference.
func TestTheOrderOfBatchesDoesNotMakeFloat16Overflow(t *testing.T) {
	unlabelled := func(labels int) *training.Batch {
		b := packed(7, documents(1, 7))
		for i := range b.Labels[:len(b.Labels)-labels-1] {
			b.Labels[i] = training.IgnoreIndex
		}
		b.NumLabels = labels
		return b
	}
	many := packed(60, documents(2, 60), documents(3, 25, 35), documents(4, 50))
	for name, batches := range map[string][]*training.Batch{
		"no label, then many":      {unlabelled(0), many},
		"one label, then many":     {unlabelled(1), many},
		"no label, one, then many": {unlabelled(0), unlabelled(1), many},
		"many, then one label":     {many, unlabelled(1)},
	} {
		t.Run(name, func(t *testing.T) {
			reference.OnBackends(t, func(t *testing.T, spec string) {
				norm := func(dtype models.DType) float64 {
					m, a := trainee(t, models.Options{Backend: spec, DType: dtype}, 0)
					s := session(t, m, a, settings)
					_, norms := run(t, s, 1, batches...)
					if scale, skipped := s.(training.LossScaler).LossScale(); skipped {
						t.Errorf("the step is left out, and the scale is %v", scale)
					}
					return norms[0]
				}
				if got, want := norm(models.Float16), norm(models.Float32); !(math.Abs(got/want-1) < 0.01) {
					t.Errorf("gradient norm %v, in float32 %v", got, want)
				}
			})
		})
	}
}

// As torch.amp.GradScaler: 2,000 steps that went well double the scale.
func TestLossScaleGrowsAfterTwoThousandSteps(t *testing.T) {
	l := layerwise.NewScaler()
	for i := range 4000 {
		if want := math.Ldexp(65536, i/2000); l.Scale() != want {
			t.Fatalf("before step %d the scale is %v, want %v", i, l.Scale(), want)
		}
		l.Note(true)
	}
	l.Note(true)
	l.Note(false)
	if l.Note(false); l.Scale() != 65536 {
		t.Errorf("after two steps left out the scale is %v", l.Scale())
	}
	for range 1999 {
		l.Note(true)
	}
	if l.Scale() != 65536 {
		t.Error("steps before one that was left out count")
	}
	if l.Note(true); l.Scale() != 131072 {
		t.Errorf("2,000 steps after one that was left out the scale is %v", l.Scale())
	}
	if l.TakeBack(); l.String() != "65536 1999" {
		t.Errorf("without the last step scale and steps are %s", l)
	}
}
