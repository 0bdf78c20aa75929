package tokenizer

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"
)

// unigram picks the segmentation with the highest sum of scores (Viterbi).
type unigram struct {
	n            node
	vocab        *vocabulary
	scores       []float64
	trie         *byteTrie
	unk          int32 // -1: none
	unkScore     float64
	bytes        [256]int32
	byteFallback bool
}

// unknownPenalty is how much worse than the worst token an unknown character is.
const unknownPenalty = 10

func loadUnigram(n, vn node, f *modelFields) (*unigram, *vocabulary, error) {
	if vn.absent() {
		return nil, nil, vn.errorf("missing")
	}
	var entries [][]json.RawMessage
	if err := vn.decode(&entries); err != nil {
		return nil, nil, err
	}
	m := &unigram{n: n, unk: -1, byteFallback: f.ByteFallback, unkScore: math.Inf(1)}
	v := &vocabulary{ids: make(map[string]int32, len(entries)), tokens: make([]string, len(entries))}
	m.vocab, m.scores = v, make([]float64, len(entries))
	bytes := 0
	for i, e := range entries {
		if len(e) != 2 {
			return nil, nil, vn.errorf("[%d]: want [token, score], got %d values", i, len(e))
		}
		if err := vn.child(fmt.Sprintf("[%d]", i), e[0]).decode(&v.tokens[i]); err != nil {
			return nil, nil, err
		}
		if err := vn.child(fmt.Sprintf("[%d]", i), e[1]).decode(&m.scores[i]); err != nil {
			return nil, nil, err
		}
		v.ids[v.tokens[i]] = int32(i)
		bytes += len(v.tokens[i])
		m.unkScore = min(m.unkScore, m.scores[i])
	}
	if bytes > maxTrieBytes {
		return nil, nil, vn.errorf("the tokens have %d bytes together; want at most %d", bytes, maxTrieBytes)
	}
	m.trie = newByteTrie(v.ids)
	m.unkScore -= unknownPenalty
	if f.UnkID != nil {
		if *f.UnkID < 0 || *f.UnkID >= len(entries) {
			return nil, nil, n.errorf("unk_id: %d is outside the vocabulary of %d tokens", *f.UnkID, len(entries))
		}
		m.unk = int32(*f.UnkID)
	}
	for b := range m.bytes {
		m.bytes[b] = -1
		if id, ok := v.lookup(fmt.Sprintf("<0x%02X>", b)); ok {
			m.bytes[b] = id
		}
	}
	return m, v, nil
}

// pathEnd is the best way to reach a byte position: its score, where its last token begins, and which that is; -1: a
// character that is no token.
type pathEnd struct {
	score    float64
	from, id int32
}

func (m *unigram) unknown(p pathEnd) bool { return p.id < 0 || p.id == m.unk }

func (m *unigram) appendTokens(dst []token, text string) ([]token, error) {
	best := m.bestPaths(text)
	n := len(dst)
	for end := int32(len(text)); end > 0; {
		t := token{best[end].id, best[end].from, end}
		if m.unknown(best[end]) && m.unk >= 0 { // neighbouring unknown characters are one token
			for t.lo > 0 && m.unknown(best[t.lo]) {
				t.lo, t.id = best[t.lo].from, -1
			}
		}
		dst = append(dst, t)
		end = t.lo
	}
	if known := !slices.ContainsFunc(dst[n:], func(t token) bool { return t.id < 0 }); known {
		slices.Reverse(dst[n:])
		return dst, nil
	}
	path := append([]token(nil), dst[n:]...)
	dst = dst[:n]
	for i := len(path) - 1; i >= 0; i-- {
		t := path[i]
		if t.id >= 0 {
			dst = append(dst, t)
			continue
		}
		s := text[t.lo:t.hi]
		if id, ok := m.vocab.lookup(s); ok {
			t.id = id
			dst = append(dst, t)
			continue
		}
		if m.byteFallback && m.hasBytes(s) {
			for k := range len(s) {
				dst = append(dst, token{m.bytes[s[k]], t.lo, t.hi})
			}
			continue
		}
		if m.unk < 0 {
			return dst, m.n.errorf("unk_id: %q is not in the vocabulary and the file names no unknown token", s)
		}
		t.id = m.unk
		dst = append(dst, t)
	}
	return dst, nil
}

func (m *unigram) bestPaths(text string) []pathEnd {
	best := make([]pathEnd, len(text)+1)
	for i := range best {
		best[i].from = -1
	}
	for i := 0; i < len(text); {
		here := best[i].score
		_, width := utf8.DecodeRuneInString(text[i:])
		single := false
		node := uint32(0)
		for end := i; end < len(text); {
			if node = m.trie.next(node, text[end]); node == 0 {
				break
			}
			end++
			id := m.trie.ids[node]
			if id < 0 {
				continue
			}
			single = single || end == i+width
			if s := here + m.scores[id]; best[end].from < 0 || s > best[end].score {
				best[end] = pathEnd{s, int32(i), id}
			}
		}
		if !single {
			if s := here + m.unkScore; best[i+width].from < 0 || s > best[i+width].score {
				best[i+width] = pathEnd{s, int32(i), -1}
			}
		}
		i += width
	}
	return best
}

func (m *unigram) hasBytes(s string) bool {
	for i := 0; i < len(s); i++ {
		if m.bytes[s[i]] < 0 {
			return false
		}
	}
	return true
}
