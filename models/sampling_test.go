package models

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"
)

func TestProcessedProbabilitiesEqualTransformers(t *testing.T) {
	data, err := os.ReadFile("testdata/sampling.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []struct {
			Settings struct {
				Temperature       float64 `json:"temperature"`
				TopK              int     `json:"top_k"`
				TopP              float64 `json:"top_p"`
				MinP              float64 `json:"min_p"`
				RepetitionPenalty float64 `json:"repetition_penalty"`
			}
			Seen          []int
			Logits        []float32
			Probabilities []float64
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Cases) == 0 {
		t.Fatal("no cases")
	}
	for i, c := range file.Cases {
		s := c.Settings
		t.Run(fmt.Sprintf("%d: vocabulary of %d, %+v", i, len(c.Logits), s), func(t *testing.T) {
			config := GenerationConfig{DoSample: true, Temperature: s.Temperature, TopK: s.TopK, TopP: s.TopP, MinP: s.MinP, RepetitionPenalty: s.RepetitionPenalty}
			if err := config.Validate(); err != nil {
				t.Fatal(err)
			}
			weights, total := softWeights(config.process(c.Logits, c.Seen))
			var off, norm float64
			for id, want := range c.Probabilities {
				got := weights[id] / total
				if (got == 0) != (want == 0) {
					t.Errorf("token %d: probability %v, transformers has %v", id, got, want)
				}
				off, norm = off+(got-want)*(got-want), norm+want*want
			}
			if e := math.Sqrt(off / norm); e > 1e-6 {
				t.Errorf("probabilities are off by %.2g, want at most 1e-6", e)
			}
		})
	}
}

func TestDrawnTokensFollowTheProcessedProbabilities(t *testing.T) {
	c := GenerationConfig{DoSample: true, TopK: 3}
	logits := []float32{2, -1, 1, 0, 1.5}
	weights, total := softWeights(c.process(logits, nil))
	draw := func() (counts [5]int) {
		random := rand.New(rand.NewPCG(3, 0))
		for range 20000 {
			counts[c.choose(logits, nil, random)]++
		}
		return counts
	}
	counts := draw()
	for id, n := range counts {
		if got, want := float64(n)/20000, weights[id]/total; math.Abs(got-want) > 0.015 {
			t.Errorf("token %d was drawn with frequency %.3f, want %.3f", id, got, want)
		}
	}
	if again := draw(); again != counts {
		t.Errorf("the same seed drew %v, then %v", counts, again)
	}
}

func TestRepetitionPenaltyChangesTheGreedyToken(t *testing.T) {
	c := GenerationConfig{RepetitionPenalty: 2}
	if got := c.choose([]float32{1, 3, 2}, []int{1, 1}, nil); got != 2 {
		t.Errorf("chose token %d, want 2: token 1 scores 3/2, once though seen twice", got)
	}
}
