package sft_test

import (
	"errors"
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

// moduleConfigs train copies of modules, or virtual tokens.
var moduleConfigs = map[string]peft.Config{
	"modules_to_save":   peft.LoraConfig{R: 2, TargetModules: peft.Modules("q_proj"), ModulesToSave: []string{"v_proj", "norm"}},
	"ln_tuning":         peft.LNTuningConfig{},
	"prompt_tuning":     peft.PromptTuningConfig{Prompts: peft.Prompts{NumVirtualTokens: 4}},
	"prefix_tuning":     peft.PrefixTuningConfig{Prompts: peft.Prompts{NumVirtualTokens: 4}},
	"p_tuning":          peft.PromptEncoderConfig{Prompts: peft.Prompts{NumVirtualTokens: 4}, EncoderHiddenSize: 8},
	"prefix_projection": peft.PrefixTuningConfig{Prompts: peft.Prompts{NumVirtualTokens: 4}, PrefixProjection: true, EncoderHiddenSize: 8},
}

func TestCopiesAndVirtualTokensLowerTheLossAndResumeBitForBit(t *testing.T) {
	_, rows, _ := readCurves(t)
	rows = rows.Take(2) // a batch, so that losses compare
	tok, err := tokenizer.FromPretrained(filepath.Join("testdata", "tokenizer"))
	if err != nil {
		t.Fatal(err)
	}
	model, err := models.FromPretrained(t.Context(), reference.Dir("llama_a"), models.Options{DType: models.Float32})
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	for name, cfg := range moduleConfigs {
		t.Run(name, func(t *testing.T) {
			c := sft.SFTConfig{OutputDir: t.TempDir(), MaxSteps: 8, PerDeviceTrainBatchSize: 2, LearningRate: 2e-2, MaxLength: 32, LoggingSteps: 1, SaveSteps: 4,
				Logger: silent, DisableTQDM: true}
			report := trainWith(t, model, tok, rows, cfg, c, 1)
			first, _ := report.LogHistory[0].Get("loss")
			last, _ := report.LogHistory[7].Get("loss")
			if !(last < 0.98*first) {
				t.Errorf("loss %v after 1 step, %v after 8", first, last)
			}
			resumed := c
			resumed.OutputDir, resumed.ResumeFromCheckpoint = t.TempDir(), filepath.Join(c.OutputDir, "checkpoint-4")
			again := trainWith(t, model, tok, rows, cfg, resumed, 2)
			if !slices.Equal(adapterBytes(t, again), adapterBytes(t, report)) {
				t.Error("the resumed run's adapter differs from the straight run's")
			}
		})
	}
}

// trainWith trains new adapters, which begin with random numbers by seed.
func trainWith(t *testing.T, m *models.CausalLM, tok *tokenizer.Tokenizer, rows *sft.Dataset, cfg peft.Config, c sft.SFTConfig, seed int64) *sft.Report {
	t.Helper()
	tuned, err := peft.GetPeftModel(m, cfg, peft.Seed(seed), peft.Logger(silent))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := tuned.Close(); err != nil {
			t.Error(err)
		}
	}()
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

func TestVirtualTokensBeforePackedRowsAreRefused(t *testing.T) {
	_, rows, _ := readCurves(t)
	model, err := models.FromPretrained(t.Context(), reference.Dir("llama_a"), models.Options{DType: models.Float32})
	if err != nil {
		t.Fatal(err)
	}
	tuned, err := peft.GetPeftModel(model, moduleConfigs["prompt_tuning"])
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
	trainer, err := sft.NewSFTTrainer(tuned, tok, rows, sft.SFTConfig{OutputDir: t.TempDir(), MaxSteps: 2, MaxLength: 48, Packing: true, Logger: silent, DisableTQDM: true})
	if err == nil {
		_, err = trainer.Train(t.Context())
	}
	if err == nil || !strings.Contains(err.Error(), "set Packing to false") {
		t.Errorf("error %v", err)
	}
}
