package tokenizer

import (
	"hash/maphash"
	"strings"
	"sync/atomic"
)

// wordCache remembers what became of short words: a fixed number of slots, no locks. A word may lie in the two slots of its
// set; a new one takes the first, and what was there the second.
type wordCache struct {
	seed maphash.Seed
	sets []wordSet
}

type wordSet [2]atomic.Pointer[cachedWord]

type cachedWord struct {
	word   string
	tokens []token
}

// At most 2·cacheSets words of maxCachedWord bytes, each with a token for every byte: 22 MB; 3 MB after a book.
const (
	cacheSets     = 1 << 14
	maxCachedWord = 48 // bytes
)

func (c *wordCache) init() {
	c.seed = maphash.MakeSeed()
	c.sets = make([]wordSet, cacheSets)
}

func (c *wordCache) set(word string) *wordSet {
	return &c.sets[maphash.String(c.seed, word)%cacheSets]
}

// appendTokens appends the tokens of a word that the set holds.
func (s *wordSet) appendTokens(dst []token, word string) ([]token, bool) {
	for i := range s {
		if e := s[i].Load(); e != nil && e.word == word {
			return append(dst, e.tokens...), true
		}
	}
	return dst, false
}

func (s *wordSet) put(word string, tokens []token) {
	s[1].Store(s[0].Load())
	s[0].Store(&cachedWord{strings.Clone(word), append([]token(nil), tokens...)})
}
