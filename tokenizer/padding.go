package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Padding fills encodings up to one length. [Tokenizer.NewPadding] gives one with the tokenizer's own pad token.
type Padding struct {
	Length     int       // tokens; 0 is the longest encoding of the batch
	MultipleOf int       // the length is rounded up to a multiple; 0: it is not
	Direction  Direction // the side where the padding goes
	ID         int       // of the pad token
	TypeID     int       // segment id of padding
	Token      string    // how Encoding.Tokens spells padding
}

// Validate reports values out of range.
func (p *Padding) Validate() error {
	for _, f := range []struct {
		name  string
		value int
	}{{"Length", p.Length}, {"MultipleOf", p.MultipleOf}, {"ID", p.ID}, {"TypeID", p.TypeID}} {
		if f.value < 0 {
			return fmt.Errorf("tokenizer: Padding.%s is %d; want 0 or more", f.name, f.value)
		}
	}
	if p.Direction != Right && p.Direction != Left {
		return fmt.Errorf("tokenizer: Padding.Direction is %d; want Right or Left", int(p.Direction))
	}
	return nil
}

// NewPadding is the padding of transformers' __call__ to length tokens, 0 for the longest of the batch: with the pad token
// of the tokenizer, segment id 0, and at padding_side of tokenizer_config.json or the direction in tokenizer.json.
func (t *Tokenizer) NewPadding(length int) (*Padding, error) {
	if t.PadID() < 0 {
		return nil, errors.New("tokenizer: the tokenizer has no padding token; give it one with SetSpecialToken, for instance the EOS token")
	}
	return &Padding{Length: length, ID: t.PadID(), Token: t.PadToken(), Direction: t.settings.paddingSide}, nil
}

// Padding returns the padding in tokenizer.json; nil: none. See [Tokenizer.FileOptions].
func (t *Tokenizer) Padding() *Padding {
	if t.padding == nil {
		return nil
	}
	c := *t.padding
	return &c
}

// SetPadding replaces the padding that [Tokenizer.SavePretrained] writes into tokenizer.json; nil: none. No other call may
// run at the same time.
func (t *Tokenizer) SetPadding(p *Padding) error {
	if p != nil {
		if err := p.Validate(); err != nil {
			return err
		}
		n := *p
		p = &n
	}
	t.padding, t.changed = p, true
	return nil
}

// apply fills all encodings up to the same length; a longer one stays as it is.
func (p *Padding) apply(all []*Encoding) {
	n := p.Length
	if n == 0 {
		for _, e := range all {
			n = max(n, e.len())
		}
	}
	if p.MultipleOf > 0 {
		n = (n + p.MultipleOf - 1) / p.MultipleOf * p.MultipleOf
	}
	for _, e := range all {
		p.pad(e, n)
	}
}

func (p *Padding) pad(e *Encoding, n int) {
	for _, o := range e.Overflowing {
		p.pad(o, n)
	}
	k := n - e.len()
	if k <= 0 {
		return
	}
	fill := addedEncoding(slices.Repeat([]int{p.ID}, k), slices.Repeat([]string{p.Token}, k), p.TypeID)
	clear(fill.AttentionMask)
	parts := []*Encoding{e, fill}
	if p.Direction == Left {
		parts = []*Encoding{fill, e}
	}
	over := e.Overflowing
	*e = *concat(parts[0], parts[1])
	e.Overflowing = over
}

// jsonPadding is the "padding" of a tokenizer.json.
type jsonPadding struct {
	Strategy   json.RawMessage `json:"strategy"` // "BatchLongest" or {"Fixed": n}
	Direction  string          `json:"direction"`
	MultipleOf *int            `json:"pad_to_multiple_of"`
	ID         int             `json:"pad_id"`
	TypeID     int             `json:"pad_type_id"`
	Token      string          `json:"pad_token"`
}

func loadPadding(n node) (*Padding, error) {
	if n.absent() {
		return nil, nil
	}
	c := jsonPadding{}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	p := &Padding{ID: c.ID, TypeID: c.TypeID, Token: c.Token}
	var err error
	if p.Direction, err = parseDirection(n, c.Direction); err != nil {
		return nil, err
	}
	if c.MultipleOf != nil {
		p.MultipleOf = *c.MultipleOf
	}
	var name string
	var fixed struct{ Fixed *int }
	switch {
	case json.Unmarshal(c.Strategy, &name) == nil && name == "BatchLongest":
	case json.Unmarshal(c.Strategy, &fixed) == nil && fixed.Fixed != nil:
		p.Length = *fixed.Fixed
	default:
		return nil, n.errorf(`strategy: want "BatchLongest" or {"Fixed": length}, got %.80s`, c.Strategy)
	}
	if p.Length < 0 || p.MultipleOf < 0 || p.ID < 0 || p.TypeID < 0 {
		return nil, n.errorf("want numbers of 0 or more, got length %d, pad_to_multiple_of %d, pad_id %d, pad_type_id %d", p.Length, p.MultipleOf, p.ID, p.TypeID)
	}
	return p, nil
}

func (p *Padding) json() (json.RawMessage, error) {
	if p == nil {
		return json.RawMessage("null"), nil
	}
	c := jsonPadding{Strategy: json.RawMessage(`"BatchLongest"`), Direction: p.Direction.titled(), ID: p.ID, TypeID: p.TypeID, Token: p.Token}
	if p.Length > 0 {
		c.Strategy = json.RawMessage(fmt.Sprintf(`{"Fixed":%d}`, p.Length))
	}
	if p.MultipleOf > 0 {
		c.MultipleOf = &p.MultipleOf
	}
	return json.Marshal(c)
}
