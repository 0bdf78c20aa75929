// Package reference gives tests the numbers that transformers, peft and bitsandbytes computed; README.md says which.
package reference

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/loris-ml/loris/internal/safetensors"
)

// Llamas are the names of the tiny Llama fixtures.
var Llamas = []string{"llama_a", "llama_b", "llama_c"}

// Steps are the losses and gradient norms of consecutive optimizer steps.
type Steps struct {
	Loss      []float64 `json:"loss"`
	GradNorm  []float64 `json:"grad_norm"`
	FinalLoss float64   `json:"final_loss"`
}

// Optimizer are AdamW's settings.
type Optimizer struct {
	LR          float64    `json:"lr"`
	Betas       [2]float64 `json:"betas"`
	Eps         float64    `json:"eps"`
	WeightDecay float64    `json:"weight_decay"`
}

// Llama is one of the tiny Llama fixtures.
type Llama struct {
	Dir           string
	InputIDs      [][][]int `json:"input_ids"`      // [4][2][seq]: four batches of two rows
	AttentionMask [][][]int `json:"attention_mask"` // row 1 is padded on the right
	Labels        [][][]int `json:"labels"`         // -100 where nothing is predicted
	LabelTokens   []int     `json:"label_tokens"`   // what each batch's summed loss is divided by
	Optimizer     struct {
		Lora        Optimizer `json:"lora"`
		Full        Optimizer `json:"full"`
		MaxGradNorm float64   `json:"max_grad_norm"`
	} `json:"optimizer"`
	Scaling map[string]float64 `json:"scaling"`
	Lora    struct {
		BaseLoss  float64          `json:"base_loss"`
		TunedLoss float64          `json:"tuned_loss"`
		GradNorm  float64          `json:"grad_norm"`
		Steps     map[string]Steps `json:"steps"` // "fp32", "fp64", "bf16_autocast", "bf16_model"
	} `json:"lora"`
	Full struct { // llama_a only
		Loss  float64          `json:"loss"`
		Steps map[string]Steps `json:"steps"`
	} `json:"full"`
	NF4 struct { // llama_a only
		BaseLoss  float64          `json:"base_loss"`
		TunedLoss float64          `json:"tuned_loss"`
		Steps     map[string]Steps `json:"steps"`
	} `json:"nf4"`

	file *safetensors.File
}

// Dir is the folder of a fixture.
func Dir(name string) string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "testdata", name)
}

// LoadLlama reads a fixture.
func LoadLlama(t testing.TB, name string) *Llama {
	t.Helper()
	l := &Llama{Dir: Dir(name)}
	raw, err := os.ReadFile(filepath.Join(l.Dir, "reference.json"))
	if err == nil {
		err = json.Unmarshal(raw, l)
	}
	if err == nil {
		l.file, err = safetensors.Open(filepath.Join(l.Dir, "reference.safetensors"))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.file.Close() })
	return l
}

// AdapterDir is the adapter's folder, as PEFT wrote it.
func (l *Llama) AdapterDir() string { return filepath.Join(l.Dir, "adapter") }

// Tensor returns the float32 values of a tensor of reference.safetensors.
func (l *Llama) Tensor(t testing.TB, name string) []float32 {
	t.Helper()
	values, err := l.file.Float32(name)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// Visible returns the values of logits [rows][length][vocab] at the unpadded positions of batch i, and the same of
// want, which is flat.
func (l *Llama) Visible(i int, logits [][][]float32, want []float32) (got, ref []float32) {
	for r, row := range logits {
		for c, v := range row {
			if l.AttentionMask[i][r][c] == 1 {
				got = append(got, v...)
				at := (r*len(row) + c) * len(v)
				ref = append(ref, want[at:at+len(v)]...)
			}
		}
	}
	return got, ref
}

// RelativeError is ‖a-b‖/‖b‖; infinite when the lengths differ or a value is not finite.
func RelativeError(a, b []float32) float64 {
	if len(a) != len(b) || len(a) == 0 {
		return math.Inf(1)
	}
	var diff, norm float64
	for i := range a {
		d := float64(a[i]) - float64(b[i])
		diff += d * d
		norm += float64(b[i]) * float64(b[i])
	}
	if e := math.Sqrt(diff / norm); !math.IsNaN(e) {
		return e
	}
	return math.Inf(1)
}
