//go:build unix

package sft

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"testing"
)

func TestSIGTERMSavesAndEnds(t *testing.T) {
	c := testConfig(t)
	c.SaveStrategy, c.EnableJITCheckpoint = Steps, true
	want := newToyModel()
	mustTrain(t, want, zen(), c)

	c.OutputDir = t.TempDir()
	c.Callbacks = []Callback{{OnStepEnd: func(e *Event) error {
		if e.State.GlobalStep != 3 {
			return nil
		}
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
			return err
		}
		<-e.Context.Done() // the signal has arrived
		return nil
	}}}
	model := newToyModel()
	report, err := mustTrainer(t, model, zen(), c).Train(t.Context())
	if !errors.Is(err, context.Canceled) || report.GlobalStep != 3 {
		t.Fatalf("step %d, error %v", report.GlobalStep, err)
	}
	wantError(t, err, "after step 3", "terminated")
	if names := checkpoints(t, c.OutputDir); !slices.Equal(names, []string{"checkpoint-3"}) {
		t.Fatalf("checkpoints %v", names)
	}
	c.ResumeFromCheckpoint = LastCheckpoint
	mustTrain(t, model, zen(), c)
	if !slices.Equal(model.w, want.w) {
		t.Error("the resumed run's weights are not those of a straight run")
	}
}
