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
	settings  settings
	templates templates
	parsed    parsedTemplates
	changed   bool // files.tokenizerJSON is no longer what the tokenizer is
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

// EncodeFull returns the ids of text with everything else that an [Encoding] has.
// A token that holds part of a character has the offsets of the whole character.
func (t *Tokenizer) EncodeFull(text string, addSpecialTokens bool) (*Encoding, error) {
	return t.encode(text, addSpecialTokens, true)
}

func (t *Tokenizer) encode(text string, add, full bool) (*Encoding, error) {
	e := t.newEncoder(full, 0)
	if err := e.encode(text); err != nil {
		return nil, err
	}
	return t.process([]*Encoding{e.out}, add)
}

// process lets the post-processor make one encoding of a text or a pair.
func (t *Tokenizer) process(parts []*Encoding, add bool) (*Encoding, error) {
	for i, p := range parts {
		p.setRange(i, 0, p.len())
	}
	if t.postProcessor == nil {
		if len(parts) == 1 {
			parts[0].ranges = nil
		}
	} else {
		for i, p := range parts {
			for _, o := range p.Overflowing {
				o.setRange(i, 0, o.len())
			}
			p.setTypeIDs(i)
		}
		var err error
		if parts, err = t.postProcessor.process(parts, add); err != nil {
			return nil, err
		}
	}
	e := merge(parts)
	e.finish()
	return e, nil
}

func checkText(text string) error {
	if !utf8.ValidString(text) {
		return fmt.Errorf("tokenizer: the text is not valid UTF-8: byte %#x at offset %d; convert it first", text[invalidAt(text)], invalidAt(text))
	}
	if len(text) > math.MaxInt32/4 {
		return fmt.Errorf("tokenizer: the text has %d bytes; want at most %d, encode it in parts", len(text), math.MaxInt32/4)
	}
	return nil
}

func invalidAt(s string) int {
	for i, r := range s {
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], "\ufffd") {
			return i
		}
	}
	return len(s)
}

// encoder is one text, or the words of one, on its way through the pipeline.
type encoder struct {
	*pipeline
	full         bool // more than ids is wanted
	track        bool // pieces carry their alignment
	plainSpecial bool // text that spells a special token is plain text
	words        bool // the text is given as words: all tokens of a word have its number
	typeID       int
	out          *Encoding
	piece        int // number of the next piece, or of the word
	buf          []token
	err          error
}

func (t *Tokenizer) newEncoder(full bool, typeID int) *encoder {
	return &encoder{pipeline: t.pipeline, full: full, track: full || t.needsOrigin, typeID: typeID, plainSpecial: t.plainSpecial}
}

func (e *encoder) encode(text string) error {
	if err := checkText(text); err != nil {
		return err
	}
	e.out = newEncoding(len(text)/3+4, e.full)
	if e.full {
		e.out.texts = []string{text}
	}
	e.verbatim.split(piece{text: text}, e.plainSpecial, e.splitNormalized)
	return e.err
}

// encodeWords takes a text that was cut into words before.
func (e *encoder) encodeWords(words []string) error {
	e.words = true
	e.out = newEncoding(2*len(words), e.full)
	e.out.texts = words
	for i, w := range words {
		if err := checkText(w); err != nil {
			return fmt.Errorf("word %d: %w", i, err)
		}
		e.piece = i
		if e.verbatim.split(piece{text: w}, e.plainSpecial, e.splitNormalized); e.err != nil {
			return e.err
		}
	}
	return nil
}

func (e *encoder) fail(err error) {
	if e.err == nil {
		e.err = err
	}
}

// splitNormalized takes the text cut at the added tokens that are matched before normalization.
func (e *encoder) splitNormalized(p piece, t *addedToken) {
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
	e.normalized.split(p, e.plainSpecial, e.append)
}

func (e *encoder) append(p piece, t *addedToken) {
	switch {
	case e.err != nil:
	case t != nil:
		e.add(t.ID, p.text, p, 0, len(p.text))
		e.next()
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
	e.next()
}

// next counts a piece.
func (e *encoder) next() {
	if !e.words {
		e.piece++
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
	out.TypeIDs = append(out.TypeIDs, e.typeID)
	out.SpecialTokensMask = append(out.SpecialTokensMask, 0)
	out.AttentionMask = append(out.AttentionMask, 1)
	out.WordIDs = append(out.WordIDs, e.piece)
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
		if s, ok := t.spelling(id); ok && !(skipSpecialTokens && t.isSpecial(id)) {
			tokens = append(tokens, s)
		}
	}
	var text string
	if t.decoder == nil {
		text = strings.Join(tokens, " ")
	} else {
		tokens, err := t.decoder(tokens)
		if err != nil {
			return "", err
		}
		text = strings.Join(tokens, "")
	}
	if t.settings.cleanUp {
		text = cleanUp(text, false)
	}
	return text, nil
}

// VocabSize returns the number of tokens, added ones included: Python's len(tokenizer).
func (t *Tokenizer) VocabSize() int { return t.size() }

// TokenToID returns the id of a token as spelled in the vocabulary.
func (t *Tokenizer) TokenToID(token string) (int, bool) { return t.tokenToID(token) }

// IDToToken returns the spelling of a token in the vocabulary.
func (t *Tokenizer) IDToToken(id int) (string, bool) { return t.idToToken(id) }

// IsSpecial reports whether Decode can leave the token out: an added token that the file marks as special.
func (t *Tokenizer) IsSpecial(id int) bool { return t.isSpecial(id) }
