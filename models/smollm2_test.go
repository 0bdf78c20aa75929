package models

import (
	"context"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
)

// smolBackend is the fastest of the backends that are checked.
func smolBackend() string {
	if b := strings.Fields(os.Getenv("LORIS_TEST_BACKENDS")); len(b) > 0 {
		return b[0]
	}
	return ""
}

func TestSmolLM2FromGGUFScoresAndContinuesAsTransformers(t *testing.T) {
	if testing.Short() {
		t.Skip("a real model takes half a minute")
	}
	ref := reference.LoadSmolLM2(t)
	ctx := context.Background()
	m := mustLoad(t, ref.GGUF, Options{Backend: smolBackend(), DType: Float32})

	logits, err := m.Logits(ctx, [][]int{ref.Perplexity.IDs}, nil)
	if err != nil {
		t.Fatal(err)
	}
	nll := 0.0
	for i, id := range ref.Perplexity.IDs[1:] {
		nll += negativeLogLikelihood(logits[0][i], id)
	}
	got := math.Exp(nll / float64(ref.Perplexity.Count))
	if want := ref.Perplexity.Perplexity; math.Abs(got-want) > 1e-4*want {
		t.Errorf("perplexity %v, want %v within 0.01 %%", got, want)
	}

	for i, c := range ref.Chats {
		got, err := m.GenerateIDs(ctx, nil, c.IDs, GenerationConfig{MaxNewTokens: 48, EOSTokenIDs: []int{2}})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, c.GreedyIDs) {
			t.Errorf("chat %d: continued with %v, want %v (smallest margin %v)", i, got, c.GreedyIDs, c.SmallestMargin)
		}
	}
}

// negativeLogLikelihood of a token in nats.
func negativeLogLikelihood(logits []float32, id int) float64 {
	top := float64(slices.Max(logits))
	sum := 0.0
	for _, v := range logits {
		sum += math.Exp(float64(v) - top)
	}
	return top + math.Log(sum) - float64(logits[id])
}
