package sft_test

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/sft"
	"github.com/loris-ml/loris/tokenizer"
)

// adapted loads the reference model with new adapters, or to be trained as a whole where there is no config.
func adapted(t *testing.T, config *peft.LoraConfig) sft.Model {
	t.Helper()
	model, err := models.FromPretrained(t.Context(), reference.Dir("llama_a"), models.Options{DType: models.Float32, Trainable: config == nil})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { model.Close() })
	if config == nil {
		return model
	}
	tuned, err := peft.GetPeftModel(model, *config, peft.Logger(silent))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tuned.Close() })
	return tuned
}

// shortRun trains on the curves' rows.
func shortRun(t *testing.T, model sft.Model, change func(*sft.SFTConfig)) *sft.Report {
	t.Helper()
	_, rows, _ := readCurves(t)
	tok, err := tokenizer.FromPretrained(filepath.Join("testdata", "tokenizer"))
	if err != nil {
		t.Fatal(err)
	}
	c := sft.SFTConfig{OutputDir: t.TempDir(), MaxSteps: 6, PerDeviceTrainBatchSize: 4, LearningRate: 1e-2, MaxLength: 48, Packing: true, LoggingSteps: 1,
		SaveSteps: 3, Logger: silent, DisableTQDM: true}
	change(&c)
	trainer, err := sft.NewSFTTrainer(model, tok, rows, c)
	if err != nil {
		t.Fatal(err)
	}
	report, err := trainer.Train(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// values of a metric, step by step.
func values(r *sft.Report, name string) (all []float64) {
	for _, line := range r.LogHistory {
		if v, ok := line.Get(name); ok {
			all = append(all, v)
		}
	}
	return all
}

// Whatever is trained learns, and a run that goes on from a checkpoint ends as the one that was not interrupted, to the bit.
func TestWhateverIsTrainedLearnsAndResumes(t *testing.T) {
	two := peft.Modules("q_proj", "down_proj")
	for name, config := range map[string]*peft.LoraConfig{
		"all parameters":       nil,
		"LoRA, dropout":        {R: 4, LoraDropout: 0.1, TargetModules: peft.AllLinear},
		"rsLoRA, ranks differ": {R: 4, UseRSLora: true, TargetModules: two, RankPattern: peft.Ranks{{Key: "down_proj", Value: 2}}},
		"DoRA":                 {R: 4, UseDora: true, TargetModules: two},
		"PiSSA":                {R: 4, InitLoraWeights: "pissa", TargetModules: two},
		"biases":               {R: 4, LoraBias: true, TargetModules: two},
		"embedding and head":   {R: 4, TargetModules: peft.Modules("embed_tokens", "lm_head", "v_proj")},
		"copies of both":       {R: 4, TargetModules: two, ModulesToSave: []string{"embed_tokens", "lm_head"}},
		"rows of tokens":       {R: 4, TargetModules: two, TrainableTokenIndices: []int{3, 7, 12}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := "adapter_model.safetensors"
			if config == nil {
				file = "model.safetensors"
			}
			saved := func(r *sft.Report) []byte {
				t.Helper()
				data, err := os.ReadFile(filepath.Join(r.LastCheckpoint, file))
				if err != nil {
					t.Fatal(err)
				}
				return data
			}
			straight := shortRun(t, adapted(t, config), func(*sft.SFTConfig) {})
			if loss := values(straight, "loss"); !(loss[5] < loss[0]) {
				t.Errorf("losses %v", loss)
			}
			resumed := shortRun(t, adapted(t, config), func(c *sft.SFTConfig) {
				c.ResumeFromCheckpoint = filepath.Join(filepath.Dir(straight.LastCheckpoint), "checkpoint-3")
			})
			if !bytes.Equal(saved(resumed), saved(straight)) {
				t.Errorf("what %s has is not the same after an interruption", file)
			}
		})
	}
}

// What is kept for the backward pass, and what is computed again, does not show in the numbers.
func TestResidualBudgetDoesNotChangeTheRun(t *testing.T) {
	config := &peft.LoraConfig{R: 4, LoraDropout: 0.1, TargetModules: peft.AllLinear}
	all := shortRun(t, adapted(t, config), func(c *sft.SFTConfig) { c.ResidualBudget = "1GiB" })
	none := shortRun(t, adapted(t, config), func(c *sft.SFTConfig) { c.ResidualBudget = "0" })
	for _, name := range []string{"loss", "grad_norm"} {
		a, b := values(all, name), values(none, name)
		for i := range a {
			if math.Abs(a[i]-b[i]) > 1e-5*math.Abs(a[i]) {
				t.Errorf("%s of step %d: %v with a budget, %v without", name, i+1, a[i], b[i])
			}
		}
	}
}
