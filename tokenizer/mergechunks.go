package tokenizer

import (
	"context"
	"slices"
	"sort"
)

// chunkSymbols is the length of the chunks in which longer words are merged: what one needs stays in the cache.
const chunkSymbols = 1 << 10

// maxJoined is the number of tokens on either side of a boundary that are merged anew before the word is merged as a whole.
const maxJoined = 64

// applyChunks merges chunks of a word by themselves and then what lies around their boundaries.
//
// That is exact: merges inside tokens next to each other do not depend on what is farther away, so a list of tokens is what its
// symbols are merged to if that is so for every two neighbours. Around a boundary, k tokens on either side are merged anew from
// their symbols. If the first and the last of them come out as they were, so do their outer neighbours.
func (t *mergeTable) applyChunks(s []token, size int) int {
	symbols := slices.Clone(s)
	merged := t.mergeEach(s, size)
	out := s[:0]
	var chunk, window []token
	for i, lo := 0, 0; lo < len(symbols); i, lo = i+1, lo+size {
		chunk = append(chunk[:0], s[lo:lo+int(merged[i])]...)
		k, joined := 1, lo == 0
		for ; !joined && k <= min(maxJoined, len(out), len(chunk)); k *= 2 {
			first, last := out[len(out)-k], chunk[k-1]
			window = append(window[:0], symbols[symbolAt(symbols, first.lo):symbolAt(symbols, last.hi)]...)
			window = window[:t.applyWhole(window)]
			if window[0] == first && window[len(window)-1] == last {
				out = append(out[:len(out)-k], window...)
				chunk = chunk[k:]
				joined = true
			}
		}
		if !joined {
			return t.applyWhole(s[:copy(s[:len(symbols)], symbols)])
		}
		out = append(out, chunk...)
	}
	return len(out)
}

// mergeEach merges every chunk by itself, in its place, and returns how many symbols are left of each. Very long words are
// merged on all cores.
func (t *mergeTable) mergeEach(s []token, size int) (left []int32) {
	left = make([]int32, (len(s)+size-1)/size)
	one := func(i int) error {
		left[i] = int32(t.applyWhole(s[i*size : min((i+1)*size, len(s))]))
		return nil
	}
	if len(left) < manyChunks {
		for i := range left {
			one(i)
		}
		return left
	}
	forEach(context.Background(), len(left), one) // which has no error
	return left
}

// manyChunks is how many chunks are worth the work of several goroutines.
const manyChunks = 256

// symbolAt returns the index of the first symbol that begins at or after a byte.
func symbolAt(symbols []token, at int32) int {
	return sort.Search(len(symbols), func(i int) bool { return symbols[i].lo >= at })
}
