package layerwise_test

import (
	"bytes"
	"context"
	"math"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

func TestAClosedSessionAnswersWithAnError(t *testing.T) {
	m, a := trainee(t, models.Options{}, 0)
	s := session(t, m, a, settings)
	b, dir := packed(12, documents(1, 12)), t.TempDir()
	run(t, s, 1, b)
	if err := s.SaveState(dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"MicroStep": func() error { _, err := s.MicroStep(t.Context(), b); return err },
		"Evaluate":  func() error { _, err := s.Evaluate(t.Context(), b); return err },
		"Apply": func() error {
			_, err := s.Apply(t.Context(), training.ApplyOptions{LearningRate: 1, NumItems: 1})
			return err
		},
		"Prefetch":  func() error { return s.(training.Prefetcher).Prefetch(b) },
		"SaveState": func() error { return s.SaveState(t.TempDir()) },
		"LoadState": func() error { return s.LoadState(dir) },
	} {
		if err := call(); err == nil || !strings.Contains(err.Error(), "the session is closed") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if s.(training.Joiner).FitsWhole(1, 12) {
		t.Error("a closed session has room for batches")
	}
	if err := s.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
}

func TestASessionWhoseAdaptersAreClosedAnswersWithAnError(t *testing.T) {
	for _, steps := range []int{0, 1} {
		m, _ := trainee(t, models.Options{}, 0)
		a, err := m.NewAdapters(adapters(m, 0))
		if err != nil {
			t.Fatal(err)
		}
		s, err := m.SessionWith(a, settings)
		if err != nil {
			t.Fatal(err)
		}
		b := packed(12, documents(1, 12))
		run(t, s, steps, b)
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		_, microStep := s.MicroStep(t.Context(), b)
		_, evaluate := s.Evaluate(t.Context(), b)
		for _, err := range []error{microStep, evaluate, s.(training.Prefetcher).Prefetch(b)} {
			if err == nil || !strings.Contains(err.Error(), "adapters are closed") {
				t.Errorf("after %d steps: error %v", steps, err)
			}
		}
		_ = s.Close() // the last update's values are gone
	}
}

func TestApplyRefusesWhatIsNoNumberAndChangesNothing(t *testing.T) {
	b, good := packed(12, documents(1, 12)), training.ApplyOptions{LearningRate: 1e-2, NumItems: 11, MaxGradNorm: 0.5}
	m, a := trainee(t, models.Options{}, 0)
	s := session(t, m, a, settings)
	before := weights(t, s)
	if _, err := s.MicroStep(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		field string
		spoil func(o *training.ApplyOptions, v float64)
		with  []float64
	}{
		{"NumItems", func(o *training.ApplyOptions, v float64) { o.NumItems = v }, []float64{0, -1, 1e-60, 1e60, math.NaN(), math.Inf(1)}},
		{"LearningRate", func(o *training.ApplyOptions, v float64) { o.LearningRate = v }, []float64{math.NaN(), math.Inf(1)}},
		{"MaxGradNorm", func(o *training.ApplyOptions, v float64) { o.MaxGradNorm = v }, []float64{-1, math.NaN()}},
	} {
		for _, v := range c.with {
			o := good
			c.spoil(&o, v)
			if _, err := s.Apply(t.Context(), o); err == nil || !strings.Contains(err.Error(), "ApplyOptions."+c.field) {
				t.Errorf("%s %v: error %v", c.field, v, err)
			}
		}
	}
	if !bytes.Equal(weights(t, s), before) {
		t.Error("values have changed")
	}
	got, err := s.Apply(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	m, a = trainee(t, models.Options{}, 0)
	if _, want := run(t, session(t, m, a, settings), 1, b); got != want[0] {
		t.Errorf("gradient norm %v after what was refused, want %v", got, want[0])
	}
}

func TestWrongBatchesAreErrorsAndChangeNothing(t *testing.T) {
	ctx := context.Background()
	m, a := trainee(t, models.Options{}, 0)
	s := session(t, m, a, settings)
	good := packed(6, documents(8, 6))
	for want, spoil := range map[string]func(b *training.Batch){
		"vocabulary of 97": func(b *training.Batch) { b.IDs[3] = 97 },
		"Labels has 5":     func(b *training.Batch) { b.Labels = b.Labels[:5] },
		"Segments has 2":   func(b *training.Batch) { b.Segments = b.Segments[:2] },
		"empty batch":      func(b *training.Batch) { *b = training.Batch{} },
		"Rows must be":     func(b *training.Batch) { b.Rows, b.Length = -1, -6 },
		"Labels[2] is 97":  func(b *training.Batch) { b.Labels[2] = 97 },
		"Labels[2] is -1":  func(b *training.Batch) { b.Labels[2] = -1 },
		"FirstLabels[0]":   func(b *training.Batch) { b.FirstLabels = []int32{-2} },
		"Joined[0] is 2":   func(b *training.Batch) { b.Joined = []int{2} },
	} {
		b := packed(6, documents(8, 6))
		spoil(b)
		_, microStep := s.MicroStep(ctx, b)
		_, evaluate := s.Evaluate(ctx, b)
		for _, err := range []error{microStep, evaluate, s.(training.Prefetcher).Prefetch(b)} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got error %v, want one with %q", err, want)
			}
		}
	}
	if _, err := s.MicroStep(ctx, nil); err == nil {
		t.Error("no batch is taken")
	}
	if _, err := s.Apply(ctx, training.ApplyOptions{LearningRate: 1, NumItems: 1}); err == nil {
		t.Error("Apply without a micro-step succeeded")
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.MicroStep(canceled, good); err == nil {
		t.Error("a canceled micro-step succeeded")
	}
	run(t, s, 1, good)
}

func TestRefusedBatchLeavesTheSums(t *testing.T) {
	ctx := context.Background()
	good, bad := packed(6, documents(8, 6)), packed(6, documents(9, 6))
	bad.IDs[2] = -1
	m, a := trainee(t, models.Options{}, 0)
	s := session(t, m, a, settings)
	if _, err := s.MicroStep(ctx, good); err != nil {
		t.Fatal(err)
	}
	if _, err := s.MicroStep(ctx, bad); err == nil {
		t.Fatal("a token id of -1 was taken")
	}
	o := training.ApplyOptions{LearningRate: 1e-2, NumItems: float64(good.NumLabels), MaxGradNorm: 0.5}
	got, err := s.Apply(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	m, a = trainee(t, models.Options{}, 0)
	if _, want := run(t, session(t, m, a, settings), 1, good); got != want[0] {
		t.Errorf("gradient norm %v after a refused batch, want %v", got, want[0])
	}
}
