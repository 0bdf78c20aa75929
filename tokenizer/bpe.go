package tokenizer

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// bpe is byte-pair encoding: the symbols of a word are merged pair by pair, the lowest rank first, until no pair is left.
type bpe struct {
	n     node
	vocab *vocabulary
	merge mergeTable

	runes  runeTable
	bytes  [256]int32 // symbol of a byte: <0x0A> for byte fallback, the byte-level character when byteLevel; or -1
	unk    int32      // -1: the file names none
	unkErr error      // the file names one that the vocabulary lacks

	prefix, suffix string // marks of continuing and final symbols
	byteLevel      bool   // words come as plain bytes and are mapped to the byte-level alphabet here
	byteFallback   bool
	fuseUnk        bool
	ignoreMerges   bool // a word that is a token is not built from merges

	cuts  *wordCuts // nil: pieces are taken whole
	cache wordCache
}

func newBPE(n node, v *vocabulary, merges [][2]string, f *modelFields, byteLevel bool) (*bpe, error) {
	if f.Dropout != nil && *f.Dropout != 0 {
		return nil, n.unsupported(fmt.Sprintf("dropout %v", *f.Dropout))
	}
	m := &bpe{n: n, vocab: v, unk: -1, byteFallback: f.ByteFallback, fuseUnk: f.FuseUnk, ignoreMerges: f.IgnoreMerges}
	if f.Prefix != nil {
		m.prefix = *f.Prefix
	}
	if f.Suffix != nil {
		m.suffix = *f.Suffix
	}
	m.merge = newMergeTable(len(merges))
	last := int32(-1)
	for rank, p := range merges {
		left, ok1 := v.lookup(p[0])
		right, ok2 := v.lookup(p[1])
		joined, ok3 := v.lookupJoined(p[0], strings.TrimPrefix(p[1], m.prefix), last)
		if !ok1 || !ok2 || !ok3 {
			return nil, n.errorf("merges[%d]: %q and %q, or what they make, is not in model.vocab", rank, p[0], p[1])
		}
		m.merge.put(left, right, mergeRule{int32(rank), joined})
		last = joined
	}
	if f.UnkToken != nil {
		if id, ok := v.lookup(*f.UnkToken); ok {
			m.unk = id
		} else {
			m.unkErr = n.errorf("unk_token: %q is not in model.vocab", *f.UnkToken)
		}
	}
	m.indexSymbols(byteLevel)
	m.cuts = m.findCuts(merges)
	m.cache.init()
	return m, nil
}

func (m *bpe) indexSymbols(byteLevel bool) {
	for s, id := range m.vocab.ids {
		if r, w := utf8.DecodeRuneInString(s); w == len(s) && (r != utf8.RuneError || w > 1) {
			m.runes.put(r, id)
		}
	}
	m.byteLevel = byteLevel && m.prefix == "" && m.suffix == "" && !m.byteFallback
	for b := range m.bytes {
		spelling := byteChar[b]
		if !m.byteLevel {
			spelling = fmt.Sprintf("<0x%02X>", b)
		}
		m.bytes[b] = -1
		if id, ok := m.vocab.lookup(spelling); ok {
			m.bytes[b] = id
		}
	}
}

func (m *bpe) appendTokens(dst []token, text string) ([]token, error) {
	if m.cuts == nil {
		return m.appendWord(dst, text)
	}
	for lo := 0; lo < len(text); {
		hi := m.cuts.next(text, lo)
		n := len(dst)
		var err error
		if dst, err = m.appendWord(dst, text[lo:hi]); err != nil {
			return dst, err
		}
		for i := range dst[n:] {
			dst[n+i].lo += int32(lo)
			dst[n+i].hi += int32(lo)
		}
		lo = hi
	}
	return dst, nil
}

func (m *bpe) appendWord(dst []token, word string) ([]token, error) {
	if len(word) > maxCachedWord {
		return m.encode(dst, word)
	}
	set := m.cache.set(word)
	if dst, ok := set.appendTokens(dst, word); ok {
		return dst, nil
	}
	n := len(dst)
	dst, err := m.encode(dst, word)
	if err == nil {
		set.put(word, dst[n:])
	}
	return dst, err
}

func (m *bpe) encode(dst []token, word string) ([]token, error) {
	if m.ignoreMerges {
		if id, ok := m.wholeWord(word); ok {
			return append(dst, token{id, 0, int32(len(word))}), nil
		}
	}
	n := len(dst)
	if m.byteLevel {
		if !m.hasBytes(word) {
			return m.encodeMapped(dst, word)
		}
		dst = slices.Grow(dst, len(word))
		for i := 0; i < len(word); i++ {
			dst = append(dst, token{m.bytes[word[i]], int32(i), int32(i) + 1})
		}
	} else {
		var err error
		if dst, err = m.appendSymbols(dst, word); err != nil {
			return dst, err
		}
	}
	return dst[:n+m.merge.apply(dst[n:])], nil
}

func (m *bpe) wholeWord(word string) (int32, bool) {
	if !m.byteLevel {
		return m.vocab.lookup(word)
	}
	var stack [96]byte
	mapped := stack[:0]
	for i := 0; i < len(word); i++ {
		mapped = append(mapped, byteChar[word[i]]...)
	}
	id, ok := m.vocab.ids[string(mapped)]
	return id, ok
}

// encodeMapped is for words with bytes that the vocabulary lacks: they are mapped to the byte-level alphabet as in the
// reference, because what its offsets are beside a dropped character depends on the widths there.
func (m *bpe) encodeMapped(dst []token, word string) ([]token, error) {
	var mapped []byte
	var from []int32 // per byte of mapped, the byte of word
	for i := 0; i < len(word); i++ {
		mapped = append(mapped, byteChar[word[i]]...)
		for len(from) < len(mapped) {
			from = append(from, int32(i))
		}
	}
	n := len(dst)
	dst, err := m.appendSymbols(dst, string(mapped))
	if err != nil {
		return dst, err
	}
	dst = dst[:n+m.merge.apply(dst[n:])]
	for i := range dst[n:] {
		t := &dst[n+i]
		t.lo, t.hi = from[t.lo], from[t.hi-1]+1
	}
	return dst, nil
}

// appendSymbols writes the characters of a word as symbols. As in the reference, unknown characters wait for the next
// known one, so that fuse_unk can join them; offsets are the running sum of the symbols' widths.
func (m *bpe) appendSymbols(dst []token, word string) ([]token, error) {
	if len(word) > maxCachedWord { // else there mostly is room
		dst = slices.Grow(dst, utf8.RuneCountInString(word))
	}
	var at, unknown int32
	add := func(id, width int32) {
		dst = append(dst, token{id, at, at + width})
		at += width
	}
	for i, r := range word {
		width := utf8.RuneLen(r)
		if id, ok := m.symbol(word, i, r, width); ok {
			if unknown > 0 {
				add(m.unk, unknown)
				unknown = 0
			}
			add(id, int32(width))
			continue
		}
		if m.byteFallback && m.hasBytes(word[i:i+width]) {
			for k := range width {
				add(m.bytes[word[i+k]], 1)
			}
			continue
		}
		if m.unkErr != nil {
			return dst, m.unkErr
		}
		if m.unk < 0 {
			continue // the reference drops it too
		}
		if unknown > 0 && !m.fuseUnk {
			add(m.unk, unknown)
			unknown = 0
		}
		unknown += int32(width)
	}
	if unknown > 0 {
		add(m.unk, unknown)
	}
	return dst, nil
}

func (m *bpe) symbol(word string, i int, r rune, width int) (int32, bool) {
	if m.prefix != "" || m.suffix != "" {
		s := word[i : i+width]
		if i > 0 {
			s = m.prefix + s
		}
		if i+width == len(word) {
			s += m.suffix
		}
		return m.vocab.lookup(s)
	}
	return m.runes.get(r)
}

func (m *bpe) hasBytes(s string) bool {
	for i := 0; i < len(s); i++ {
		if m.bytes[s[i]] < 0 {
			return false
		}
	}
	return true
}
