package tokenizer

import (
	"slices"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// unicodeForm is one of the four Unicode normalization forms (UAX 15).
type unicodeForm struct {
	form      norm.Form
	decompose norm.Form // full decomposition of one character: NFD or NFKD
	compose   bool
}

var unicodeForms = map[string]unicodeForm{
	"NFC":  {norm.NFC, norm.NFD, true},
	"NFD":  {norm.NFD, norm.NFD, false},
	"NFKC": {norm.NFKC, norm.NFKD, true},
	"NFKD": {norm.NFKD, norm.NFKD, false},
}

func (f unicodeForm) normalize(p piece, track bool) piece {
	if f.form.IsNormalString(p.text) {
		return p
	}
	if !track {
		p.text = f.form.String(p.text)
		return p
	}
	w := rewrite(p, true, len(p.text))
	for i := 0; i < len(p.text); {
		n := f.form.NextBoundaryInString(p.text[i:], true)
		if segment := p.text[i : i+n]; f.form.IsNormalString(segment) {
			w.keep(i, i+n)
		} else {
			f.rewriteSegment(w, i, n)
		}
		i += n
	}
	return w.piece()
}

// formChar is a character of the result and how it changes the count of characters: 0 stands for one source character,
// 1 was added by a decomposition, -k took k further source characters into a composition.
type formChar struct {
	r      rune
	ccc    uint8
	change int
}

// rewriteSegment normalizes n bytes at i.
func (f unicodeForm) rewriteSegment(w *rewriter, i, n int) {
	chars := f.decomposed(w.src.text[i : i+n])
	if f.compose {
		chars = f.composed(chars)
	}
	w.transform(i, n, chars)
}

// transform replaces n bytes at i by chars. Alignment follows the counts only: each result character stands for the next
// source character in order (an added one for the one before), whatever canonical reordering did; so does the reference.
func (w *rewriter) transform(i, n int, chars []formChar) {
	at, end := i, i+n
	for _, c := range chars {
		if c.change > 0 {
			w.put(string(c.r), at-1)
			continue
		}
		w.put(string(c.r), min(at, end-1))
		for k := 0; k <= -c.change && at < end; k++ {
			_, width := utf8.DecodeRuneInString(w.src.text[at:])
			at += width
		}
	}
}

func (f unicodeForm) decomposed(s string) []formChar {
	var out []formChar
	for _, r := range s {
		for k, d := range []rune(f.decompose.String(string(r))) {
			ccc := norm.NFD.PropertiesString(string(d)).CCC()
			out = append(out, formChar{d, ccc, min(k, 1)})
		}
	}
	for lo := 0; lo < len(out); {
		hi := lo + 1
		if out[lo].ccc != 0 {
			for hi < len(out) && out[hi].ccc != 0 {
				hi++
			}
			slices.SortStableFunc(out[lo:hi], func(a, b formChar) int { return int(a.ccc) - int(b.ccc) })
		}
		lo = hi
	}
	return out
}

// composed applies the canonical composition algorithm to a decomposed segment.
func (f unicodeForm) composed(in []formChar) []formChar {
	var out []formChar
	starter := -1 // index in out of the last starter
	for _, c := range in {
		if starter >= 0 {
			last := out[len(out)-1]
			blocked := len(out)-1 > starter && (last.ccc == 0 || last.ccc >= c.ccc)
			if r, ok := composePair(out[starter].r, c.r); ok && !blocked {
				out[starter].r = r
				out[starter].change += c.change - 1
				continue
			}
		}
		if c.ccc == 0 {
			starter = len(out)
		}
		out = append(out, c)
	}
	return out
}

// composePair returns the primary composite of two characters.
func composePair(a, b rune) (rune, bool) {
	s := norm.NFC.String(string(a) + string(b))
	r, n := utf8.DecodeRuneInString(s)
	return r, n == len(s)
}
