package tokenizer

import (
	"encoding/json"
	"strings"
	"unicode"
	"unicode/utf8"
)

// preTokenizer cuts a piece into the pieces that the model sees, handed to emit in order.
type preTokenizer func(e *encoder, p piece, emit func(piece))

// preLoader builds pre-tokenizers. With rawBytes set, a ByteLevel in last place hands out plain bytes, because the model
// maps them to the byte-level alphabet itself (see bpe.byteLevel).
type preLoader struct {
	rawBytes    bool
	needsOrigin bool // set when a step asks where in the original text a piece begins
	rewrites    bool // set when a step changes the text of pieces
	rewritten   bool // set when a step asks for that after one that changes the text
}

func (l *preLoader) load(n node, last bool) (preTokenizer, error) {
	kind, err := n.kind()
	if err != nil {
		return nil, err
	}
	switch kind {
	case "Sequence":
		return l.sequence(n, last)
	case "ByteLevel":
		return l.byteLevel(n, last)
	case "Split":
		return loadSplit(n)
	case "Metaspace":
		return l.metaspace(n)
	case "Digits":
		return loadDigits(n)
	case "Punctuation":
		return loadPunctuation(n)
	case "WhitespaceSplit":
		return splitRunes(unicode.IsSpace, removed), nil
	case "Whitespace":
		return splitWords, nil
	case "BertPreTokenizer":
		return chain(splitRunes(unicode.IsSpace, removed), splitRunes(isPunctuation, isolated)), nil
	case "UnicodeScripts":
		return splitScripts, nil
	case "FixedLength":
		return loadFixedLength(n)
	case "CharDelimiterSplit":
		var c struct {
			Delimiter string `json:"delimiter"`
		}
		if err := n.decode(&c); err != nil {
			return nil, err
		}
		delimiter, w := utf8.DecodeRuneInString(c.Delimiter)
		if w == 0 || w != len(c.Delimiter) {
			return nil, n.errorf("delimiter: want one character, got %q", c.Delimiter)
		}
		return splitRunes(func(r rune) bool { return r == delimiter }, removed), nil
	}
	return nil, n.unsupported(kind)
}

func (l *preLoader) sequence(n node, last bool) (preTokenizer, error) {
	items, err := sequenceItems(n)
	if err != nil {
		return nil, err
	}
	out := preTokenizer(func(_ *encoder, p piece, emit func(piece)) { emit(p) })
	for i, item := range items {
		f, err := l.load(item, last && i == len(items)-1)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			out = f
		} else {
			out = chain(out, f)
		}
	}
	return out, nil
}

func sequenceItems(n node) ([]node, error) {
	var c struct {
		PreTokenizers []json.RawMessage `json:"pretokenizers"`
	}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	return n.items("pretokenizers", c.PreTokenizers), nil
}

// endsInByteLevel reports whether the last step of a pre-tokenizer is ByteLevel.
func endsInByteLevel(n node) bool {
	kind, err := n.kind()
	if err != nil || kind != "Sequence" {
		return kind == "ByteLevel"
	}
	items, err := sequenceItems(n)
	return err == nil && len(items) > 0 && endsInByteLevel(items[len(items)-1])
}

func chain(a, b preTokenizer) preTokenizer {
	return func(e *encoder, p piece, emit func(piece)) {
		a(e, p, func(q piece) { b(e, q, emit) })
	}
}

func (l *preLoader) byteLevel(n node, last bool) (preTokenizer, error) {
	c := struct {
		AddPrefixSpace bool `json:"add_prefix_space"`
		UseRegex       bool `json:"use_regex"`
	}{true, true}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	raw := l.rawBytes && last
	l.rewrites = true
	return func(e *encoder, p piece, emit func(piece)) {
		if c.AddPrefixSpace && !strings.HasPrefix(p.text, " ") {
			p = prepend(p, " ", e.track)
		}
		if !raw {
			send := emit
			emit = func(q piece) { send(toByteLevel(q, e.track)) }
		}
		if !c.UseRegex {
			emit(p)
			return
		}
		for i := 0; i < len(p.text); { // the expression matches everywhere
			k := i + scanGPT2(p.text[i:])
			emit(p.slice(i, k))
			i = k
		}
	}, nil
}

func (l *preLoader) metaspace(n node) (preTokenizer, error) {
	c, err := decodeMetaspace(n)
	if err != nil {
		return nil, err
	}
	if c.scheme == "first" {
		l.needsOrigin, l.rewritten = true, l.rewritten || l.rewrites
	}
	l.rewrites = true
	split := c.Split == nil || *c.Split
	return func(e *encoder, p piece, emit func(piece)) {
		p = replaceSpaces(p, c.Replacement, e.track)
		if c.scheme == "always" || c.scheme == "first" && p.start == 0 {
			if !strings.HasPrefix(p.text, c.Replacement) {
				p = prepend(p, c.Replacement, e.track)
			}
		}
		if !split {
			emit(p)
			return
		}
		j := joiner{how: mergedWithNext, p: p, emit: emit}
		for i := 0; i < len(p.text); {
			k := strings.Index(p.text[i:], c.Replacement)
			if k < 0 {
				j.add(i, len(p.text), false)
				break
			}
			j.add(i, i+k, false)
			j.add(i+k, i+k+len(c.Replacement), true)
			i += k + len(c.Replacement)
		}
		j.flush()
	}, nil
}

type metaspace struct {
	Replacement    string  `json:"replacement"`
	PrependScheme  *string `json:"prepend_scheme"`
	AddPrefixSpace *bool   `json:"add_prefix_space"` // older spelling: true is always, false is never
	Split          *bool   `json:"split"`
	scheme         string  // always, first or never
}

func decodeMetaspace(n node) (*metaspace, error) {
	c := &metaspace{scheme: "always"}
	if err := n.decode(c); err != nil {
		return nil, err
	}
	if utf8.RuneCountInString(c.Replacement) != 1 {
		return nil, n.errorf("replacement: want one character, got %q", c.Replacement)
	}
	if c.PrependScheme != nil {
		c.scheme = *c.PrependScheme
	} else if c.AddPrefixSpace != nil && !*c.AddPrefixSpace {
		c.scheme = "never"
	}
	switch c.scheme {
	case "always", "first", "never":
		return c, nil
	}
	return nil, n.errorf("prepend_scheme: want always, first or never, got %q", c.scheme)
}

func replaceSpaces(p piece, with string, track bool) piece {
	if !track {
		p.text = strings.ReplaceAll(p.text, " ", with)
		return p
	}
	if !strings.Contains(p.text, " ") {
		return p
	}
	w := rewrite(p, true, len(p.text)+len(p.text)/2)
	done := 0
	for i := 0; i < len(p.text); i++ {
		if p.text[i] == ' ' {
			w.keep(done, i)
			w.put(with, i)
			done = i + 1
		}
	}
	w.keep(done, len(p.text))
	return w.piece()
}

func loadDigits(n node) (preTokenizer, error) {
	var c struct {
		Individual bool `json:"individual_digits"`
	}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	how := contiguous
	if c.Individual {
		how = isolated
	}
	return splitRunes(func(r rune) bool {
		if r < utf8.RuneSelf {
			return '0' <= r && r <= '9'
		}
		return unicode.Is(digits, r)
	}, how), nil
}

func loadPunctuation(n node) (preTokenizer, error) {
	c := struct {
		Behavior string `json:"behavior"`
	}{"Isolated"}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	how, err := parseBehavior(n, c.Behavior)
	if err != nil {
		return nil, err
	}
	return splitRunes(isPunctuation, how), nil
}

func isPunctuation(r rune) bool {
	if r < utf8.RuneSelf {
		return '!' <= r && r <= '/' || ':' <= r && r <= '@' || '[' <= r && r <= '`' || '{' <= r && r <= '~'
	}
	return unicode.Is(punctuation, r)
}

// splitWords is the Whitespace pre-tokenizer: \w+|[^\w\s]+, the rest dropped.
func splitWords(_ *encoder, p piece, emit func(piece)) {
	const none, word, other = 0, 1, 2
	lo, state := 0, none
	for i, r := range p.text {
		now := other
		if isWord(r) {
			now = word
		} else if unicode.IsSpace(r) {
			now = none
		}
		if now != state {
			if state != none {
				emit(p.slice(lo, i))
			}
			lo, state = i, now
		}
	}
	if state != none {
		emit(p.slice(lo, len(p.text)))
	}
}
