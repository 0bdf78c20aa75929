package tokenizer

import (
	"encoding/json"
	"strings"
	"unicode"
	"unicode/utf8"
)

// postProcessor works on the encodings that make up one: at first a text or a pair; a template puts runs of special tokens
// between them, which the steps after it see as parts too. Without Offsets, encodings hold ids only.
type postProcessor interface {
	process(parts []*Encoding, add bool) ([]*Encoding, error)
	addedTokens(pair bool) int // how many tokens it adds
}

func loadPostProcessor(n node) (postProcessor, error) {
	kind, err := n.kind()
	if err != nil {
		return nil, err
	}
	switch kind {
	case "Sequence":
		return loadPostProcessors(n)
	case "ByteLevel":
		c := &trimBlanks{AddPrefixSpace: true, TrimOffsets: true}
		return c, n.decode(c)
	case "TemplateProcessing":
		return loadTemplate(n)
	case "BertProcessing", "RobertaProcessing":
		return loadClsSep(n, kind == "RobertaProcessing")
	}
	return nil, n.unsupported(kind)
}

// postProcessors run one after the other.
type postProcessors []postProcessor

func loadPostProcessors(n node) (postProcessor, error) {
	var c struct {
		Processors []json.RawMessage `json:"processors"`
	}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	all, err := loadAll(n.items("processors", c.Processors), loadPostProcessor)
	return postProcessors(all), err
}

func (s postProcessors) process(parts []*Encoding, add bool) ([]*Encoding, error) {
	var err error
	for _, p := range s {
		if parts, err = p.process(parts, add); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

func (s postProcessors) addedTokens(pair bool) (n int) {
	for _, p := range s {
		n += p.addedTokens(pair)
	}
	return n
}

// trimBlanks is the ByteLevel post-processor: it takes blanks out of offsets.
type trimBlanks struct {
	AddPrefixSpace bool `json:"add_prefix_space"`
	TrimOffsets    bool `json:"trim_offsets"`
}

func (t *trimBlanks) addedTokens(bool) int { return 0 }

func (t *trimBlanks) process(parts []*Encoding, _ bool) ([]*Encoding, error) {
	if t.TrimOffsets {
		t.trim(parts)
	}
	for i, p := range parts {
		p.setRange(i, 0, p.len())
	}
	return parts, nil
}

func (t *trimBlanks) trim(parts []*Encoding) {
	for _, p := range parts {
		p.trimOffsets(t.AddPrefixSpace)
		for _, o := range p.Overflowing {
			o.trimOffsets(t.AddPrefixSpace)
		}
	}
}

// clsSep is [CLS] A [SEP] and its form for pairs: BERT's B [SEP], RoBERTa's [SEP] B [SEP].
type clsSep struct {
	roberta  bool
	trim     trimBlanks
	cls, sep *Encoding
}

func loadClsSep(n node, roberta bool) (postProcessor, error) {
	p := &clsSep{roberta: roberta, trim: trimBlanks{AddPrefixSpace: true, TrimOffsets: true}}
	if err := n.decode(&p.trim); err != nil {
		return nil, err
	}
	var c struct {
		Cls []json.RawMessage `json:"cls"`
		Sep []json.RawMessage `json:"sep"`
	}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	var err error
	if p.cls, err = loadTokenAndID(n.child("cls", nil), c.Cls); err != nil {
		return nil, err
	}
	p.sep, err = loadTokenAndID(n.child("sep", nil), c.Sep)
	return p, err
}

// loadTokenAndID reads ["[CLS]", 101].
func loadTokenAndID(n node, raw []json.RawMessage) (*Encoding, error) {
	if len(raw) != 2 {
		return nil, n.errorf("want [token, id], got %d values", len(raw))
	}
	ids, tokens := make([]int, 1), make([]string, 1)
	if err := (node{n.file, n.path, raw[0]}).decode(&tokens[0]); err != nil {
		return nil, err
	}
	if err := (node{n.file, n.path, raw[1]}).decode(&ids[0]); err != nil {
		return nil, err
	}
	if ids[0] < 0 || ids[0] > maxTokenID {
		return nil, n.errorf("id %d; want 0 to %d", ids[0], maxTokenID)
	}
	return addedEncoding(ids, tokens, 0), nil
}

func (p *clsSep) addedTokens(pair bool) int {
	switch {
	case !pair:
		return 2
	case p.roberta:
		return 4
	}
	return 3
}

func (p *clsSep) process(parts []*Encoding, add bool) ([]*Encoding, error) {
	if p.roberta {
		if p.trim.TrimOffsets {
			p.trim.trim(parts)
		}
		for _, e := range parts {
			e.setTypeIDs(0)
		}
	}
	if !add {
		return parts, nil
	}
	out := make([]*Encoding, len(parts))
	for i, e := range parts {
		out[i] = p.wrap(e, i)
		for _, o := range e.Overflowing {
			out[i].Overflowing = append(out[i].Overflowing, p.wrap(o, i))
		}
	}
	return out, nil
}

// wrap puts the special tokens around part i. What was a special token before counts as text now, as in the reference.
func (p *clsSep) wrap(e *Encoding, i int) *Encoding {
	before, sequence, sepType := p.cls, 0, 0
	if i > 0 {
		before, sequence, sepType = nil, 1, 1
		if p.roberta {
			before = p.sep
		}
	}
	out := newEncoding(e.len()+2, e.full())
	out.texts = e.texts
	if before != nil {
		out.append(before)
	}
	lo := out.len()
	out.append(e)
	hi := out.len()
	out.append(p.sep)
	out.ranges = append(out.ranges[:0], sequenceRange{sequence, lo, hi})
	if e.full() {
		out.TypeIDs[hi] = sepType
		clear(out.SpecialTokensMask[lo:hi])
		for k := range out.AttentionMask {
			out.AttentionMask[k] = 1
		}
		if p.roberta {
			out.setTypeIDs(0)
		}
	}
	return out
}

// trimOffsets leaves the blanks at both ends of a token out of its offsets, a character of the text for each. With prefixed
// set, a lone blank at the start of the text is the one that the pre-tokenizer put there, which the text does not have.
func (e *Encoding) trimOffsets(prefixed bool) {
	for i := range e.Offsets {
		o := &e.Offsets[i]
		if o[0] == o[1] {
			continue
		}
		lead, trail := edgeBlanks(e.Tokens[i])
		if lead == 0 && trail == 0 {
			continue
		}
		text := e.texts[0]
		if len(e.texts) > 1 {
			text = e.texts[e.WordIDs[i]]
		}
		if prefixed && lead == 1 && (i == 0 || o[0] == 0) {
			lead = 0
		}
		for ; lead > 0 && o[0] < o[1]; lead-- {
			_, n := utf8.DecodeRuneInString(text[o[0]:])
			o[0] += n
		}
		end := o[1]
		for ; trail > 0 && end > 0; trail-- {
			_, n := utf8.DecodeLastRuneInString(text[:end])
			end -= n
		}
		if trail == 0 {
			o[1] = max(end, o[0])
		}
	}
}

// edgeBlanks counts the blanks at the ends of a token; Ġ is a space.
func edgeBlanks(token string) (lead, trail int) {
	blank := func(r rune) bool { return r == 'Ġ' || unicode.IsSpace(r) }
	left := strings.TrimLeftFunc(token, blank)
	right := strings.TrimRightFunc(token, blank)
	return utf8.RuneCountInString(token[:len(token)-len(left)]), utf8.RuneCountInString(token[len(right):])
}
