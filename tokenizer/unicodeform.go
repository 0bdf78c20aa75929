package tokenizer

import (
	"slices"
	"strings"
	"unicode"
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
		text := f.form.String(p.text)
		if strings.Count(text, graphemeJoiner) == strings.Count(p.text, graphemeJoiner) && !hasNewer(p.text) && !hasNewer(text) {
			p.text = text
			return p
		}
	}
	w := rewrite(p, track, len(p.text))
	for i := 0; i < len(p.text); {
		n := f.segment(p.text[i:])
		if segment := p.text[i : i+n]; f.form.IsNormalString(segment) { // in newer tables, so in older ones too
			w.keep(i, i+n)
		} else {
			f.rewriteSegment(w, i, n)
		}
		i += n
	}
	return w.piece()
}

// graphemeJoiner is what package norm puts in after 30 marks in a row (UAX 15, Stream-Safe Text Format), which the forms
// themselves do not ask for.
const graphemeJoiner = "\u034f"

// segment returns the length of the first part of s that no composition or reordering crosses. Boundaries before marks are
// those of the Stream-Safe Text Format.
func (f unicodeForm) segment(s string) int {
	n := f.form.NextBoundaryInString(s, true)
	for n < len(s) && norm.NFD.PropertiesString(s[n:]).CCC() != 0 {
		n += f.form.NextBoundaryInString(s[n:], true)
	}
	return n
}

// newer reports whether a character has come to Unicode after the Rust library's tables: to it, such a character is one that
// does not compose, decompose or move.
func newer(r rune) bool {
	if r < 0x300 || unicode.Is(normalizes, r) {
		return false
	}
	p := norm.NFKD.PropertiesString(string(r))
	return p.CCC() != 0 || p.Decomposition() != nil
}

func hasNewer(s string) bool { return strings.ContainsFunc(s, newer) }

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
	for i, r := range s {
		if newer(r) {
			out = append(out, formChar{r, 0, 0})
			continue
		}
		if p := f.decompose.PropertiesString(s[i:]); p.Decomposition() == nil && (r < '가' || '힣' < r) {
			out = append(out, formChar{r, p.CCC(), 0})
			continue
		}
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
			sortByClass(out[lo:hi])
		}
		lo = hi
	}
	return out
}

// sortByClass sorts marks by their canonical combining class, those of one class as they were: by counting, as a text may be
// one letter with a million marks.
func sortByClass(marks []formChar) {
	if slices.IsSortedFunc(marks, func(a, b formChar) int { return int(a.ccc) - int(b.ccc) }) {
		return
	}
	var at [256]int // where the next mark of a class goes
	for _, m := range marks {
		at[m.ccc]++
	}
	n := 0
	for c := range at {
		at[c], n = n, n+at[c]
	}
	sorted := make([]formChar, len(marks))
	for _, m := range marks {
		sorted[at[m.ccc]] = m
		at[m.ccc]++
	}
	copy(marks, sorted)
}

// composed applies the canonical composition algorithm to a decomposed segment.
func (f unicodeForm) composed(in []formChar) []formChar {
	var out []formChar
	starter := -1 // index in out of the last starter
	for _, c := range in {
		if starter >= 0 {
			last := out[len(out)-1]
			blocked := len(out)-1 > starter && (last.ccc == 0 || last.ccc >= c.ccc)
			if !blocked {
				if r, ok := composePair(out[starter].r, c.r); ok {
					out[starter].r = r
					out[starter].change += c.change - 1
					continue
				}
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
	return r, n == len(s) && !newer(r)
}
