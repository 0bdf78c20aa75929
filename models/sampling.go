package models

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

// choose picks the token after seen, the prompt and what was generated so far, from its logits [vocab]: the likeliest,
// or one drawn with DoSample.
func (c GenerationConfig) choose(logits []float32, seen []int, random *rand.Rand) int {
	if c.plain() {
		return likeliest(logits)
	}
	scores := c.process(logits, seen)
	best := likeliest(scores)
	if !c.DoSample {
		return best
	}
	weights, total := softWeights(scores)
	at := random.Float64() * total
	for i, w := range weights {
		if at -= w; at < 0 {
			return i
		}
	}
	return best // rounding left a remainder
}

// plain tells whether the likeliest token is taken, as the model's logits have it.
func (c GenerationConfig) plain() bool { return !c.DoSample && cmp.Or(c.RepetitionPenalty, 1) == 1 }

// likeliest is the first of the largest scores.
func likeliest[T cmp.Ordered](scores []T) (best int) {
	for i, v := range scores {
		if v > scores[best] {
			best = i
		}
	}
	return best
}

// process applies what transformers' generate applies to logits [vocab], in its order: repetition penalty, then, with
// DoSample, temperature, top-k, top-p and min-p. Tokens left out score -Inf. logits stay as they are.
func (c GenerationConfig) process(logits []float32, seen []int) []float64 {
	scores := make([]float64, len(logits))
	for i, v := range logits {
		scores[i] = float64(v)
	}
	if p := cmp.Or(c.RepetitionPenalty, 1); p != 1 {
		penalizeRepetition(scores, logits, seen, p)
	}
	if !c.DoSample {
		return scores
	}
	for i := range scores {
		scores[i] /= cmp.Or(c.Temperature, 1)
	}
	if c.TopK > 0 {
		keepTopK(scores, c.TopK)
	}
	if p := cmp.Or(c.TopP, 1); p < 1 {
		keepTopP(scores, p)
	}
	if c.MinP > 0 {
		keepMinP(scores, c.MinP)
	}
	return scores
}

// penalizeRepetition makes every token of seen less likely, once however often it occurs (arXiv:1909.05858).
func penalizeRepetition(scores []float64, logits []float32, seen []int, penalty float64) {
	for _, id := range seen {
		if v := float64(logits[id]); v < 0 {
			scores[id] = v * penalty
		} else {
			scores[id] = v / penalty
		}
	}
}

// keepTopK leaves the k likeliest tokens, and those that tie with the last of them.
func keepTopK(scores []float64, k int) {
	if k >= len(scores) {
		return
	}
	least := slices.Sorted(slices.Values(scores))[len(scores)-k]
	for i, v := range scores {
		if v < least {
			scores[i] = math.Inf(-1)
		}
	}
}

// keepTopP leaves the nucleus, the fewest likeliest tokens whose probabilities reach p (arXiv:1904.09751).
func keepTopP(scores []float64, p float64) {
	weights, total := softWeights(scores)
	var order []int
	for i, w := range weights {
		if w > 0 {
			order = append(order, i)
		} else { // not worth sorting; after top-k that is nearly all
			scores[i] = math.Inf(-1)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(weights[a], weights[b]) })
	sum := 0.0
	for _, id := range order[:len(order)-1] {
		if sum += weights[id]; sum > (1-p)*total {
			return
		}
		scores[id] = math.Inf(-1)
	}
}

// keepMinP leaves the tokens that are at least p times as likely as the likeliest (arXiv:2407.01082).
func keepMinP(scores []float64, p float64) {
	weights, _ := softWeights(scores)
	for i, w := range weights {
		if w < p { // the likeliest weighs 1
			scores[i] = math.Inf(-1)
		}
	}
}

// softWeights returns the softmax of scores as weights, 1 for the likeliest, and their sum.
func softWeights(scores []float64) (weights []float64, total float64) {
	top := slices.Max(scores)
	weights = make([]float64, len(scores))
	for i, v := range scores {
		weights[i] = math.Exp(v - top)
		total += weights[i]
	}
	return weights, total
}
