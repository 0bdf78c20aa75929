package peft

import (
	"context"
	"encoding/json/v2"
	"math"
	"os"
	"path/filepath"
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

// smolLoRA has the adapters that the reference begins with.
func smolLoRA(t *testing.T, m *models.CausalLM, ref *reference.SmolLM2) *PeftModel {
	t.Helper()
	l := ref.LoRA
	var stored []AdapterWeight
	for _, lin := range m.Linears() {
		if !lin.Head {
			stored = append(stored, AdapterWeight{Path: lin.Path, R: l.R, In: lin.In, Out: lin.Out,
				A: reference.InitialA(len(stored), l.R, lin.In), B: make([]float32, lin.Out*l.R)})
		}
	}
	p := newPeftModel(m, nil)
	if err := attachLora(p, LoraConfig{R: l.R, LoraAlpha: float64(l.LoraAlpha), TargetModules: AllLinear}, stored); err != nil {
		t.Fatal(err)
	}
	return p
}

// straying is ‖curve - exact‖ / ‖exact‖.
func straying(curve, exact []float64) float64 {
	var d, n float64
	for i, want := range exact {
		d, n = d+(curve[i]-want)*(curve[i]-want), n+want*want
	}
	return math.Sqrt(d / n)
}

// In bfloat16 a hundred steps stray from float32 no farther than torch's and peft's own do, by half more at the most: on a GPU with all
// fast forms on. In float32 they are torch's. Five steps unless LORIS_TEST_LONG is set.
func TestSmolLM2InBFloat16StraysNoFartherThanPEFTs(t *testing.T) {
	backends := strings.Fields(os.Getenv("LORIS_TEST_BACKENDS"))
	if len(backends) == 0 || testing.Short() {
		t.Skip("takes minutes: set LORIS_TEST_BACKENDS to an XLA backend")
	}
	ref := reference.LoadSmolLM2(t)
	var want struct {
		Length     int `json:"length"`
		FP32, BF16 reference.LoRARun
	}
	raw, err := os.ReadFile(filepath.Join(reference.Dir("smollm2"), "bf16.json"))
	if err == nil {
		err = json.Unmarshal(raw, &want, json.MatchCaseInsensitiveNames(true))
	}
	if err != nil {
		t.Fatal(err)
	}
	steps := 5
	if os.Getenv("LORIS_TEST_LONG") != "" {
		steps = len(want.FP32.Loss)
	}
	rows := ref.LoRA.Rows[ref.LoRA.TrainRows[0]:ref.LoRA.TrainRows[1]]
	for _, dtype := range []models.DType{models.Float32, models.BFloat16} {
		m, err := models.FromPretrained(t.Context(), ref.GGUF, models.Options{Backend: backends[0], DType: dtype})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		p := smolLoRA(t, m, ref)
		defer p.Close()
		s, err := p.NewSession(training.SessionOptions{AdamBeta1: 0.9, AdamBeta2: 0.999, AdamEpsilon: 1e-8})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var loss []float64
		for i := range steps {
			row := rows[i%len(rows)]
			b := smolBatch([][]int{row[:min(len(row), want.Length)]}, ref.LoRA.PadID)
			st, err := s.MicroStep(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Apply(t.Context(), training.ApplyOptions{LearningRate: ref.LoRA.LR, NumItems: float64(b.NumLabels), MaxGradNorm: ref.LoRA.MaxGradNorm}); err != nil {
				t.Fatal(err)
			}
			loss = append(loss, st.LossSum/float64(b.NumLabels))
		}
		exact := want.FP32.Loss[:steps]
		strays, own := straying(loss, exact), straying(want.BF16.Loss[:steps], exact)
		t.Logf("%s: %d steps are %.2g from torch's in float32; torch's in bfloat16 are %.2g from them", dtype, steps, strays, own)
		if dtype == models.Float32 {
			reference.CheckCurve(t, "float32", loss, exact, 1e-3)
		} else if strays > 1.5*own {
			t.Errorf("bfloat16 strays by %v, torch's by %v", strays, own)
		}
	}
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
			p := smolLoRA(t, m, ref)
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
