package tokenizer

import (
	"encoding/json"
	"strings"
	"unicode"
	"unicode/utf8"
)

// normalizer rewrites a text; with track set the result knows which original bytes it stands for.
type normalizer func(p piece, track bool) (piece, error)

func loadNormalizer(n node) (normalizer, error) {
	kind, err := n.kind()
	if err != nil {
		return nil, err
	}
	switch kind {
	case "Sequence":
		return loadNormalizers(n)
	case "NFC", "NFD", "NFKC", "NFKD":
		f := unicodeForms[kind]
		return func(p piece, track bool) (piece, error) { return f.normalize(p, track), nil }, nil
	case "Lowercase":
		return func(p piece, track bool) (piece, error) { return lowercase(p, track), nil }, nil
	case "StripAccents":
		return func(p piece, track bool) (piece, error) { return mapRunes(p, track, dropMarks), nil }, nil
	case "Nmt":
		return func(p piece, track bool) (piece, error) { return mapRunes(p, track, nmt), nil }, nil
	case "ByteLevel":
		return func(p piece, track bool) (piece, error) { return toByteLevel(p, track), nil }, nil
	case "Prepend":
		var c struct {
			Prepend string `json:"prepend"`
		}
		if err := n.decode(&c); err != nil {
			return nil, err
		}
		return func(p piece, track bool) (piece, error) { return prepend(p, c.Prepend, track), nil }, nil
	case "Replace":
		return loadReplace(n)
	case "Strip":
		c := struct {
			Left  bool `json:"strip_left"`
			Right bool `json:"strip_right"`
		}{true, true}
		if err := n.decode(&c); err != nil {
			return nil, err
		}
		return func(p piece, _ bool) (piece, error) { return strip(p, c.Left, c.Right), nil }, nil
	case "BertNormalizer":
		return loadBertNormalizer(n)
	case "Precompiled":
		return loadPrecompiled(n)
	}
	return nil, n.unsupported(kind)
}

func loadNormalizers(n node) (normalizer, error) {
	var c struct {
		Normalizers []json.RawMessage `json:"normalizers"`
	}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	all, err := loadAll(n.items("normalizers", c.Normalizers), loadNormalizer)
	if err != nil {
		return nil, err
	}
	return func(p piece, track bool) (piece, error) {
		var err error
		for _, f := range all {
			if p, err = f(p, track); err != nil {
				return piece{}, err
			}
		}
		return p, nil
	}, nil
}

// pattern is {"String": s} or {"Regex": s}.
type pattern struct {
	String *string `json:"String"`
	Regex  *string `json:"Regex"`
}

// find returns a function that reports every match in a text.
func (p pattern) find(n node) (func(s string, found func(lo, hi int)) error, error) {
	switch {
	case p.String != nil:
		literal := *p.String
		return func(s string, found func(lo, hi int)) error {
			for i := 0; literal != ""; {
				k := strings.Index(s[i:], literal)
				if k < 0 {
					break
				}
				found(i+k, i+k+len(literal))
				i += k + len(literal)
			}
			return nil
		}, nil
	case p.Regex != nil:
		re, err := compileRegex(*p.Regex)
		if err != nil {
			return nil, n.errorf("pattern.Regex: %w", err)
		}
		return re.each, nil
	}
	return nil, n.errorf(`pattern: want {"String": ...} or {"Regex": ...}`)
}

func loadReplace(n node) (normalizer, error) {
	var c struct {
		Pattern pattern `json:"pattern"`
		Content string  `json:"content"`
	}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	find, err := c.Pattern.find(n)
	if err != nil {
		return nil, err
	}
	return func(p piece, track bool) (piece, error) {
		if !track && c.Pattern.String != nil {
			if *c.Pattern.String != "" {
				p.text = strings.ReplaceAll(p.text, *c.Pattern.String, c.Content)
			}
			return p, nil
		}
		var w *rewriter
		done := 0
		err := find(p.text, func(lo, hi int) {
			if w == nil {
				w = rewrite(p, track, len(p.text)+len(p.text)/2)
			}
			w.keep(done, lo)
			w.put(c.Content, hi-1)
			done = hi
		})
		if err != nil {
			return piece{}, n.errorf("%w", err)
		}
		if w == nil {
			return p, nil
		}
		w.keep(done, len(p.text))
		return w.piece(), nil
	}, nil
}

func strip(p piece, left, right bool) piece {
	lo, hi := 0, len(p.text)
	if right {
		hi = len(strings.TrimRightFunc(p.text, unicode.IsSpace))
	}
	if left {
		lo = hi - len(strings.TrimLeftFunc(p.text[:hi], unicode.IsSpace))
	}
	return p.slice(lo, hi)
}

// mapRunes applies f to every character; a negative result drops it.
func mapRunes(p piece, track bool, f func(rune) rune) piece {
	w := rewrite(p, track, len(p.text))
	for i, r := range p.text {
		n := utf8.RuneLen(r)
		switch q := f(r); {
		case q == r:
			w.keep(i, i+n)
		case q >= 0:
			w.put(string(q), i)
		}
	}
	return w.piece()
}

func dropMarks(r rune) rune {
	if unicode.Is(marks, r) {
		return -1
	}
	return r
}

// nmt is the clean-up rule of SentencePiece's nmt normalizers.
func nmt(r rune) rune {
	switch {
	case 0x01 <= r && r <= 0x08, r == 0x0b, 0x0e <= r && r <= 0x1f, r == 0x7f, r == 0x8f, r == 0x9f:
		return -1
	case r == 0x09, r == 0x0a, r == 0x0c, r == 0x0d, r == 0x1680, 0x200b <= r && r <= 0x200f, r == 0x2028, r == 0x2029,
		r == 0x2581, r == 0xfeff, r == 0xfffd:
		return ' '
	}
	return r
}

// lowercase maps character by character: no rule depends on the neighbours.
func lowercase(p piece, track bool) piece {
	w := rewrite(p, track, len(p.text))
	for i, r := range p.text {
		switch l := unicode.ToLower(r); {
		case r == 'İ':
			w.put("i\u0307", i)
		case l == r:
			w.keep(i, i+utf8.RuneLen(r))
		default:
			w.put(string(l), i)
		}
	}
	return w.piece()
}

// bertOptions are the fields of BertNormalizer with their defaults in the reference.
type bertOptions struct {
	CleanText    bool  `json:"clean_text"`
	Chinese      bool  `json:"handle_chinese_chars"`
	StripAccents *bool `json:"strip_accents"` // null: as lowercase
	Lowercase    bool  `json:"lowercase"`
}

func loadBertNormalizer(n node) (normalizer, error) {
	c := bertOptions{CleanText: true, Chinese: true, Lowercase: true}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	accents := c.Lowercase
	if c.StripAccents != nil {
		accents = *c.StripAccents
	}
	return func(p piece, track bool) (piece, error) {
		if c.CleanText {
			p = mapRunes(p, track, bertClean)
		}
		if c.Chinese {
			p = spaceIdeographs(p, track)
		}
		if accents {
			p = unicodeForms["NFD"].normalize(p, track)
			p = mapRunes(p, track, func(r rune) rune {
				if unicode.Is(accentMarks, r) {
					return -1
				}
				return r
			})
		}
		if c.Lowercase {
			p = lowercase(p, track)
		}
		return p, nil
	}, nil
}

func bertClean(r rune) rune {
	switch {
	case r == '\t' || r == '\n' || r == '\r':
		return ' '
	case unicode.Is(controls, r):
		return -1
	case unicode.IsSpace(r):
		return ' '
	}
	return r
}

// ideographs are the blocks that BERT's reference tokenizer sets apart with spaces.
var ideographs = &unicode.RangeTable{
	R16: []unicode.Range16{{Lo: 0x3400, Hi: 0x4dbf, Stride: 1}, {Lo: 0x4e00, Hi: 0x9fff, Stride: 1}, {Lo: 0xf900, Hi: 0xfaff, Stride: 1}},
	R32: []unicode.Range32{{Lo: 0x20000, Hi: 0x2a6df, Stride: 1}, {Lo: 0x2a700, Hi: 0x2b73f, Stride: 1}, {Lo: 0x2b740, Hi: 0x2b81f, Stride: 1},
		{Lo: 0x2b920, Hi: 0x2ceaf, Stride: 1}, {Lo: 0x2f800, Hi: 0x2fa1f, Stride: 1}},
}

func spaceIdeographs(p piece, track bool) piece {
	w := rewrite(p, track, len(p.text))
	for i, r := range p.text {
		n := utf8.RuneLen(r)
		if !unicode.Is(ideographs, r) {
			w.keep(i, i+n)
			continue
		}
		w.put(" ", i)
		w.keep(i, i+n)
		w.put(" ", i)
	}
	return w.piece()
}
