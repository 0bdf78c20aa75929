package sft_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/sft"
	"github.com/loris-ml/loris/tokenizer"
)

// recordedCurves are logs of TRL, transformers and PEFT (testdata/curves.py).
type recordedCurves struct {
	Cases []struct {
		Name       string
		Options    json.RawMessage
		LogHistory []sft.Metrics `json:"log_history"`
	}
}

func readCurves(t *testing.T) (r recordedCurves, rows, evalRows *sft.Dataset) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "curves.json"))
	if err != nil {
		t.Fatal(err)
	}
	var data struct {
		Rows     []map[string][]int
		EvalRows []map[string][]int `json:"eval_rows"`
	}
	if err := errors.Join(json.Unmarshal(text, &r), json.Unmarshal(text, &data)); err != nil {
		t.Fatal(err)
	}
	convert := func(in []map[string][]int) *sft.Dataset {
		var rows []sft.Row
		for _, r := range in {
			rows = append(rows, sft.Row{"input_ids": r["input_ids"], "labels": r["labels"]})
		}
		return sft.FromRows(rows)
	}
	return r, convert(data.Rows), convert(data.EvalRows)
}

// tinyLlama is the reference model with its adapter, and a tokenizer for the padding.
func tinyLlama(t *testing.T, backend string) (*peft.PeftModel, *tokenizer.Tokenizer) {
	t.Helper()
	dir := reference.Dir("llama_a")
	model, err := models.FromPretrained(t.Context(), dir, models.Options{Backend: backend, DType: models.Float32})
	if err != nil {
		t.Fatal(err)
	}
	tuned, err := peft.FromPretrained(model, filepath.Join(dir, "adapter"), peft.Logger(silent))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(tuned.Close(), model.Close()); err != nil {
			t.Error(err)
		}
	})
	tok, err := tokenizer.FromPretrained(filepath.Join("testdata", "tokenizer"))
	if err != nil {
		t.Fatal(err)
	}
	return tuned, tok
}

func train(t *testing.T, ctx context.Context, backend string, rows *sft.Dataset, c sft.SFTConfig) (*sft.Report, error) {
	t.Helper()
	model, tok := tinyLlama(t, backend)
	trainer, err := sft.NewSFTTrainer(model, tok, rows, c)
	if err != nil {
		t.Fatal(err)
	}
	return trainer.Train(ctx)
}

func TestFiftyStepsEqualTRLs(t *testing.T) {
	fixture, rows, evalRows := readCurves(t)
	reference.OnBackends(t, func(t *testing.T, backend string) {
		for _, want := range fixture.Cases {
			t.Run(want.Name, func(t *testing.T) {
				if backend == "" {
					t.Parallel()
				}
				var c sft.SFTConfig
				if err := json.Unmarshal(want.Options, &c); err != nil {
					t.Fatal(err)
				}
				c.OutputDir, c.EvalDataset, c.Logger, c.DisableTQDM = t.TempDir(), evalRows, silent, true
				report, err := train(t, t.Context(), backend, rows, c)
				if err != nil {
					t.Fatal(err)
				}
				compareCurves(t, report.LogHistory, want.LogHistory)
			})
		}
	})
}

// compareCurves bounds ‖a-b‖/‖b‖ of every metric's curve, and the drift of loss and gradient norm, which tells a
// systematic error from noise.
func compareCurves(t *testing.T, got, want []sft.Metrics) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d lines, TRL %d", len(got), len(want))
	}
	for name, limit := range map[string]float64{
		"loss": 1e-5, "grad_norm": 1e-4, "learning_rate": 1e-14, "entropy": 1e-5, "num_tokens": 0, "mean_token_accuracy": 1e-5, "epoch": 1e-14,
		"step": 0, "eval_loss": 1e-5, "eval_entropy": 1e-5, "eval_num_tokens": 0, "eval_mean_token_accuracy": 1e-5, "train_loss": 1e-5,
	} {
		var diff, norm, drift float64
		n := 0
		for i, line := range want {
			b, ok := line.Get(name)
			a, have := got[i].Get(name)
			if ok != have && name != "entropy" && name != "mean_token_accuracy" && name != "num_tokens" { // the summary line has more
				t.Fatalf("line %d: %s is %v, TRL %v", i, name, got[i], line)
			}
			if ok {
				diff, norm, drift, n = diff+(a-b)*(a-b), norm+b*b, drift+a-b, n+1
			}
		}
		if n == 0 {
			t.Errorf("no line has %s", name)
		}
		if d := math.Sqrt(diff / norm); !(d <= limit) || !(math.Abs(drift) <= limit*float64(n)) {
			t.Errorf("%s differs by %.2g over %d lines, mean drift %.2g; want at most %.2g", name, d, n, drift/float64(n), limit)
		} else {
			t.Logf("%s: ‖Δ‖/‖·‖ %.2g, mean drift %.2g over %d lines", name, d, drift/float64(n), n)
		}
	}
}

func TestDeviceRunCancelledAndResumedEqualsStraightRun(t *testing.T) {
	_, rows, evalRows := readCurves(t)
	reference.OnBackends(t, func(t *testing.T, backend string) {
		config := func() sft.SFTConfig {
			return sft.SFTConfig{OutputDir: t.TempDir(), MaxSteps: 8, PerDeviceTrainBatchSize: 2, GradientAccumulationSteps: 3, LearningRate: 5e-3,
				MaxLength: 48, Packing: true, LoggingSteps: 3, EvalDataset: evalRows, EvalStrategy: sft.Steps, EvalSteps: 4, SaveSteps: 100, Logger: silent, DisableTQDM: true}
		}
		c := config()
		want, err := train(t, t.Context(), backend, rows, c)
		if err != nil {
			t.Fatal(err)
		}
		wantAdapter := adapterBytes(t, want)

		c = config()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c.Callbacks = []sft.Callback{{OnStepEnd: func(e *sft.Event) error {
			if e.State.GlobalStep == 5 {
				cancel()
			}
			return nil
		}}}
		report, err := train(t, ctx, backend, rows, c)
		if !errors.Is(err, context.Canceled) || report.GlobalStep != 5 {
			t.Fatalf("step %d: %v", report.GlobalStep, err)
		}
		c.ResumeFromCheckpoint = sft.LastCheckpoint
		got, err := train(t, t.Context(), backend, rows, c)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(adapterBytes(t, got), wantAdapter) {
			t.Error("the adapter differs from the straight run's")
		}
		for i, line := range want.LogHistory {
			for _, m := range line {
				if v, _ := got.LogHistory[i].Get(m.Name); v != m.Value && !strings.Contains(m.Name, "_per_second") && !strings.Contains(m.Name, "runtime") && m.Name != "train_loss" {
					t.Errorf("line %d: %s is %v, straight run %v", i, m.Name, v, m.Value)
				}
			}
		}
	})
}

func adapterBytes(t *testing.T, r *sft.Report) []byte {
	t.Helper()
	return adapterIn(t, r.LastCheckpoint)
}

// adapterIn are the adapter's tensors in a checkpoint.
func adapterIn(t *testing.T, checkpoint string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(checkpoint, "adapter_model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}
