package tokenizer

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// Tokenizer turns text into ids and back. It is safe for concurrent use.
type Tokenizer struct {
	*pipeline
	files     files
	special   specialTokens
	templates templates
	parsed    parsedTemplates
}

// Encoding is a tokenized text; all fields have one entry for every token.
type Encoding struct {
	IDs               []int
	Offsets           [][2]int // the bytes of the text that the token stands for, [start, end); {0, 0} for tokens added by the post-processor
	TypeIDs           []int    // segment ids of the post-processor's template
	SpecialTokensMask []int    // 1 for tokens added by the post-processor
	Tokens            []string // as spelled in the vocabulary; added tokens, and unknown text of a Unigram model, as found in the text

	text string // what was encoded
}

// newEncoding has room for n tokens; only the ids without full.
func newEncoding(text string, n int, full bool) *Encoding {
	e := &Encoding{text: text, IDs: make([]int, 0, n)}
	if full {
		e.Offsets, e.TypeIDs, e.SpecialTokensMask, e.Tokens = make([][2]int, 0, n), make([]int, 0, n), make([]int, 0, n), make([]string, 0, n)
	}
	return e
}

// Encode returns the ids of text. addSpecialTokens lets the post-processor put its tokens around them (such as BOS); text
// that spells a special token becomes that token in any case. The error reports text that is not UTF-8.
func (t *Tokenizer) Encode(text string, addSpecialTokens bool) ([]int, error) {
	e, err := t.encode(text, addSpecialTokens, false)
	if err != nil {
		return nil, err
	}
	return e.IDs, nil
}

// EncodeFull returns the ids of text with offsets, type ids, the mask of added special tokens and the tokens' spelling.
// A token that holds part of a character has the offsets of the whole character.
func (t *Tokenizer) EncodeFull(text string, addSpecialTokens bool) (*Encoding, error) {
	return t.encode(text, addSpecialTokens, true)
}

func (t *Tokenizer) encode(text string, add, full bool) (*Encoding, error) {
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("tokenizer: the text is not valid UTF-8: byte %#x at offset %d; convert it first", text[invalidAt(text)], invalidAt(text))
	}
	if len(text) > math.MaxInt32/4 {
		return nil, fmt.Errorf("tokenizer: the text has %d bytes; want at most %d, encode it in parts", len(text), math.MaxInt32/4)
	}
	e := encoder{pipeline: t.pipeline, full: full, track: full || t.normalizer != nil && t.needsOrigin}
	e.out = newEncoding(text, len(text)/3+4, full)
	t.verbatim.split(piece{text: text}, e.verbatim)
	if e.err != nil {
		return nil, e.err
	}
	if t.postProcessor != nil {
		t.postProcessor(e.out, add)
	}
	return e.out, nil
}

func invalidAt(s string) int {
	for i, r := range s {
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], "\ufffd") {
			return i
		}
	}
	return len(s)
}

// encoder is one text on its way through the pipeline.
type encoder struct {
	*pipeline
	full  bool // more than ids is wanted
	track bool // pieces carry their alignment
	out   *Encoding
	buf   []token
	err   error
}

func (e *encoder) fail(err error) {
	if e.err == nil {
		e.err = err
	}
}

// verbatim takes the text cut at the added tokens that are matched before normalization.
func (e *encoder) verbatim(p piece, t *addedToken) {
	if t != nil || e.err != nil {
		e.append(p, t)
		return
	}
	p, err := e.normalize(p, e.track)
	if err != nil {
		e.fail(err)
		return
	}
	if len(p.align) > 0 {
		p.start = p.align[0].lo // what was stripped or inserted at the front moves the beginning
	}
	e.normalized.split(p, e.append)
}

func (e *encoder) append(p piece, t *addedToken) {
	switch {
	case e.err != nil:
	case t != nil:
		e.add(t.ID, p.text, p, 0, len(p.text))
	case e.preTokenizer != nil:
		e.preTokenizer(e, p, e.word)
	default:
		e.word(p)
	}
}

// word gives one piece to the model.
func (e *encoder) word(p piece) {
	if p.text == "" || e.err != nil {
		return
	}
	var err error
	if e.buf, err = e.model.appendTokens(e.buf[:0], p.text); err != nil {
		e.fail(err)
		return
	}
	if !e.full {
		for _, t := range e.buf {
			e.out.IDs = append(e.out.IDs, int(t.id))
		}
		return
	}
	for _, t := range e.buf {
		spelling := e.vocab.tokens[t.id]
		if t.id == e.unspelled {
			spelling = p.text[t.lo:t.hi]
		}
		e.add(int(t.id), spelling, p, int(t.lo), int(t.hi))
	}
}

func (e *encoder) add(id int, spelling string, p piece, lo, hi int) {
	out := e.out
	out.IDs = append(out.IDs, id)
	if !e.full {
		return
	}
	o := p.origin(lo, hi)
	out.Offsets = append(out.Offsets, [2]int{int(o.lo), int(o.hi)})
	out.TypeIDs = append(out.TypeIDs, 0)
	out.SpecialTokensMask = append(out.SpecialTokensMask, 0)
	out.Tokens = append(out.Tokens, spelling)
}

// Decode returns the text of ids. skipSpecialTokens leaves special tokens out. Ids beyond the vocabulary, which models
// with padded embeddings can produce, stand for nothing; a negative id, such as the label -100, is an error.
func (t *Tokenizer) Decode(ids []int, skipSpecialTokens bool) (string, error) {
	tokens := make([]string, 0, len(ids))
	for i, id := range ids {
		if id < 0 {
			return "", fmt.Errorf("tokenizer: ids[%d] is %d; want an id of 0 or more (replace ignored labels first)", i, id)
		}
		if s, ok := t.idToToken(id); ok && !(skipSpecialTokens && t.isSpecial(id)) {
			tokens = append(tokens, s)
		}
	}
	if t.decoder == nil {
		return strings.Join(tokens, " "), nil
	}
	tokens, err := t.decoder(tokens)
	if err != nil {
		return "", err
	}
	return strings.Join(tokens, ""), nil
}

// VocabSize returns the number of tokens, added ones included: Python's len(tokenizer).
func (t *Tokenizer) VocabSize() int { return t.size() }

// TokenToID returns the id of a token as spelled in the vocabulary.
func (t *Tokenizer) TokenToID(token string) (int, bool) { return t.tokenToID(token) }

// IDToToken returns the spelling of a token in the vocabulary.
func (t *Tokenizer) IDToToken(id int) (string, bool) { return t.idToToken(id) }

// IsSpecial reports whether Decode can leave the token out: an added token that the file marks as special.
func (t *Tokenizer) IsSpecial(id int) bool { return t.isSpecial(id) }
