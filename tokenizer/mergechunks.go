package tokenizer

import (
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
	out := s[:0]
	var chunk, window []token
	for lo := 0; lo < len(symbols); lo += size {
		chunk = append(chunk[:0], symbols[lo:min(lo+size, len(symbols))]...)
		chunk = chunk[:t.applyWhole(chunk)]
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

// symbolAt returns the index of the first symbol that begins at or after a byte.
func symbolAt(symbols []token, at int32) int {
	return sort.Search(len(symbols), func(i int) bool { return symbols[i].lo >= at })
}
