package sft

import (
	"cmp"
	"math/bits"
	"math/rand/v2"
	"slices"

	"github.com/loris-ml/loris/internal/pyrandom"
)

// streamEpoch is the stream of a seed that orders the rows of an epoch.
const streamEpoch = 1

// stream draws permutations. PCG's output is fixed by its definition and the rest is written out here, so that a
// checkpoint resumes in the same order whatever the Go release. torch's permutations of the same seed are others.
type stream struct{ pcg *rand.PCG }

func newStream(seed int64, kind, number uint64) stream {
	return stream{rand.NewPCG(uint64(seed), kind<<48|number)}
}

// below returns a number in [0, n); the bias is n/2⁶⁴.
func (s stream) below(n int) int {
	high, _ := bits.Mul64(s.pcg.Uint64(), uint64(n))
	return int(high)
}

// permute shuffles in place (Fisher and Yates).
func permute[T any](list []T, s stream) {
	for i := len(list) - 1; i > 0; i-- {
		j := s.below(i + 1)
		list[i], list[j] = list[j], list[i]
	}
}

// shuffled returns a list in the order in which datasets' shuffle(seed=seed) has it.
func shuffled[T any](list []T, seed int64) []T {
	out := make([]T, len(list))
	for i, n := range pyrandom.NewNumPy(seed).Permutation(len(list)) {
		out[i] = list[n]
	}
	return out
}

// order is the sequence in which an epoch visits the rows; it depends on DataSeed and the epoch alone. The random one is that
// of accelerate's SeedableRandomSampler, so TRL visits the rows in the same order.
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
	permute(order, newStream(c.DataSeed, streamEpoch, uint64(epoch)))
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
