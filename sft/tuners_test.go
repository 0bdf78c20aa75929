package sft_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/sft"
	"github.com/loris-ml/loris/tokenizer"
)

// trainTuner trains new adapters on the tiny Llama.
func trainTuner(t *testing.T, cfg peft.Config, rows *sft.Dataset, c sft.SFTConfig) *sft.Report {
	t.Helper()
	model, err := models.FromPretrained(t.Context(), reference.Dir("llama_a"), models.Options{DType: models.Float32})
	if err != nil {
		t.Fatal(err)
	}
	tuned, err := peft.GetPeftModel(model, cfg, peft.Logger(silent), peft.Seed(1))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(tuned.Close(), model.Close()); err != nil {
			t.Error(err)
		}
	}()
	tok, err := tokenizer.FromPretrained(filepath.Join("testdata", "tokenizer"))
	if err != nil {
		t.Fatal(err)
	}
	c.Logger, c.DisableTQDM = silent, true
	trainer, err := sft.NewSFTTrainer(tuned, tok, rows, c)
	if err != nil {
		t.Fatal(err)
	}
	report, err := trainer.Train(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// Every tuner trains through the same trainer: the loss falls, and a run that goes on from a checkpoint ends in the same adapter
// folder, byte for byte.
func TestEveryTunerTrainsAndResumes(t *testing.T) {
	var repeated []sft.Row
	for i := range 6 { // twice three
		ids := []int{3 + i%3, 17, 40 - i%3, 12, 63, 5 + i%3, 40, 12}
		repeated = append(repeated, sft.Row{"input_ids": ids, "labels": ids})
	}
	rows := sft.FromRows(repeated)
	for name, cfg := range map[string]peft.Config{
		"IA3":     peft.IA3Config{},
		"LoHa":    peft.LoHaConfig{R: 4},
		"LoKr":    peft.LoKrConfig{R: 4, TargetModules: peft.AllLinear},
		"OFT":     peft.OFTConfig{OFTBlockSize: 4},
		"VeRA":    peft.VeraConfig{R: 16, VeraDropout: 0.1},
		"BOFT":    peft.BOFTConfig{BOFTBlockSize: 2},
		"AdaLoRA": peft.AdaLoraConfig{InitR: 4, TargetR: 2, TInit: 2, TFinal: 3, TotalStep: 12, LoraDropout: 0.1},
	} {
		t.Run(name, func(t *testing.T) {
			c := sft.SFTConfig{OutputDir: t.TempDir(), MaxSteps: 12, LearningRate: 0.02, LoggingSteps: 1, SaveStrategy: sft.Steps, SaveSteps: 6, PerDeviceTrainBatchSize: 2}
			straight := trainTuner(t, cfg, rows, c)
			var losses []float64
			for _, line := range straight.LogHistory {
				if v, ok := line.Get("loss"); ok {
					losses = append(losses, v)
				}
			}
			if n := len(losses); n != 12 || losses[9]+losses[10]+losses[11] > 0.98*(losses[0]+losses[1]+losses[2]) {
				t.Errorf("losses %v", losses)
			}
			resumed := c
			resumed.OutputDir, resumed.ResumeFromCheckpoint = t.TempDir(), filepath.Join(c.OutputDir, "checkpoint-6")
			trainTuner(t, cfg, rows, resumed)
			for _, file := range []string{peft.WeightsName, peft.ConfigName} {
				want, err := os.ReadFile(filepath.Join(c.OutputDir, "checkpoint-12", file))
				if err != nil {
					t.Fatal(err)
				}
				if got, err := os.ReadFile(filepath.Join(resumed.OutputDir, "checkpoint-12", file)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s differs after a resumed training, %v", file, err)
				}
			}
		})
	}
}
