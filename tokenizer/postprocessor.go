package tokenizer

import (
	"encoding/json"
	"strings"
	"unicode"
	"unicode/utf8"
)

// postProcessor changes the tokens of a text: it adds special tokens when add is set and may trim offsets.
// Where e.Offsets is nil only the ids are wanted.
type postProcessor func(e *Encoding, add bool)

func loadPostProcessor(n node) (postProcessor, error) {
	kind, err := n.kind()
	if err != nil {
		return nil, err
	}
	switch kind {
	case "Sequence":
		return loadPostProcessors(n)
	case "ByteLevel":
		c := struct {
			AddPrefixSpace bool `json:"add_prefix_space"`
			TrimOffsets    bool `json:"trim_offsets"`
		}{true, true}
		if err := n.decode(&c); err != nil {
			return nil, err
		}
		return func(e *Encoding, _ bool) {
			if c.TrimOffsets {
				trimOffsets(e, c.AddPrefixSpace)
			}
		}, nil
	case "TemplateProcessing":
		return loadTemplate(n)
	case "BertProcessing", "RobertaProcessing":
		return loadClsSep(n, kind == "RobertaProcessing")
	}
	return nil, n.unsupported(kind)
}

func loadPostProcessors(n node) (postProcessor, error) {
	var c struct {
		Processors []json.RawMessage `json:"processors"`
	}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	all, err := loadAll(n.items("processors", c.Processors), loadPostProcessor)
	if err != nil {
		return nil, err
	}
	return func(e *Encoding, add bool) {
		for _, f := range all {
			f(e, add)
		}
	}, nil
}

// templatePart is a run of special tokens, or the text itself.
type templatePart struct {
	text   bool
	ids    []int
	tokens []string
	typeID int
}

func loadTemplate(n node) (postProcessor, error) {
	type special struct {
		IDs    []int    `json:"ids"`
		Tokens []string `json:"tokens"`
	}
	type ref struct {
		ID     string `json:"id"`
		TypeID int    `json:"type_id"`
	}
	var c struct {
		Single []struct {
			SpecialToken *ref `json:"SpecialToken"`
			Sequence     *ref `json:"Sequence"`
		} `json:"single"`
		SpecialTokens map[string]special `json:"special_tokens"`
	}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	var parts []templatePart
	for i, s := range c.Single {
		switch {
		case s.Sequence != nil && s.Sequence.ID == "A":
			parts = append(parts, templatePart{text: true, typeID: s.Sequence.TypeID})
		case s.SpecialToken != nil:
			t, ok := c.SpecialTokens[s.SpecialToken.ID]
			if !ok {
				return nil, n.errorf("single[%d]: %q is not in special_tokens", i, s.SpecialToken.ID)
			}
			if len(t.IDs) != len(t.Tokens) {
				return nil, n.errorf("special_tokens.%s: %d ids but %d tokens", s.SpecialToken.ID, len(t.IDs), len(t.Tokens))
			}
			for _, id := range t.IDs {
				if id < 0 || id > maxTokenID {
					return nil, n.errorf("special_tokens.%s: id %d; want 0 to %d", s.SpecialToken.ID, id, maxTokenID)
				}
			}
			parts = append(parts, templatePart{ids: t.IDs, tokens: t.Tokens, typeID: s.SpecialToken.TypeID})
		default:
			return nil, n.errorf(`single[%d]: want {"SpecialToken": ...} or {"Sequence": {"id": "A"}}`, i)
		}
	}
	return func(e *Encoding, add bool) { e.assemble(parts, add) }, nil
}

// loadClsSep is [CLS] text [SEP]. BERT's and RoBERTa's forms differ only in the offsets of the text.
func loadClsSep(n node, roberta bool) (postProcessor, error) {
	c := struct {
		Cls            []json.RawMessage `json:"cls"`
		Sep            []json.RawMessage `json:"sep"`
		TrimOffsets    bool              `json:"trim_offsets"`
		AddPrefixSpace bool              `json:"add_prefix_space"`
	}{TrimOffsets: true, AddPrefixSpace: true}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	pair := func(field string, raw []json.RawMessage) (p templatePart, err error) {
		f := n.child(field, nil)
		if len(raw) != 2 {
			return p, f.errorf("want [token, id], got %d values", len(raw))
		}
		p.ids, p.tokens = make([]int, 1), make([]string, 1)
		if err := n.child(field, raw[0]).decode(&p.tokens[0]); err != nil {
			return p, err
		}
		if err := n.child(field, raw[1]).decode(&p.ids[0]); err != nil {
			return p, err
		}
		if p.ids[0] < 0 || p.ids[0] > maxTokenID {
			return p, f.errorf("id %d; want 0 to %d", p.ids[0], maxTokenID)
		}
		return p, nil
	}
	cls, err := pair("cls", c.Cls)
	if err != nil {
		return nil, err
	}
	sep, err := pair("sep", c.Sep)
	if err != nil {
		return nil, err
	}
	parts := []templatePart{cls, {text: true}, sep}
	return func(e *Encoding, add bool) {
		if roberta && c.TrimOffsets {
			trimOffsets(e, c.AddPrefixSpace)
		}
		e.assemble(parts, add)
	}, nil
}

// assemble rebuilds the encoding from the parts of a template; without add only the type ids of the text are set.
func (e *Encoding) assemble(parts []templatePart, add bool) {
	in := *e
	full := in.Offsets != nil
	*e = *newEncoding(in.text, len(in.IDs)+4, full)
	for _, p := range parts {
		ids, offsets, mask, tokens := in.IDs, in.Offsets, in.SpecialTokensMask, in.Tokens
		if !p.text {
			if !add {
				continue
			}
			ids, tokens, offsets, mask = p.ids, p.tokens, make([][2]int, len(p.ids)), nil
			for range ids {
				mask = append(mask, 1)
			}
		}
		e.IDs = append(e.IDs, ids...)
		if !full {
			continue
		}
		e.Offsets = append(e.Offsets, offsets...)
		e.SpecialTokensMask = append(e.SpecialTokensMask, mask...)
		e.Tokens = append(e.Tokens, tokens...)
		for range ids {
			e.TypeIDs = append(e.TypeIDs, p.typeID)
		}
	}
}

// trimOffsets leaves the blanks at both ends of a token out of its offsets, a character of the text for each. With prefixed
// set, a lone blank at the start of the text is the one that the pre-tokenizer put there, which the text does not have.
func trimOffsets(e *Encoding, prefixed bool) {
	for i := range e.Offsets {
		o := &e.Offsets[i]
		lead, trail := edgeBlanks(e.Tokens[i])
		if prefixed && lead == 1 && (i == 0 || o[0] == 0) {
			lead = 0
		}
		for ; lead > 0 && o[0] < o[1]; lead-- {
			_, n := utf8.DecodeRuneInString(e.text[o[0]:])
			o[0] += n
		}
		end := o[1]
		for ; trail > 0 && end > 0; trail-- {
			_, n := utf8.DecodeLastRuneInString(e.text[:end])
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
