package tokenizer

import "slices"

// templatePart is a run of special tokens, or one of the texts.
type templatePart struct {
	special  *Encoding // nil: a text
	sequence int       // 0 for the text, 1 for its pair
	typeID   int
}

// template is TemplateProcessing.
type template struct {
	n            node
	single, pair []templatePart
}

// templateRef is a part of a template as the file has it.
type templateRef struct {
	SpecialToken *templateID `json:"SpecialToken"`
	Sequence     *templateID `json:"Sequence"`
}

type templateID struct {
	ID     string `json:"id"`
	TypeID int    `json:"type_id"`
}

type templateSpecial struct {
	IDs    []int    `json:"ids"`
	Tokens []string `json:"tokens"`
}

func loadTemplate(n node) (postProcessor, error) {
	var c struct {
		Single        []templateRef              `json:"single"`
		Pair          []templateRef              `json:"pair"`
		SpecialTokens map[string]templateSpecial `json:"special_tokens"`
	}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	t := &template{n: n}
	var err error
	if t.single, err = loadTemplateParts(n, "single", c.Single, c.SpecialTokens); err != nil {
		return nil, err
	}
	t.pair, err = loadTemplateParts(n, "pair", c.Pair, c.SpecialTokens)
	return t, err
}

func loadTemplateParts(n node, field string, refs []templateRef, special map[string]templateSpecial) ([]templatePart, error) {
	var parts []templatePart
	for i, r := range refs {
		switch {
		case r.Sequence != nil && r.Sequence.ID == "A":
			parts = append(parts, templatePart{typeID: r.Sequence.TypeID})
		case r.Sequence != nil && r.Sequence.ID == "B" && field == "pair":
			parts = append(parts, templatePart{sequence: 1, typeID: r.Sequence.TypeID})
		case r.SpecialToken != nil:
			t, ok := special[r.SpecialToken.ID]
			if !ok {
				return nil, n.errorf("%s[%d]: %q is not in special_tokens", field, i, r.SpecialToken.ID)
			}
			if len(t.IDs) != len(t.Tokens) {
				return nil, n.errorf("special_tokens.%s: %d ids but %d tokens", r.SpecialToken.ID, len(t.IDs), len(t.Tokens))
			}
			if k := slices.IndexFunc(t.IDs, func(id int) bool { return id < 0 || id > maxTokenID }); k >= 0 {
				return nil, n.errorf("special_tokens.%s: id %d; want 0 to %d", r.SpecialToken.ID, t.IDs[k], maxTokenID)
			}
			parts = append(parts, templatePart{special: addedEncoding(t.IDs, t.Tokens, r.SpecialToken.TypeID)})
		case field == "pair":
			return nil, n.errorf(`pair[%d]: want {"SpecialToken": ...} or {"Sequence": {"id": "A" or "B"}}`, i)
		default:
			return nil, n.errorf(`single[%d]: want {"SpecialToken": ...} or {"Sequence": {"id": "A"}}`, i)
		}
	}
	return parts, nil
}

func (t *template) addedTokens(pair bool) (n int) {
	parts := t.single
	if pair {
		parts = t.pair
	}
	for _, p := range parts {
		if p.special != nil {
			n += p.special.len()
		}
	}
	return n
}

func (t *template) process(in []*Encoding, add bool) ([]*Encoding, error) {
	parts := t.single
	switch len(in) {
	case 1:
	case 2:
		if parts = t.pair; len(parts) == 0 {
			return nil, t.n.errorf("pair: missing, so this tokenizer takes no pairs of texts")
		}
	default:
		return nil, t.n.errorf("the steps before this template give %d parts; a template takes a text or a pair, so put it first", len(in))
	}
	out := make([]*Encoding, 0, len(parts))
	var used [2]bool
	for _, p := range parts {
		switch {
		case p.special == nil:
			e := in[p.sequence]
			if used[p.sequence] { // a template may name a text twice
				e = e.clone()
			}
			used[p.sequence] = true
			e.setTypeIDs(p.typeID)
			e.setRange(p.sequence, 0, e.len())
			out = append(out, e)
		case add:
			special := newEncoding(p.special.len(), in[0].full())
			special.append(p.special)
			out = append(out, special)
		}
	}
	return out, nil
}
