package tokenizer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// AddedToken is a text that is found before the model sees anything, and becomes one token.
type AddedToken struct {
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"` // not inside a word
	LStrip     bool   `json:"lstrip"`      // takes the blanks before it
	RStrip     bool   `json:"rstrip"`      // takes the blanks after it
	Normalized bool   `json:"normalized"`  // content is normalized too, and found in the normalized text
	Special    bool   `json:"special"`     // Decode can leave it out
}

// addedToken is an entry of added_tokens.
type addedToken struct {
	ID int `json:"id"`
	AddedToken
}

// addedVocabulary are the added tokens of a pipeline.
type addedVocabulary struct {
	added      []addedToken // with the ids they have, in the order they came
	byContent  map[string]int
	byID       map[int]int // index in added
	decoded    []string    // by index in added: what Decode sees, which is the normalized content
	skipped    []bool      // by index in added: Decode can leave it out
	verbatim   matcher     // added tokens found in the text as it is
	normalized matcher     // added tokens found after normalization
}

// AddTokens adds tokens to the vocabulary and returns how many were new or changed. A token that the model or an earlier
// call has keeps its id and takes the new flags; the others are numbered from [Tokenizer.NextTokenID] on. Models need
// embeddings for them. No other call may run at the same time.
func (t *Tokenizer) AddTokens(tokens ...AddedToken) (int, error) {
	list := make([]addedToken, len(tokens))
	for i, a := range tokens {
		if !utf8.ValidString(a.Content) {
			return 0, fmt.Errorf("tokenizer: AddTokens: token %d, %q, is not valid UTF-8", i, a.Content)
		}
		list[i] = addedToken{AddedToken: a}
	}
	if t.nextID() > maxTokenID-len(tokens) {
		return 0, errors.New("tokenizer: AddTokens: the vocabulary is full")
	}
	n, err := t.addTokens(list)
	t.changed = t.changed || n > 0
	return n, err
}

// AddSpecialTokens adds special tokens that are found in the text as it is: AddTokens with Special set. It is for tokens
// without other flags.
func (t *Tokenizer) AddSpecialTokens(contents ...string) (int, error) {
	tokens := make([]AddedToken, len(contents))
	for i, c := range contents {
		tokens[i] = AddedToken{Content: c, Special: true}
	}
	return t.AddTokens(tokens...)
}

// AddedTokens returns the added tokens by id, those of tokenizer.json included.
func (t *Tokenizer) AddedTokens() map[int]AddedToken {
	m := make(map[int]AddedToken, len(t.added))
	for _, a := range t.added {
		m[a.ID] = a.AddedToken
	}
	return m
}

// NextTokenID returns the id that the next new token of AddTokens gets.
func (t *Tokenizer) NextTokenID() int { return t.nextID() }

// nextID follows the reference: the end of the model's vocabulary, or of the added tokens beyond it.
func (p *pipeline) nextID() int {
	next := len(p.vocab.ids)
	for _, a := range p.added {
		if a.ID >= len(p.vocab.ids) {
			next = max(next, a.ID+1)
		}
	}
	return next
}

// addTokens registers tokens, as in the reference: their ids are not read, see AddTokens.
func (p *pipeline) addTokens(tokens []addedToken) (changed int, err error) {
	if p.byContent == nil {
		p.byContent, p.byID = map[string]int{}, map[int]int{}
	}
	for _, t := range tokens {
		if err := p.checkAdded(t); err != nil {
			return 0, err
		}
	}
	next := p.nextID()
	for _, t := range tokens {
		if t.Content == "" {
			continue
		}
		if i, ok := p.byContent[t.Content]; ok {
			if p.added[i].AddedToken != t.AddedToken {
				p.added[i].AddedToken = t.AddedToken
				changed++
			}
			continue
		}
		if id, ok := p.vocab.lookup(t.Content); ok {
			t.ID = int(id)
		} else {
			t.ID = next
			next++
		}
		changed++
		p.byContent[t.Content] = len(p.added)
		p.byID[t.ID] = len(p.added)
		p.added = append(p.added, t)
	}
	return changed, p.indexAdded()
}

// checkAdded refuses a token of which the normalizer leaves nothing: the reference then finds it between any two characters.
func (p *pipeline) checkAdded(t addedToken) error {
	if !t.Normalized || t.Content == "" {
		return nil
	}
	n, err := p.normalize(piece{text: t.Content}, false)
	if err == nil && n.text == "" {
		err = fmt.Errorf("tokenizer: the normalizer leaves nothing of the added token %q, so it cannot be found in a text; set normalized to false", t.Content)
	}
	return err
}

// indexAdded makes the matchers and what Decode needs.
func (p *pipeline) indexAdded() error {
	p.verbatim, p.normalized = matcher{}, matcher{}
	p.decoded, p.skipped = make([]string, len(p.added)), make([]bool, len(p.added))
	special := map[string]bool{}
	for i := range p.added {
		t := &p.added[i]
		if t.Special {
			special[t.Content] = true
		}
		if p.decoded[i] = t.Content; !t.Normalized {
			p.verbatim.add(t.Content, t)
			continue
		}
		n, err := p.normalize(piece{text: t.Content}, false)
		if err != nil {
			return err
		}
		p.decoded[i] = n.text
		p.normalized.add(n.text, t)
	}
	for i, s := range p.decoded {
		p.skipped[i] = special[s]
	}
	return nil
}

func (p *pipeline) tokenToID(s string) (int, bool) {
	if i, ok := p.byContent[s]; ok {
		return p.added[i].ID, true
	}
	id, ok := p.vocab.lookup(s)
	return int(id), ok
}

func (p *pipeline) idToToken(id int) (string, bool) {
	if i, ok := p.byID[id]; ok {
		return p.added[i].Content, true
	}
	if id < 0 || id >= len(p.vocab.tokens) {
		return "", false
	}
	s := p.vocab.tokens[id]
	return s, s != ""
}

// spelling is idToToken as the decoder sees it: in the form that the normalizer gave the text.
func (p *pipeline) spelling(id int) (string, bool) {
	if i, ok := p.byID[id]; ok {
		return p.decoded[i], true
	}
	return p.idToToken(id)
}

func (p *pipeline) isSpecial(id int) bool {
	i, ok := p.byID[id]
	return ok && p.skipped[i]
}

// size is the number of tokens with the added ones.
func (p *pipeline) size() int {
	n := len(p.vocab.ids)
	for _, t := range p.added {
		if _, ok := p.vocab.lookup(t.Content); !ok {
			n++
		}
	}
	return n
}

// sortedAdded are the added tokens in the order that the reference saves them.
func (p *pipeline) sortedAdded() []addedToken {
	return slices.SortedFunc(slices.Values(p.added), func(a, b addedToken) int { return a.ID - b.ID })
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
// With plainSpecial, special tokens are not matched. As in the reference, a token that strips blanks to its right does not keep a later token from matching inside them.
func (m *matcher) split(p piece, plainSpecial bool, yield func(piece, *addedToken)) {
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
		if plainSpecial && t.Special {
			continue
		}
		if t.SingleWord && (endsInWord(s[:lo]) || startsWithWord(s[hi:])) {
			continue
		}
		if t.LStrip {
			lo = max(len(strings.TrimRightFunc(s[:lo], unicode.IsSpace)), done)
		}
		if t.RStrip {
			hi = len(s) - len(strings.TrimLeftFunc(s[hi:], unicode.IsSpace))
		}
		if lo >= hi {
			continue // nothing is left of it beside the blanks that the token before took
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
