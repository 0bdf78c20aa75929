package reference

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/safetensors"
)

func TestLlamaFixturesAreWhole(t *testing.T) {
	for _, name := range Llamas {
		t.Run(name, func(t *testing.T) {
			l := LoadLlama(t, name)
			adapter, err := safetensors.Open(filepath.Join(l.Dir, "adapter", "adapter_model.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			defer adapter.Close()
			names := slices.Sorted(slices.Values(adapter.Names()))
			if len(names) != 2*len(l.Scaling) {
				t.Errorf("%d adapter tensors for %d scalings", len(names), len(l.Scaling))
			}
			for _, prefix := range []string{"grad.", "final.fp32.", "final.bf16_autocast.", "final.bf16_model."} {
				if got := slices.Sorted(slices.Values(keys(l, prefix))); !slices.Equal(got, names) {
					t.Errorf("%s has %d keys that are not the adapter's %d", prefix, len(got), len(names))
				}
			}
			info, _ := l.file.Info("tuned.logits")
			if len(info.Shape) != 3 || info.Shape[0] != 2 || info.Shape[1] != len(l.InputIDs[0][0]) {
				t.Fatalf("logits are %v for ids of [2][%d]", info.Shape, len(l.InputIDs[0][0]))
			}
			loss := crossEntropy(l.Tensor(t, "tuned.logits"), info.Shape[2], l.Labels[0], l.LabelTokens[0])
			if math.Abs(loss-l.Lora.TunedLoss) > 1e-6*loss {
				t.Errorf("loss of the stored logits is %v, stored is %v", loss, l.Lora.TunedLoss)
			}
			for run, curve := range l.Lora.Steps {
				if len(curve.Loss) != 20 || len(curve.GradNorm) != 20 || !(curve.FinalLoss < curve.Loss[0]) {
					t.Errorf("%s is not a curve of 20 falling steps", run)
				}
			}
			if l.Lora.Steps["fp32"].Loss[0] != l.Lora.TunedLoss || l.Lora.Steps["fp32"].GradNorm[0] == 0 {
				t.Error("the float32 curve does not start at the tuned loss")
			}
		})
	}
}

// crossEntropy is the README's loss, in float64.
func crossEntropy(logits []float32, vocab int, labels [][]int, count int) float64 {
	var sum float64
	seen := 0
	for b, row := range labels {
		for s, label := range row[1:] {
			if label == -100 {
				continue
			}
			at := logits[(b*len(row)+s)*vocab:][:vocab]
			var z float64
			for _, v := range at {
				z += math.Exp(float64(v))
			}
			sum += math.Log(z) - float64(at[label])
			seen++
		}
	}
	if seen != count {
		return math.NaN()
	}
	return sum / float64(count)
}

func TestLlamaAHasAGradientForEveryWeight(t *testing.T) {
	a := LoadLlama(t, "llama_a")
	base, err := safetensors.OpenDir(a.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	if got, want := slices.Sorted(slices.Values(keys(a, "full.grad."))), slices.Sorted(slices.Values(base.Names())); !slices.Equal(got, want) {
		t.Errorf("full gradients of %v for weights %v", got, want)
	}
	if len(a.Full.Steps["fp32"].Loss) != 5 || len(a.NF4.Steps["fp32"].Loss) != 20 {
		t.Error("llama_a lacks its full or its NF4 curve")
	}
}

// keys are the names of reference.safetensors that begin with prefix, without it.
func keys(l *Llama, prefix string) []string {
	var names []string
	for _, name := range l.file.Names() {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			names = append(names, rest)
		}
	}
	return names
}

func TestInitialAIsTheReferenceScripts(t *testing.T) {
	l := LoadSmolLM2(t).LoRA
	for module, key := range map[int]string{0: "0", 6: "6", 209: "209"} {
		width := 576
		if module%7 == 6 {
			width = 1536
		}
		got, want := InitialA(module, l.R, width), l.InitialAFirstValues[key]
		if len(want) == 0 || len(got) != l.R*width || !slices.Equal(got[:len(want)], want) {
			t.Errorf("linear %d is %v..., the script's %v...", module, got[:min(4, len(got))], want)
		}
	}
}

func TestSmolLM2CurvesFitTheirRows(t *testing.T) {
	l := LoadSmolLM2(t).LoRA
	steps := (l.TrainRows[1] - l.TrainRows[0]) / l.BatchSize * l.Epochs
	for _, run := range []string{"fp32", "nf4"} {
		r := l.Runs[run]
		if len(r.Loss) != steps || len(r.GradNorm) != steps || len(r.FinalBNorm) != 210 {
			t.Fatalf("%s has %d steps, want %d", run, len(r.Loss), steps)
		}
		if !(r.HeldOutLossAfter < r.HeldOutLossBefore) {
			t.Errorf("%s: held-out loss went from %v to %v", run, r.HeldOutLossBefore, r.HeldOutLossAfter)
		}
		tokens := 0
		for _, row := range l.Rows[:l.BatchSize] {
			tokens += len(row) - 1
		}
		if r.LabelTokens[0] != tokens {
			t.Errorf("%s: step 0 counted %d tokens, its rows have %d", run, r.LabelTokens[0], tokens)
		}
	}
}
