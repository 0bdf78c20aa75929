package sft_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/sft"
	"github.com/loris-ml/loris/tokenizer"
)

// For the race detector: four trainers at once, with all that reports.
func TestFourTrainersInOneProcessTrainAsAlone(t *testing.T) {
	_, rows, evalRows := readCurves(t)
	dir := reference.Dir("llama_a")
	model, err := models.FromPretrained(t.Context(), dir, models.Options{DType: models.Float32})
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	tok, err := tokenizer.FromPretrained(filepath.Join("testdata", "tokenizer"))
	if err != nil {
		t.Fatal(err)
	}
	monitor := new(sft.Monitor)
	run := func(i int) ([]byte, error) {
		tuned, err := peft.FromPretrained(model, filepath.Join(dir, "adapter"), peft.Logger(silent))
		if err != nil {
			return nil, err
		}
		defer tuned.Close()
		c := sft.SFTConfig{OutputDir: t.TempDir(), MaxSteps: 4, PerDeviceTrainBatchSize: 2, LearningRate: 5e-3, MaxLength: 48, LoggingSteps: 1,
			Optim: []string{"adamw_torch", "adafactor", "lion_32bit", "sgd"}[i], DataSeed: int64(i + 1), Packing: i%2 == 0, NEFTuneNoiseAlpha: float64(i),
			EvalDataset: evalRows, EvalStrategy: sft.Steps, EvalSteps: 2, SaveSteps: 2, ReportTo: []string{"all"}, RunName: fmt.Sprint(i),
			Callbacks: []sft.Callback{monitor.Callback()}, Logger: silent, DisableTQDM: true}
		c.ComputeMetrics = func(ctx context.Context) (sft.Metrics, error) {
			ids, err := model.GenerateIDs(ctx, nil, []int{1, 2, 3}, models.GenerationConfig{MaxNewTokens: 2})
			return sft.Metrics{{Name: "generated", Value: float64(len(ids))}}, err
		}
		trainer, err := sft.NewSFTTrainer(tuned, tok, rows, c)
		if err != nil {
			return nil, err
		}
		report, err := trainer.Train(t.Context())
		if err != nil {
			return nil, err
		}
		return adapterIn(t, report.LastCheckpoint), nil
	}
	var alone, together [4][]byte
	for i := range alone {
		if alone[i], err = run(i); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	for i := range together {
		all.Go(func() {
			var err error
			if together[i], err = run(i); err != nil {
				t.Errorf("trainer %d: %v", i, err)
			}
		})
	}
	all.Wait()
	for i := range alone {
		if !bytes.Equal(alone[i], together[i]) {
			t.Errorf("trainer %d: its adapter is not that of a run alone", i)
		}
	}
}

func TestAThousandStepsDoNotGrow(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	_, rows, _ := readCurves(t)
	held := func() (m memory) {
		runtime.GC()
		debug.FreeOSMemory()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return memory{int64(s.HeapAlloc), residentMemory(t)}
	}
	var early, late memory
	c := sft.SFTConfig{OutputDir: t.TempDir(), MaxSteps: 1000, PerDeviceTrainBatchSize: 1, LearningRate: 1e-3, MaxLength: 16, LoggingSteps: 50,
		SaveSteps: 250, SaveTotalLimit: 1, ReportTo: []string{"all"}, Logger: silent, DisableTQDM: true}
	c.Callbacks = []sft.Callback{{OnStepEnd: func(e *sft.Event) error {
		switch e.State.GlobalStep {
		case 100:
			early = held()
		case 1000:
			late = held()
		}
		return nil
	}}}
	if _, err := train(t, t.Context(), "", rows, c); err != nil {
		t.Fatal(err)
	}
	t.Logf("after 100 steps %+v bytes, after 1000 %+v", early, late)
	if late.heap-early.heap > 300<<10 {
		t.Errorf("the heap has grown by %d bytes from %d in 900 steps", late.heap-early.heap, early.heap)
	}
	if late.resident-early.resident > 8<<20 {
		t.Errorf("resident memory has grown by %d bytes from %d in 900 steps", late.resident-early.resident, early.resident)
	}
}

// memory is what the process holds, in bytes.
type memory struct{ heap, resident int64 }

// residentMemory is what the system counts for the process; 0 where it does not tell.
func residentMemory(t *testing.T) int64 {
	t.Helper()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(statm), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * int64(os.Getpagesize())
}
