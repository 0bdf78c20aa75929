package tokenizer

import (
	"unicode/utf8"
)

// wordPiece takes the longest token at the start of a word, then the longest continuation, and so on.
type wordPiece struct {
	n        node
	vocab    *vocabulary
	prefix   string // mark of a continuing token
	unkToken string
	maxChars int // longer words are unknown
}

func newWordPiece(n node, v *vocabulary, f *modelFields) *wordPiece {
	m := &wordPiece{n: n, vocab: v, prefix: "##", unkToken: "[UNK]", maxChars: 100}
	if f.Prefix != nil {
		m.prefix = *f.Prefix
	}
	if f.UnkToken != nil {
		m.unkToken = *f.UnkToken
	}
	if f.MaxChars != nil {
		m.maxChars = *f.MaxChars
	}
	return m
}

func (m *wordPiece) appendTokens(dst []token, word string) ([]token, error) {
	n := len(dst)
	if utf8.RuneCountInString(word) > m.maxChars {
		return unknownWord(m.n, m.vocab, m.unkToken, dst, word)
	}
	for lo := 0; lo < len(word); {
		hi, id := m.longest(word, lo)
		if hi == lo {
			return unknownWord(m.n, m.vocab, m.unkToken, dst[:n], word)
		}
		dst = append(dst, token{id, int32(lo), int32(hi)})
		lo = hi
	}
	return dst, nil
}

func (m *wordPiece) longest(word string, lo int) (hi int, id int32) {
	for hi = len(word); hi > lo; {
		s := word[lo:hi]
		if lo > 0 {
			s = m.prefix + s
		}
		if id, ok := m.vocab.lookup(s); ok {
			return hi, id
		}
		_, w := utf8.DecodeLastRuneInString(word[lo:hi])
		hi -= w
	}
	return lo, 0
}

// wordLevel knows whole words only.
type wordLevel struct {
	n        node
	vocab    *vocabulary
	unkToken string
}

func newWordLevel(n node, v *vocabulary, f *modelFields) *wordLevel {
	m := &wordLevel{n: n, vocab: v, unkToken: "<unk>"}
	if f.UnkToken != nil {
		m.unkToken = *f.UnkToken
	}
	return m
}

func (m *wordLevel) appendTokens(dst []token, word string) ([]token, error) {
	if id, ok := m.vocab.lookup(word); ok {
		return append(dst, token{id, 0, int32(len(word))}), nil
	}
	return unknownWord(m.n, m.vocab, m.unkToken, dst, word)
}

func unknownWord(n node, v *vocabulary, unk string, dst []token, word string) ([]token, error) {
	id, ok := v.lookup(unk)
	if !ok {
		return dst, n.errorf("unk_token: %q is not in model.vocab, but the text holds the unknown word %q", unk, word)
	}
	return append(dst, token{id, 0, int32(len(word))}), nil
}
