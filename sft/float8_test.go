package sft_test

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/quant"
	"github.com/loris-ml/loris/sft"
	"github.com/loris-ml/loris/tokenizer"
)

// A run in float8 follows the one in bfloat16, which follows the one in float32.
func TestFloat8FollowsBFloat16(t *testing.T) {
	_, rows, _ := readCurves(t)
	losses := map[models.DType][]float64{}
	for _, compute := range []models.DType{models.Float32, models.BFloat16, models.Float8E4M3} {
		model, err := models.FromPretrained(t.Context(), reference.Dir("llama_a"), models.Options{
			Quantization: &quant.BitsAndBytesConfig{LoadIn4Bit: true, BNB4BitQuantType: quant.NF4}, ComputeDType: compute, Logger: silent,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer model.Close()
		tuned, err := peft.GetPeftModel(model, peft.LoraConfig{R: 8, LoraAlpha: 16, TargetModules: peft.AllLinear})
		if err != nil {
			t.Fatal(err)
		}
		defer tuned.Close()
		tok, err := tokenizer.FromPretrained(filepath.Join("testdata", "tokenizer"))
		if err != nil {
			t.Fatal(err)
		}
		trainer, err := sft.NewSFTTrainer(tuned, tok, rows, sft.SFTConfig{
			OutputDir: t.TempDir(), MaxSteps: 60, LearningRate: 5e-3, LoggingSteps: 1, Logger: silent, DisableTQDM: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		report, err := trainer.Train(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range report.LogHistory {
			if loss, ok := line.Get("loss"); ok {
				losses[compute] = append(losses[compute], loss)
			}
		}
	}
	want := losses[models.Float32]
	for compute, limit := range map[models.DType]float64{models.BFloat16: 0.01, models.Float8E4M3: 0.03} {
		var diff, norm, drift float64
		for i, loss := range losses[compute] {
			diff, norm, drift = diff+(loss-want[i])*(loss-want[i]), norm+want[i]*want[i], drift+loss-want[i]
		}
		n := len(want)
		t.Logf("%s: losses from %.4f to %.4f (float32: %.4f to %.4f), ‖Δ‖/‖·‖ %.2g, mean drift %.2g", compute, losses[compute][0], losses[compute][n-1], want[0], want[n-1], math.Sqrt(diff/norm), drift/float64(n))
		if e := math.Sqrt(diff / norm); !(e <= limit) || want[n-1] > 0.9*want[0] {
			t.Errorf("%s: losses differ by %.2g from those in float32, want at most %g, of a run that learns", compute, e, limit)
		}
	}
}
