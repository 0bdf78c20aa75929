package peft

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/quant"
)

// smolBatch pads rows on the right to a multiple of 64, so that few shapes are compiled; every token is a label.
func smolBatch(rows [][]int, pad int) *training.Batch {
	b := &training.Batch{Rows: len(rows)}
	for _, r := range rows {
		b.Length = max(b.Length, (len(r)+63)/64*64)
	}
	for _, r := range rows {
		for i := range b.Length {
			id, label, segment := int32(pad), int32(-100), int32(0)
			if i < len(r) {
				id, segment = int32(r[i]), 1
				b.NumTokens++
			}
			if i+1 < len(r) {
				label = int32(r[i+1])
				b.NumLabels++
			}
			b.IDs, b.Labels, b.Segments = append(b.IDs, id), append(b.Labels, label), append(b.Segments, segment)
		}
	}
	return b
}

// TestSmolLM2CurveIsPEFTs trains the real model on real rows: the loss of every step is peft's within 1e-3. It runs on
// the first of LORIS_TEST_BACKENDS only, where a step takes seconds; three steps unless LORIS_TEST_LONG is set.
func TestSmolLM2CurveIsPEFTs(t *testing.T) {
	backends := strings.Fields(os.Getenv("LORIS_TEST_BACKENDS"))
	if len(backends) == 0 || testing.Short() {
		t.Skip("takes minutes: set LORIS_TEST_BACKENDS to an XLA backend")
	}
	ref := reference.LoadSmolLM2(t)
	l := ref.LoRA
	for _, run := range []string{"fp32", "nf4"} {
		want, ok := l.Runs[run]
		if !ok {
			continue
		}
		t.Run(run, func(t *testing.T) {
			ctx := context.Background()
			o := models.Options{Backend: backends[0], DType: models.Float32}
			if run == "nf4" {
				o.Quantization = &quant.BitsAndBytesConfig{LoadIn4Bit: true, BNB4BitQuantType: quant.NF4, BNB4BitUseDoubleQuant: true}
			}
			m, err := models.FromPretrained(ctx, ref.GGUF, o)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			module := 0
			var stored []AdapterWeight
			for _, lin := range m.Linears() {
				if !lin.Head {
					stored = append(stored, AdapterWeight{Path: lin.Path, R: l.R, In: lin.In, Out: lin.Out,
						A: reference.InitialA(module, l.R, lin.In), B: make([]float32, lin.Out*l.R)})
					module++
				}
			}
			p := newPeftModel(m, nil)
			if err := attachLora(p, LoraConfig{R: l.R, LoraAlpha: float64(l.LoraAlpha), TargetModules: AllLinear}, stored); err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			s, err := p.NewSession(training.SessionOptions{AdamBeta1: 0.9, AdamBeta2: 0.999, AdamEpsilon: 1e-8})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			heldOut := func() float64 {
				sum, labels := 0.0, 0
				for at := l.HeldOutRows[0]; at < l.HeldOutRows[1]; at += l.BatchSize {
					st, err := s.Evaluate(ctx, smolBatch(l.Rows[at:min(at+l.BatchSize, l.HeldOutRows[1])], l.PadID))
					if err != nil {
						t.Fatal(err)
					}
					sum, labels = sum+st.LossSum, labels+st.Labels
				}
				return sum / float64(labels)
			}
			steps := len(want.Loss)
			long := os.Getenv("LORIS_TEST_LONG") != ""
			if !long {
				steps = 3
			} else {
				reference.CheckCurve(t, "held-out loss before", []float64{heldOut()}, []float64{want.HeldOutLossBefore}, 1e-3)
			}
			perEpoch := (l.TrainRows[1] - l.TrainRows[0]) / l.BatchSize
			var loss, norm []float64
			for i := range steps {
				at := l.TrainRows[0] + i%perEpoch*l.BatchSize
				b := smolBatch(l.Rows[at:at+l.BatchSize], l.PadID)
				st, err := s.MicroStep(ctx, b)
				if err != nil {
					t.Fatal(err)
				}
				g, err := s.Apply(ctx, training.ApplyOptions{LearningRate: l.LR, NumItems: float64(b.NumLabels), MaxGradNorm: l.MaxGradNorm})
				if err != nil {
					t.Fatal(err)
				}
				loss, norm = append(loss, st.LossSum/float64(b.NumLabels)), append(norm, g)
				t.Logf("step %d: loss %.6f (peft %.6f), gradient norm %.5f (%.5f)", i, loss[i], want.Loss[i], g, want.GradNorm[i])
			}
			reference.CheckCurve(t, "loss", loss, want.Loss[:steps], 1e-3)
			reference.CheckCurve(t, "gradient norm", norm, want.GradNorm[:steps], 1e-2)
			if long {
				after := heldOut()
				reference.CheckCurve(t, "held-out loss after", []float64{after}, []float64{want.HeldOutLossAfter}, 1e-3)
				if after >= want.HeldOutLossBefore {
					t.Errorf("held-out loss rose from %v to %v", want.HeldOutLossBefore, after)
				}
			}
		})
	}
}
