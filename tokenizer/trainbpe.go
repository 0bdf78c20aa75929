package tokenizer

import (
	"cmp"
	"container/heap"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// bpeTrainer learns merges. It follows the reference to the letter, also where that is odd: the count of a pair that has been
// merged is left as it is, and a pair that comes up again, made of the same tokens in another way, is merged once more.
type bpeTrainer struct {
	c      *BPEConfig
	ids    map[string]int32
	tokens []string
	words  []trainWord
	pairs  map[pair]int64   // how often
	places map[pair][]int32 // words in which a pair is new since pairs were last queued
	queue  pairQueue
	merges []pair // in the order in which they were learned
}

type pair struct{ left, right int32 }

type trainWord struct {
	symbols []trainSymbol
	count   int64
}

// trainSymbol is a token with its length in characters.
type trainSymbol struct{ id, length int32 }

// queuedPair is a pair with its count when it was queued.
type queuedPair struct {
	pair
	count uint64
	words []int32 // where to merge it, ascending
}

// pairQueue is a heap: the most frequent pair first, of equal ones the lower ids.
type pairQueue []queuedPair

func (q pairQueue) Len() int { return len(q) }

func (q pairQueue) Less(i, j int) bool {
	a, b := &q[i], &q[j]
	return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(a.left, b.left), cmp.Compare(a.right, b.right)) < 0
}

func (q pairQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *pairQueue) Push(x any)   { *q = append(*q, x.(queuedPair)) }

func (q *pairQueue) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	*q = (*q)[:last]
	return x
}

func newBPETrainer(c *BPEConfig) *bpeTrainer {
	return &bpeTrainer{c: c, ids: map[string]int32{}, pairs: map[pair]int64{}, places: map[pair][]int32{}}
}

func (t *bpeTrainer) id(token string) int32 {
	id, ok := t.ids[token]
	if !ok {
		id = int32(len(t.tokens))
		t.ids[token] = id
		t.tokens = append(t.tokens, token)
	}
	return id
}

func (t *bpeTrainer) train(counts map[string]int64) {
	for _, s := range t.c.SpecialTokens {
		t.id(s)
	}
	if t.c.ByteFallback {
		for b := range 256 {
			t.id(fmt.Sprintf("<0x%02X>", b))
		}
	}
	for _, r := range t.alphabet(counts) {
		t.id(string(r))
	}
	for _, w := range slices.Sorted(maps.Keys(counts)) {
		t.words = append(t.words, trainWord{t.symbols(w), counts[w]})
	}
	t.countPairs()
	t.enqueue()
	for len(t.tokens) < t.c.VocabSize && t.mergeNext() {
		if len(t.merges)%64 == 0 {
			t.c.progress("merge", len(t.tokens), t.c.VocabSize)
		}
	}
	t.c.progress("merge", len(t.tokens), t.c.VocabSize)
}

// alphabet returns the characters to have, in order of code points.
func (t *bpeTrainer) alphabet(counts map[string]int64) []rune {
	seen := map[rune]int64{}
	for w, n := range counts {
		for _, r := range w {
			seen[r] += n
		}
	}
	for _, r := range t.c.InitialAlphabet {
		seen[r] = math.MaxInt64
	}
	kept := slices.Collect(maps.Keys(seen))
	if limit := t.c.LimitAlphabet; limit > 0 && len(kept) > limit {
		slices.SortFunc(kept, func(a, b rune) int { return cmp.Or(cmp.Compare(seen[b], seen[a]), cmp.Compare(a, b)) })
		kept = kept[:limit]
	}
	slices.Sort(kept)
	return kept
}

// symbols spells a word; characters outside the alphabet are dropped.
func (t *bpeTrainer) symbols(word string) []trainSymbol {
	var out []trainSymbol
	for i, r := range word {
		s := string(r)
		if _, ok := t.ids[s]; !ok {
			continue
		}
		last := i+len(s) == len(word)
		if i > 0 {
			s = t.c.ContinuingSubwordPrefix + s
		}
		if last {
			s += t.c.EndOfWordSuffix
		}
		out = append(out, trainSymbol{t.id(s), 1})
	}
	return out
}

func (t *bpeTrainer) countPairs() {
	for i, w := range t.words {
		for k := 1; k < len(w.symbols); k++ {
			t.change(pair{w.symbols[k-1].id, w.symbols[k].id}, w.count, int32(i))
		}
		if i%4096 == 0 {
			t.c.progress("count pairs", i, len(t.words))
		}
	}
	t.c.progress("count pairs", len(t.words), len(t.words))
}

// change adds n, which may be negative, to the count of a pair in a word.
func (t *bpeTrainer) change(p pair, n int64, word int32) {
	t.pairs[p] += n
	if n <= 0 {
		return
	}
	if w := t.places[p]; len(w) == 0 || w[len(w)-1] != word {
		t.places[p] = append(w, word)
	}
}

// enqueue queues the pairs that have come up.
func (t *bpeTrainer) enqueue() {
	for p, words := range t.places {
		if n := t.pairs[p]; n > 0 {
			heap.Push(&t.queue, queuedPair{p, uint64(n), words})
		}
	}
	clear(t.places)
}

// mergeNext merges the most frequent pair; false when there is none left that is frequent enough.
func (t *bpeTrainer) mergeNext() bool {
	for len(t.queue) > 0 {
		top := &t.queue[0]
		if n := uint64(t.pairs[top.pair]); n != top.count { // it has become rarer, or more frequent, since
			top.count = n
			heap.Fix(&t.queue, 0)
			continue
		}
		if top.count < 1 || top.count < uint64(t.c.MinFrequency) {
			return false
		}
		next := heap.Pop(&t.queue).(queuedPair)
		id := t.id(t.tokens[next.left] + strings.TrimPrefix(t.tokens[next.right], t.c.ContinuingSubwordPrefix))
		t.merges = append(t.merges, next.pair)
		for _, w := range next.words {
			t.mergeIn(w, next.pair, id)
		}
		t.enqueue()
		return true
	}
	return false
}

// mergeIn merges a pair in one word and counts what becomes of its neighbours.
func (t *bpeTrainer) mergeIn(word int32, p pair, id int32) {
	w := &t.words[word]
	s := w.symbols
	n := 0 // symbols written
	for i := 0; i < len(s); i++ {
		if i+1 == len(s) || s[i].id != p.left || s[i+1].id != p.right {
			s[n] = s[i]
			n++
			continue
		}
		joined := trainSymbol{id, s[i].length + s[i+1].length}
		if n > 0 {
			t.change(pair{s[n-1].id, p.left}, -w.count, word)
			if t.fits(s[n-1], joined) {
				t.change(pair{s[n-1].id, id}, w.count, word)
			}
		}
		if i+2 < len(s) {
			t.change(pair{p.right, s[i+2].id}, -w.count, word)
			if t.fits(joined, s[i+2]) {
				t.change(pair{id, s[i+2].id}, w.count, word)
			}
		}
		s[n] = joined
		n++
		i++
	}
	w.symbols = s[:n]
}

func (t *bpeTrainer) fits(a, b trainSymbol) bool {
	return t.c.MaxTokenLength == 0 || int(a.length)+int(b.length) < t.c.MaxTokenLength
}

// mergedPairs returns the merges by rank; one that was learned again has its last rank, as in the reference.
func (t *bpeTrainer) mergedPairs() [][2]string {
	last := make(map[pair]int, len(t.merges))
	for rank, p := range t.merges {
		last[p] = rank
	}
	out := [][2]string{}
	for rank, p := range t.merges {
		if last[p] == rank {
			out = append(out, [2]string{t.tokens[p.left], t.tokens[p.right]})
		}
	}
	return out
}
