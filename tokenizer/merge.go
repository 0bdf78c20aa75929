package tokenizer

import (
	"math"
	"math/bits"
)

// mergeRule says that a pair becomes symbol id; the pair with the lowest rank is merged first.
type mergeRule struct{ rank, id int32 }

// mergeTable maps pairs of symbols to rules: open addressing in one array, at most half full.
type mergeTable struct {
	slots []mergeSlot
	shift uint
}

type mergeSlot struct {
	left, right int32 // left -1: free
	mergeRule
}

var noRule = mergeRule{math.MaxInt32, -1}

func newMergeTable(n int) mergeTable {
	size := bits.Len(uint(2*n + 1))
	t := mergeTable{make([]mergeSlot, 1<<size), uint(64 - size)}
	for i := range t.slots {
		t.slots[i].left = -1
	}
	return t
}

// find returns the slot of a pair, or the free slot where it belongs.
func (t *mergeTable) find(left, right int32) *mergeSlot {
	h := (uint64(uint32(left))<<32 | uint64(uint32(right))) * 0x9e3779b97f4a7c15
	for i := h >> t.shift; ; i = (i + 1) & uint64(len(t.slots)-1) {
		s := &t.slots[i]
		if s.left < 0 || s.left == left && s.right == right {
			return s
		}
	}
}

func (t *mergeTable) put(left, right int32, r mergeRule) {
	*t.find(left, right) = mergeSlot{left, right, r}
}

func (t *mergeTable) rule(left, right int32) mergeRule {
	if s := t.find(left, right); s.left >= 0 {
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

// candidate is a possible merge of the symbol at pos with the one after it.
type candidate struct{ rank, pos, id int32 }

func (a candidate) before(b candidate) bool {
	return a.rank < b.rank || a.rank == b.rank && a.pos < b.pos
}

// mergeList is a word as a linked list of symbols with a heap of candidate merges.
type mergeList struct {
	table      *mergeTable
	symbols    []token
	prev, next []int32 // -1 at the ends; next -2 for a symbol that is gone
	heap       []candidate
}

func (t *mergeTable) applyLong(s []token) int {
	n := len(s)
	links := make([]int32, 2*n)
	l := mergeList{table: t, symbols: s, prev: links[:n], next: links[n:], heap: make([]candidate, 0, n)}
	for i := range s {
		l.prev[i], l.next[i] = int32(i-1), int32(i+1)
	}
	l.next[n-1] = -1
	for i := range n - 1 {
		l.offer(int32(i))
	}
	for len(l.heap) > 0 {
		c := l.pop()
		i, j := c.pos, l.next[c.pos]
		if j < 0 || t.rule(s[i].id, s[j].id).id != c.id {
			continue // one of the two has been merged since
		}
		s[i] = token{c.id, s[i].lo, s[j].hi}
		l.next[i], l.next[j] = l.next[j], -2
		if k := l.next[i]; k >= 0 {
			l.prev[k] = i
		}
		if l.prev[i] >= 0 {
			l.offer(l.prev[i])
		}
		l.offer(i)
	}
	k := 0
	for i := int32(0); i >= 0; i = l.next[i] {
		s[k] = s[i]
		k++
	}
	return k
}

// offer adds the merge of symbol i with the next one, if there is a rule for it.
func (l *mergeList) offer(i int32) {
	j := l.next[i]
	if j < 0 {
		return
	}
	r := l.table.rule(l.symbols[i].id, l.symbols[j].id)
	if r.id < 0 {
		return
	}
	c := candidate{r.rank, i, r.id}
	h := append(l.heap, c)
	at := len(h) - 1
	for at > 0 && c.before(h[(at-1)/2]) {
		h[at] = h[(at-1)/2]
		at = (at - 1) / 2
	}
	h[at] = c
	l.heap = h
}

func (l *mergeList) pop() candidate {
	h := l.heap
	top, c := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	l.heap = h
	if len(h) == 0 {
		return top
	}
	at := 0
	for {
		k := 2*at + 1
		if k >= len(h) {
			break
		}
		if k+1 < len(h) && h[k+1].before(h[k]) {
			k++
		}
		if !h[k].before(c) {
			break
		}
		h[at] = h[k]
		at = k
	}
	h[at] = c
	return top
}
