package training_test

import (
	"math"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/training"
)

// Values and gradients, against float64.
func TestLossesAndTheirGradients(t *testing.T) {
	const n, vocab, f = 7, 13, 0.15
	logits := reference.Normal(1, n*vocab, 2)
	labels := []int32{3, 12, -100, 0, 5, 5, 11}
	d, err := backend.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, c := range []struct {
		loss *training.Loss
		// of one label: its loss, and the gradient of logit v, from its probabilities p and -log p of the label
		value func(p []float64, nll float64) float64
		slope func(p []float64, label, v int) float64
	}{
		{training.DFT(), func(p []float64, nll float64) float64 { return math.Exp(-nll) * nll },
			func(p []float64, label, v int) float64 { return p[label] * (p[v] - one(v == label)) }},
		{training.Smoothed(f), func(p []float64, nll float64) float64 {
			mean := 0.0
			for _, q := range p {
				mean -= math.Log(q) / vocab
			}
			return (1-f)*nll + f*mean
		}, func(p []float64, label, v int) float64 { return p[v] - (1-f)*one(v == label) - f/vocab }},
	} {
		x := tensors.FromFlatDataAndDimensions(logits, n, vocab)
		exec, err := NewExec(d.Backend, func(logits, labels *Node) []*Node {
			per := c.loss.PerLabel(logits, labels)
			return append([]*Node{per}, Gradient(ReduceAllSum(per), logits)...)
		})
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Call(x, labels)
		if err != nil {
			t.Fatal(err)
		}
		values, _ := tensors.CopyFlatData[float32](out[0])
		slopes, _ := tensors.CopyFlatData[float32](out[1])
		for i, label := range labels {
			if label < 0 {
				if v := float64(values[i]); math.IsNaN(v) || math.IsInf(v, 0) {
					t.Errorf("%s: without a label %v", c.loss.Name, v)
				}
				continue
			}
			p := softmax(logits[i*vocab:][:vocab])
			if want := c.value(p, -math.Log(p[label])); math.Abs(float64(values[i])-want) > 2e-6*max(1, want) {
				t.Errorf("%s, label %d: %v, want %v", c.loss.Name, i, values[i], want)
			}
			for v := range p {
				if got, want := float64(slopes[i*vocab+v]), c.slope(p, int(label), v); math.Abs(got-want) > 1e-6 {
					t.Errorf("%s, gradient %d, %d: %v, want %v", c.loss.Name, i, v, got, want)
				}
			}
		}
	}
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func softmax(x []float32) []float64 {
	p, z := make([]float64, len(x)), 0.0
	for i, v := range x {
		p[i] = math.Exp(float64(v))
		z += p[i]
	}
	for i := range p {
		p[i] /= z
	}
	return p
}
