package tokenizer

import (
	"math"
	"math/bits"
	"sync"
)

// mergeRule says that a pair becomes symbol id; the pair with the lowest rank is merged first.
type mergeRule struct{ rank, id int32 }

// mergeTable maps pairs of symbols to rules: open addressing in one array, at most two thirds full. Most pairs that a word
// asks for have no rule: a bit for each of a few hash values, small enough to stay in the cache, answers for nearly all of them.
type mergeTable struct {
	slots []mergeSlot
	shift uint

	present      []uint64 // bit h is set when a rule hashes to h
	presentShift uint
}

type mergeSlot struct {
	left, right int32 // left -1: free
	mergeRule
}

var noRule = mergeRule{math.MaxInt32, -1}

func newMergeTable(n int) mergeTable {
	size := bits.Len(uint(n + n/2))
	t := mergeTable{slots: make([]mergeSlot, 1<<size), shift: uint(64 - size)}
	for i := range t.slots {
		t.slots[i].left = -1
	}
	size = max(bits.Len(uint(8*n)), 6)
	t.present, t.presentShift = make([]uint64, 1<<(size-6)), uint(64-size)
	return t
}

func pairHash(left, right int32) uint64 {
	return (uint64(uint32(left))<<32 | uint64(uint32(right))) * 0x9e3779b97f4a7c15
}

// find returns the slot of a pair, or the free slot where it belongs.
func (t *mergeTable) find(hash uint64, left, right int32) *mergeSlot {
	for i := hash >> t.shift; ; i = (i + 1) & uint64(len(t.slots)-1) {
		s := &t.slots[i]
		if s.left < 0 || s.left == left && s.right == right {
			return s
		}
	}
}

func (t *mergeTable) put(left, right int32, r mergeRule) {
	h := pairHash(left, right)
	*t.find(h, left, right) = mergeSlot{left, right, r}
	h >>= t.presentShift
	t.present[h>>6] |= 1 << (h & 63)
}

func (t *mergeTable) rule(left, right int32) mergeRule {
	h := pairHash(left, right)
	if b := h >> t.presentShift; t.present[b>>6]>>(b&63)&1 == 0 {
		return noRule
	}
	if s := t.find(h, left, right); s.left >= 0 {
		return s.mergeRule
	}
	return noRule
}

// shortWord is the length up to which looking at every pair again beats a heap.
const shortWord = 32

// apply merges symbols in place and returns how many are left.
func (t *mergeTable) apply(symbols []token) int {
	if len(symbols) < 2 {
		return len(symbols)
	}
	if len(symbols) > 2*chunkSymbols {
		return t.applyChunks(symbols, chunkSymbols)
	}
	return t.applyWhole(symbols)
}

func (t *mergeTable) applyWhole(symbols []token) int {
	if len(symbols) <= shortWord {
		return t.applyShort(symbols)
	}
	return t.applyLong(symbols)
}

func (t *mergeTable) applyShort(s []token) int {
	var buffer [shortWord]mergeRule
	rules := buffer[:len(s)-1] // rules[i] is for the pair at i
	for i := range rules {
		rules[i] = t.rule(s[i].id, s[i+1].id)
	}
	for len(rules) > 0 {
		best := 0
		for i := range rules {
			if rules[i].rank < rules[best].rank {
				best = i
			}
		}
		if rules[best].id < 0 {
			break
		}
		s[best] = token{rules[best].id, s[best].lo, s[best+1].hi}
		copy(s[best+1:], s[best+2:])
		s = s[:len(s)-1]
		copy(rules[best:], rules[best+1:])
		rules = rules[:len(rules)-1]
		if best < len(rules) {
			rules[best] = t.rule(s[best].id, s[best+1].id)
		}
		if best > 0 {
			rules[best-1] = t.rule(s[best-1].id, s[best].id)
		}
	}
	return len(s)
}

// candidate is a possible merge of the symbol at a position with the one after it: rank<<32 | position, so that the smallest
// is merged first, the leftmost of equal ones.
type candidate uint64

// mergeList is a word as a linked list of symbols and the merges that wait for their turn: n log n for n symbols, whatever they are.
type mergeList struct {
	table   *mergeTable
	symbols []token
	links   []mergeLink
	waiting candidates
}

type mergeLink struct {
	prev, next int32     // -1 at the ends
	rule       mergeRule // of the pair that begins here
}

var mergeLists = sync.Pool{New: func() any { return new(mergeList) }}

// maxKept is the number of symbols up to which the memory for a word is kept for the next one.
const maxKept = 1 << 12

func (t *mergeTable) applyLong(s []token) int {
	l := mergeLists.Get().(*mergeList)
	n := len(s)
	if cap(l.links) < n {
		l.links = make([]mergeLink, n)
	}
	l.table, l.symbols, l.links = t, s, l.links[:n]
	l.waiting.reset()
	n = l.merge()
	l.table, l.symbols = nil, nil
	if cap(l.links) <= maxKept {
		mergeLists.Put(l)
	}
	return n
}

func (l *mergeList) merge() int {
	s, links := l.symbols, l.links
	for i := range links {
		links[i].prev, links[i].next = int32(i-1), int32(i+1)
	}
	links[len(s)-1].next = -1
	for i := range links {
		l.offer(int32(i))
	}
	for c, ok := l.waiting.pop(); ok; c, ok = l.waiting.pop() {
		i := int32(uint32(c))
		link := &links[i]
		if link.rule.rank != int32(c>>32) {
			continue // one of the two has been merged since
		}
		j := link.next
		s[i] = token{link.rule.id, s[i].lo, s[j].hi}
		link.next, links[j].rule = links[j].next, noRule
		if link.next >= 0 {
			links[link.next].prev = i
		}
		if link.prev >= 0 {
			l.offer(link.prev)
		}
		l.offer(i)
	}
	k := 0
	for i := int32(0); i >= 0; i = links[i].next {
		s[k] = s[i]
		k++
	}
	return k
}

// offer adds the merge of symbol i with the next one, if there is a rule for it.
func (l *mergeList) offer(i int32) {
	link := &l.links[i]
	link.rule = noRule
	if link.next < 0 {
		return
	}
	link.rule = l.table.rule(l.symbols[i].id, l.symbols[link.next].id)
	if link.rule.id < 0 {
		return
	}
	l.waiting.push(candidate(link.rule.rank)<<32 | candidate(i))
}

// candidates hands out the smallest entry. What comes in order waits in a queue, so that a text of one character over and over
// takes linear time; the rest is in a heap whose entries have heapWidth children, side by side in memory.
type candidates struct {
	queue []candidate
	head  int // of what is left of queue
	heap  []candidate
}

const heapWidth = 4

func (q *candidates) reset() { q.queue, q.head, q.heap = q.queue[:0], 0, q.heap[:0] }

func (q *candidates) push(c candidate) {
	if n := len(q.queue); n == 0 || q.queue[n-1] <= c {
		q.queue = append(q.queue, c)
		return
	}
	h := append(q.heap, c)
	at := len(h) - 1
	for at > 0 {
		up := (at - 1) / heapWidth
		if h[up] <= c {
			break
		}
		h[at] = h[up]
		at = up
	}
	h[at] = c
	q.heap = h
}

// pop takes the smallest; false when there is none.
func (q *candidates) pop() (candidate, bool) {
	if q.head < len(q.queue) && (len(q.heap) == 0 || q.queue[q.head] <= q.heap[0]) {
		q.head++
		return q.queue[q.head-1], true
	}
	if len(q.heap) == 0 {
		return 0, false
	}
	return q.popHeap(), true
}

func (q *candidates) popHeap() candidate {
	h := q.heap
	top, c := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	q.heap = h
	for at := 0; len(h) > 0; {
		lo := heapWidth*at + 1
		if lo >= len(h) {
			h[at] = c
			break
		}
		least, k := h[lo], lo
		for i, d := range h[lo+1 : min(lo+heapWidth, len(h))] {
			if d < least {
				least, k = d, lo+1+i
			}
		}
		if least >= c {
			h[at] = c
			break
		}
		h[at] = least
		at = k
	}
	return top
}
