package sft

import (
	"cmp"
	"slices"

	"github.com/loris-ml/loris/internal/pyrandom"
)

// shuffled returns a list in the order in which datasets' shuffle(seed=seed) has it.
func shuffled[T any](list []T, seed int64) []T {
	out := make([]T, len(list))
	for i, n := range pyrandom.NewNumPy(seed).Permutation(len(list)) {
		out[i] = list[n]
	}
	return out
}

// order is the sequence in which an epoch visits the rows; it depends on seeds and the epoch alone. The random one is that of
// accelerate's SeedableRandomSampler, which DataSeed seeds. Lengths are grouped in the order that torch's global generator gives
// as Seed leaves it, if nothing but the epochs draws from it: in TRL, evaluations and dropout do.
func (d *dataset) order(c SFTConfig, epoch int) []int {
	order := make([]int, len(d.rows))
	for i := range order {
		order[i] = i
	}
	if c.TrainSamplingStrategy == Sequential {
		return order
	}
	if c.TrainSamplingStrategy == Random {
		return pyrandom.RandPerm(c.DataSeed+int64(epoch), len(d.rows))
	}
	for generator := pyrandom.NewTorch(c.Seed); epoch >= 0; epoch-- {
		generator.Int63()
		order = generator.RandPerm(len(d.rows))
	}
	d.groupByLength(order, c.PerDeviceTrainBatchSize*c.GradientAccumulationSteps)
	return order
}

// groupByLength sorts stretches of the order by length, longest first, and puts the longest row of all at the start,
// so that running out of memory happens at once (transformers.trainer_pt_utils.get_length_grouped_indices).
func (d *dataset) groupByLength(order []int, batch int) {
	stretch := batch * max(1, min(len(order)/(batch*4), 50))
	longest := 0
	for at := 0; at < len(order); at += stretch {
		part := order[at:min(at+stretch, len(order))]
		slices.SortStableFunc(part, func(a, b int) int { return cmp.Compare(d.rows[b].length(), d.rows[a].length()) })
		if d.rows[part[0]].length() > d.rows[order[longest]].length() {
			longest = at
		}
	}
	order[0], order[longest] = order[longest], order[0]
}
