package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// addedToken is an entry of added_tokens: a text that is found before the model sees anything.
type addedToken struct {
	ID         int    `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// matcher finds added tokens in a text, leftmost first and of those the longest. The zero value finds none.
type matcher struct {
	nodes []trieNode
	first [256]bool // bytes that begin a token
}

type trieNode struct {
	next  map[byte]int32
	token *addedToken
}

func (m *matcher) add(content string, t *addedToken) {
	if content == "" {
		return
	}
	if m.nodes == nil {
		m.nodes = make([]trieNode, 1)
	}
	m.first[content[0]] = true
	at := int32(0)
	for i := 0; i < len(content); i++ {
		next, ok := m.nodes[at].next[content[i]]
		if !ok {
			next = int32(len(m.nodes))
			if m.nodes[at].next == nil {
				m.nodes[at].next = map[byte]int32{}
			}
			m.nodes[at].next[content[i]] = next
			m.nodes = append(m.nodes, trieNode{})
		}
		at = next
	}
	if m.nodes[at].token == nil {
		m.nodes[at].token = t
	}
}

// find returns the first match at or after byte from.
func (m *matcher) find(s string, from int) (lo, hi int, t *addedToken) {
	for i := from; i < len(s); i++ {
		if !m.first[s[i]] {
			continue
		}
		at := int32(0)
		for k := i; k < len(s); k++ {
			next, ok := m.nodes[at].next[s[k]]
			if !ok {
				break
			}
			at = next
			if m.nodes[at].token != nil {
				lo, hi, t = i, k+1, m.nodes[at].token
			}
		}
		if t != nil {
			return lo, hi, t
		}
	}
	return 0, 0, nil
}

// split hands out p in order: added tokens with their entry, the text between them with nil.
// As in the reference, a token that strips blanks to its right does not keep a later token from matching inside them.
func (m *matcher) split(p piece, yield func(piece, *addedToken)) {
	s := p.text
	if s == "" {
		return
	}
	if m.nodes == nil {
		yield(p, nil)
		return
	}
	done := 0
	for from := 0; ; {
		lo, hi, t := m.find(s, from)
		if t == nil {
			break
		}
		from = hi
		if t.SingleWord && (endsInWord(s[:lo]) || startsWithWord(s[hi:])) {
			continue
		}
		if t.LStrip {
			lo = max(len(strings.TrimRightFunc(s[:lo], unicode.IsSpace)), done)
		}
		if t.RStrip {
			hi = len(s) - len(strings.TrimLeftFunc(s[hi:], unicode.IsSpace))
		}
		if done < lo {
			yield(p.slice(done, lo), nil)
		}
		yield(p.slice(lo, hi), t)
		done = hi
	}
	if done < len(s) {
		yield(p.slice(done, len(s)), nil)
	}
}

// isWord is \w: alphabetic, marks, decimal digits, connectors, joiners.
func isWord(r rune) bool {
	if r < utf8.RuneSelf {
		return r == '_' || '0' <= r && r <= '9' || 'a' <= r|0x20 && r|0x20 <= 'z'
	}
	return unicode.Is(wordChars, r)
}

func endsInWord(s string) bool {
	r, n := utf8.DecodeLastRuneInString(s)
	return n > 0 && isWord(r)
}

func startsWithWord(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	return n > 0 && isWord(r)
}
