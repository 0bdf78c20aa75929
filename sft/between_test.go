package sft

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"time"
)

// idleModel takes no time at all, so that what is left is the trainer's own.
type idleModel struct{ between []time.Duration } // from Apply's end to the next MicroStep

type idleSession struct {
	*idleModel
	applied time.Time
}

func (m *idleModel) NewSession(SessionOptions) (Session, error) {
	return &idleSession{idleModel: m}, nil
}
func (m *idleModel) SavePretrained(string) error { return nil }

func (s *idleSession) MicroStep(ctx context.Context, b *Batch) (Stats, error) {
	if !s.applied.IsZero() {
		s.between, s.applied = append(s.between, time.Since(s.applied)), time.Time{}
	}
	return Stats{LossSum: float64(b.NumLabels), Labels: b.NumLabels}, nil
}

func (s *idleSession) Apply(context.Context, ApplyOptions) (float64, error) {
	s.applied = time.Now()
	return 1, nil
}

func (s *idleSession) Evaluate(ctx context.Context, b *Batch) (Stats, error) {
	return s.MicroStep(ctx, b)
}
func (s *idleSession) Prefetch(*Batch) error      { return nil }
func (s *idleSession) SaveState(string) error     { return nil }
func (s *idleSession) LoadState(string) error     { return nil }
func (s *idleSession) MemoryInUse() (int64, bool) { return 1 << 30, true }
func (s *idleSession) Close() error               { return nil }

// BenchmarkBetweenSteps times what the trainer does while a device has nothing but the optimizer to do: from the end of a step
// to the beginning of the next, with a progress bar and all reports. An operation is a step of 2 packed rows of 2048 tokens.
func BenchmarkBetweenSteps(b *testing.B) {
	rows := make([]Row, 4000)
	for i := range rows {
		rows[i] = Row{"input_ids": make([]int, 100+i*37%900)}
	}
	for _, every := range []float64{1, 10} {
		b.Run(fmt.Sprint("log every ", every), func(b *testing.B) {
			model := new(idleModel)
			trainer, err := NewSFTTrainer(model, toyTokenizer{}, rows, SFTConfig{OutputDir: filepath.Join(b.TempDir(), "out"), MaxSteps: b.N + 1, Packing: true,
				MaxLength: 2048, PerDeviceTrainBatchSize: 2, LoggingSteps: every, ReportTo: []string{"all"}, SaveStrategy: No, Progress: io.Discard, Logger: quiet})
			if err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			if _, err := trainer.Train(b.Context()); err != nil {
				b.Fatal(err)
			}
			var sum time.Duration
			for _, d := range model.between {
				sum += d
			}
			b.ReportMetric(float64(sum.Microseconds())/float64(len(model.between)), "µs-between/op")
		})
	}
}
