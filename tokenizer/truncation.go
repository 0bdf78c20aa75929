package tokenizer

import (
	"encoding/json"
	"fmt"
)

// Direction is the side of a text where truncation cuts or padding goes.
type Direction int

const (
	Right Direction = iota // the end
	Left                   // the beginning
)

// String returns right or left.
func (d Direction) String() string {
	if d == Left {
		return "left"
	}
	return "right"
}

// TruncationStrategy says which text of a pair is cut.
type TruncationStrategy int

const (
	LongestFirst TruncationStrategy = iota // the longer one, then both to the same length
	OnlyFirst                              // the text
	OnlySecond                             // its pair
)

var strategyNames = [...]string{"LongestFirst", "OnlyFirst", "OnlySecond"}

// String returns the name as tokenizer.json spells it.
func (s TruncationStrategy) String() string {
	if s < 0 || int(s) >= len(strategyNames) {
		return fmt.Sprintf("TruncationStrategy(%d)", int(s))
	}
	return strategyNames[s]
}

// Truncation bounds the number of tokens of an encoding.
type Truncation struct {
	MaxLength int // tokens in all, special tokens included; 0 is [Tokenizer.ModelMaxLength]
	Stride    int // tokens that a part of Encoding.Overflowing shares with the part before
	Strategy  TruncationStrategy
	Direction Direction // the side that is cut
}

// Validate reports values out of range.
func (t *Truncation) Validate() error {
	switch {
	case t.MaxLength < 0:
		return fmt.Errorf("tokenizer: Truncation.MaxLength is %d; want 1 or more, or 0 for the model's own", t.MaxLength)
	case t.Stride < 0:
		return fmt.Errorf("tokenizer: Truncation.Stride is %d; want 0 or more", t.Stride)
	case t.Strategy < LongestFirst || t.Strategy > OnlySecond:
		return fmt.Errorf("tokenizer: Truncation.Strategy is %d; want LongestFirst, OnlyFirst or OnlySecond", int(t.Strategy))
	case t.Direction != Right && t.Direction != Left:
		return fmt.Errorf("tokenizer: Truncation.Direction is %d; want Right or Left", int(t.Direction))
	}
	return nil
}

// NewTruncation is the truncation of transformers' __call__ with this max_length, 0 for the model's own: longest first, at
// truncation_side of tokenizer_config.json or the direction in tokenizer.json.
func (t *Tokenizer) NewTruncation(maxLength int) *Truncation {
	return &Truncation{MaxLength: maxLength, Direction: t.settings.truncationSide}
}

// Truncation returns the truncation in tokenizer.json; nil: none. See [Tokenizer.FileOptions].
func (t *Tokenizer) Truncation() *Truncation {
	if t.truncation == nil {
		return nil
	}
	c := *t.truncation
	return &c
}

// SetTruncation replaces the truncation that [Tokenizer.SavePretrained] writes into tokenizer.json; nil: none. No other
// call may run at the same time.
func (t *Tokenizer) SetTruncation(c *Truncation) error {
	if c != nil {
		if err := c.Validate(); err != nil {
			return err
		}
		n := *c
		if n.MaxLength == 0 {
			return fmt.Errorf("tokenizer: SetTruncation: MaxLength is 0; want 1 or more")
		}
		c = &n
	}
	t.truncation, t.changed = c, true
	return nil
}

// apply cuts a text, or a pair, to room tokens.
func (t *Truncation) apply(parts []*Encoding, room int, keep bool) error {
	total := 0
	for _, p := range parts {
		total += p.len()
	}
	if total <= room {
		return nil
	}
	if room == 0 {
		for _, p := range parts {
			if err := t.cut(p, 0, keep); err != nil {
				return err
			}
		}
		return nil
	}
	if t.Strategy == LongestFirst {
		if len(parts) == 1 {
			return t.cut(parts[0], room, keep)
		}
		n1, n2 := longestFirst(parts[0].len(), parts[1].len(), room)
		if err := t.cut(parts[0], n1, keep); err != nil {
			return err
		}
		return t.cut(parts[1], n2, keep)
	}
	which := 0
	if t.Strategy == OnlySecond {
		which = 1
	}
	if which >= len(parts) {
		return fmt.Errorf("tokenizer: truncation strategy OnlySecond, but there is one text; give a pair, or use OnlyFirst")
	}
	p := parts[which]
	if p.len() <= total-room {
		return fmt.Errorf("tokenizer: truncation strategy %v: cutting %d tokens would leave nothing of the %d in that text; raise MaxLength, or use LongestFirst",
			t.Strategy, total-room, p.len())
	}
	return t.cut(p, p.len()-(total-room), keep)
}

// longestFirst shares room between two texts of n1 and n2 tokens, which have more together.
func longestFirst(n1, n2, room int) (int, int) {
	swap := n1 > n2
	if swap {
		n1, n2 = n2, n1
	}
	if n1 > room {
		n2 = n1
	} else {
		n2 = max(n1, room-n1)
	}
	if n1+n2 > room {
		n1 = room / 2
		n2 = n1 + room%2
	}
	if swap {
		n1, n2 = n2, n1
	}
	return n1, n2
}

// cut leaves n tokens; with keep, the rest overflows in parts of n tokens that share Stride with their neighbours.
func (t *Truncation) cut(e *Encoding, n int, keep bool) error {
	size := e.len()
	if n >= size {
		return nil
	}
	if n == 0 {
		whole := *e
		*e = *newEncoding(0, whole.full())
		e.texts = whole.texts
		if keep {
			e.Overflowing = []*Encoding{&whole}
		}
		return nil
	}
	if t.Stride >= n {
		return fmt.Errorf("tokenizer: Truncation.Stride is %d, but a text has room for %d tokens beside the special tokens; want a smaller Stride or a larger MaxLength", t.Stride, n)
	}
	var parts []*Encoding
	for k := 0; ; k += n - t.Stride {
		lo, hi := k, min(k+n, size)
		last := hi == size
		if t.Direction == Left {
			lo, hi = max(size-k-n, 0), size-k
			last = lo == 0
		}
		parts = append(parts, e.slice(lo, hi))
		if last || !keep {
			break
		}
	}
	*e = *parts[0]
	e.Overflowing = parts[1:]
	return nil
}

// jsonTruncation is the "truncation" of a tokenizer.json.
type jsonTruncation struct {
	Direction string `json:"direction"`
	MaxLength int    `json:"max_length"`
	Strategy  string `json:"strategy"`
	Stride    int    `json:"stride"`
}

func loadTruncation(n node) (*Truncation, error) {
	if n.absent() {
		return nil, nil
	}
	c := jsonTruncation{Direction: "Right"}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	t := &Truncation{MaxLength: c.MaxLength, Stride: c.Stride}
	var err error
	if t.Direction, err = parseDirection(n, c.Direction); err != nil {
		return nil, err
	}
	for t.Strategy.String() != c.Strategy {
		if t.Strategy++; t.Strategy > OnlySecond {
			return nil, n.errorf("strategy: want LongestFirst, OnlyFirst or OnlySecond, got %q", c.Strategy)
		}
	}
	if c.MaxLength < 1 || c.Stride < 0 {
		return nil, n.errorf("max_length %d, stride %d: want 1 or more, and 0 or more", c.MaxLength, c.Stride)
	}
	return t, nil
}

func parseDirection(n node, s string) (Direction, error) {
	switch s {
	case "Right":
		return Right, nil
	case "Left":
		return Left, nil
	}
	return 0, n.errorf("direction: want Left or Right, got %q", s)
}

// titled is a direction as tokenizer.json spells it.
func (d Direction) titled() string {
	if d == Left {
		return "Left"
	}
	return "Right"
}

func (t *Truncation) json() (json.RawMessage, error) {
	if t == nil {
		return json.RawMessage("null"), nil
	}
	return json.Marshal(jsonTruncation{t.Direction.titled(), t.MaxLength, t.Strategy.String(), t.Stride})
}
