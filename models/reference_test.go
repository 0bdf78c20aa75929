package models

import (
	"context"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/training"
)

func mustLoad(t *testing.T, path string, o Options) *CausalLM {
	t.Helper()
	m, err := FromPretrained(context.Background(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestLogitsAreThoseOfTransformers(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		for _, name := range reference.Llamas {
			t.Run(name, func(t *testing.T) {
				ref := reference.LoadLlama(t, name)
				m := mustLoad(t, ref.Dir, Options{Backend: backend, DType: Float32})
				logits, err := m.Logits(context.Background(), ref.InputIDs[0], ref.AttentionMask[0])
				if err != nil {
					t.Fatal(err)
				}
				ref.CheckLogits(t, "base.logits", logits, 1e-5)
			})
		}
	})
}

func TestFullFineTuningFollowsTorch(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		ctx := context.Background()
		ref := reference.LoadLlama(t, "llama_a")
		m := mustLoad(t, ref.Dir, Options{Backend: backend, DType: Float32, Trainable: true})
		s, err := m.NewSession(ref.Optimizer.Full.Session())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		want := ref.Full.Steps["fp32"]
		var loss, norm []float64
		for i := range want.Loss {
			b := ref.Batch(i)
			st, err := s.MicroStep(ctx, b)
			if err != nil {
				t.Fatal(err)
			}
			n, err := s.Apply(ctx, training.ApplyOptions{
				LearningRate: ref.Optimizer.Full.LR, NumItems: float64(b.NumLabels), MaxGradNorm: ref.Optimizer.MaxGradNorm,
			})
			if err != nil {
				t.Fatal(err)
			}
			loss, norm = append(loss, st.LossSum/float64(b.NumLabels)), append(norm, n)
		}
		reference.CheckCurve(t, "loss", loss, want.Loss, 1e-5)
		reference.CheckCurve(t, "gradient norm", norm, want.GradNorm, 1e-5)
		st, err := s.Evaluate(ctx, ref.Batch(0))
		if err != nil {
			t.Fatal(err)
		}
		reference.CheckCurve(t, "final loss", []float64{st.LossSum / float64(st.Labels)}, []float64{want.FinalLoss}, 1e-5)
	})
}
