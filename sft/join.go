package sft

import (
	"slices"

	"github.com/loris-ml/loris/internal/training"
)

// joined are a step's micro-batches, neighbours of one shape as one larger batch where the session says that it fits: the
// summed gradients are the same, and weights are decoded once for all of them. What is logged is that of the micro-batches.
func joined(session Session, batches []microBatch) []microBatch {
	j, ok := session.(training.Joiner)
	if !ok || len(batches) < 2 {
		return batches
	}
	var all []microBatch
	for len(batches) > 0 {
		alike := 1
		for alike < len(batches) && sameForm(batches[0].Batch, batches[alike].Batch) {
			alike++
		}
		n := alike
		for n > 1 && (alike%n != 0 || !j.FitsWhole(n*batches[0].Rows, batches[0].Length)) {
			n--
		}
		for range alike / n {
			all = append(all, join(batches[:n]))
			batches = batches[n:]
		}
	}
	return all
}

// sameForm tells whether two batches can lie one below the other.
func sameForm(a, b *Batch) bool {
	return a.Rows == b.Rows && a.Length == b.Length && (a.Positions == nil) == (b.Positions == nil) &&
		(a.Segments == nil) == (b.Segments == nil) && (a.FirstLabels == nil) == (b.FirstLabels == nil)
}

// join is one batch of all rows.
func join(batches []microBatch) microBatch {
	if len(batches) == 1 {
		return batches[0]
	}
	all := microBatch{Batch: &Batch{Length: batches[0].Length}}
	for _, b := range batches {
		all.Rows += b.Rows
		all.IDs, all.Labels = append(all.IDs, b.IDs...), append(all.Labels, b.Labels...)
		all.Positions, all.Segments = append(all.Positions, b.Positions...), append(all.Segments, b.Segments...)
		all.FirstLabels, all.RowSeeds = append(all.FirstLabels, b.FirstLabels...), append(all.RowSeeds, rowSeeds(b.Batch)...)
		all.NumLabels, all.NumTokens = all.NumLabels+b.NumLabels, all.NumTokens+b.NumTokens
		all.Joined, all.numbers = append(all.Joined, b.Rows), slices.Concat(all.numbers, b.numbers)
	}
	return all
}

// rowSeeds are a batch's, spelled out: a row's random stream does not depend on how batches are joined.
func rowSeeds(b *Batch) []uint64 {
	if b.RowSeeds != nil {
		return b.RowSeeds
	}
	seeds := make([]uint64, b.Rows)
	for i := range seeds {
		seeds[i] = uint64(i)
	}
	return seeds
}
