package sft_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/sft"
	"github.com/loris-ml/loris/tokenizer"
)

// TestTrainersAtOnceOnOneClient trains several adapters of one model in one process, asynchronously, and cancels each in
// the middle of a step and lets it resume.
func TestTrainersAtOnceOnOneClient(t *testing.T) {
	_, rows, evalRows := readCurves(t)
	reference.OnXLA(t, 6, func(t *testing.T, backend string, p *seam.Plugin) {
		dir := reference.Dir("llama_a")
		model, err := models.FromPretrained(t.Context(), dir, models.Options{Backend: backend, DType: models.Float32})
		if err != nil {
			t.Fatal(err)
		}
		defer model.Close()
		tok, err := tokenizer.FromPretrained(filepath.Join("testdata", "tokenizer"))
		if err != nil {
			t.Fatal(err)
		}
		run := func(ctx context.Context, out string, seed int64) (*sft.Report, error) {
			tuned, err := peft.FromPretrained(model, filepath.Join(dir, "adapter"), peft.Logger(silent))
			if err != nil {
				return nil, err
			}
			defer tuned.Close()
			trainer, err := sft.NewSFTTrainer(tuned, tok, rows, sft.SFTConfig{OutputDir: out, MaxSteps: 9, PerDeviceTrainBatchSize: 2, GradientAccumulationSteps: 2,
				LearningRate: 5e-3, MaxLength: 48, Packing: true, EvalDataset: evalRows, EvalStrategy: sft.Steps, EvalSteps: 5, SaveSteps: 3, DataSeed: seed,
				ResumeFromCheckpoint: sft.AutoCheckpoint, Logger: silent, DisableTQDM: true})
			if err != nil {
				return nil, err
			}
			return trainer.Train(ctx)
		}
		const trainers = 3
		var alone [trainers][]byte
		for i := range alone {
			report, err := run(t.Context(), t.TempDir(), int64(i+1))
			if err != nil {
				t.Fatal(err)
			}
			alone[i] = adapterIn(t, report.LastCheckpoint)
		}
		var all sync.WaitGroup
		var last [trainers]string // checkpoints
		for i := range alone {
			out := t.TempDir()
			all.Go(func() {
				step, canceled := 0, 0
				for asked := 25; ; asked += 7 {
					report, err := run(&canceledLater{Context: t.Context(), after: asked}, out, int64(i+1))
					if err == nil {
						if canceled == 0 {
							t.Errorf("trainer %d was never canceled", i)
						}
						last[i] = report.LastCheckpoint
						return
					}
					if !errors.Is(err, context.Canceled) || report == nil || report.GlobalStep < step || report.LastCheckpoint != filepath.Join(out, fmt.Sprint("checkpoint-", report.GlobalStep)) {
						t.Errorf("trainer %d: %v, report %+v", i, err, report)
						return
					}
					step, canceled = report.GlobalStep, canceled+1
				}
			})
		}
		all.Wait()
		for i := range last {
			if last[i] != "" && !bytes.Equal(adapterIn(t, last[i]), alone[i]) {
				t.Errorf("trainer %d: its adapter is not that of a run alone", i)
			}
		}
		if err := p.Sync(); err != nil {
			t.Error(err)
		}
	})
}

// canceledLater is canceled once it has been asked so many times, and stays so.
type canceledLater struct {
	context.Context
	after int
}

func (c *canceledLater) Err() error {
	if c.after--; c.after < 0 {
		return context.Canceled
	}
	return nil
}
