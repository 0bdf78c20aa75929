package jinja

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// upper, lower and caseFold map whole strings as Python does: ß becomes SS, a final Σ becomes ς. The casers of x/text are
// not safe for concurrent use, so each call has its own.
func upper(s string) string {
	if isASCII(s) {
		return strings.ToUpper(s)
	}
	return cases.Upper(language.Und).String(s)
}

func lower(s string) string {
	if isASCII(s) {
		return strings.ToLower(s)
	}
	return cases.Lower(language.Und).String(s)
}

func caseFold(s string) string {
	if isASCII(s) {
		return strings.ToLower(s)
	}
	return cases.Fold().String(s)
}

// titleRune is the title case of one character, which may be several: ﬁ becomes Fi.
func titleRune(s string) string {
	if r, n := utf8.DecodeRuneInString(s); n == len(s) && r < utf8.RuneSelf {
		return strings.ToUpper(s)
	}
	return cases.Title(language.Und, cases.NoLower).String(s)
}

func capitalize(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return ""
	}
	return titleRune(s[:n]) + lowerAfter(s, n)
}

// lowerAfter is the lower case of s[n:], where what is before counts as the beginning of a word with a final Σ.
func lowerAfter(s string, n int) string {
	if isASCII(s[n:]) {
		return strings.ToLower(s[n:])
	}
	return strings.TrimPrefix(lower("a"+s[n:]), "a")
}

// titleCase is str.title: the first cased character after one without case is upper case, the others are lower case.
func titleCase(s string) string {
	var b strings.Builder
	cased := false
	for i, r := range s {
		c := s[i : i+utf8.RuneLen(r)]
		if cased {
			b.WriteString(lower(c))
		} else {
			b.WriteString(titleRune(c))
		}
		cased = isCased(r)
	}
	return b.String()
}

func swapCase(s string) string {
	var b strings.Builder
	for i, r := range s {
		c := s[i : i+utf8.RuneLen(r)]
		if unicode.IsUpper(r) {
			b.WriteString(lower(c))
		} else {
			b.WriteString(upper(c))
		}
	}
	return b.String()
}

func isCased(r rune) bool { return unicode.IsUpper(r) || unicode.IsLower(r) || unicode.IsTitle(r) }

// isCase is str.isupper or str.islower: all cased characters are of that case, and there is one.
func isCase(s string, is func(rune) bool) bool {
	any := false
	for _, r := range s {
		if isCased(r) && !is(r) {
			return false
		}
		any = any || is(r)
	}
	return any
}

func isUpper(s string) bool { return isCase(s, unicode.IsUpper) }

func isLower(s string) bool { return isCase(s, unicode.IsLower) }

func isTitle(s string) bool {
	cased, any := false, false
	for _, r := range s {
		switch {
		case unicode.IsUpper(r) || unicode.IsTitle(r):
			if cased {
				return false
			}
			cased, any = true, true
		case unicode.IsLower(r):
			if !cased {
				return false
			}
			any = true
		default:
			cased = false
		}
	}
	return any
}

// allRunes reports whether s is not empty and all its characters are.
func allRunes(s string, is func(rune) bool) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return !is(r) }) < 0
}

func isIdentifier(s string) bool {
	for i, r := range s {
		if !(r == '_' || unicode.IsLetter(r) || unicode.Is(unicode.Nl, r) || i > 0 && isWordRune(r) && !unicode.Is(unicode.No, r)) {
			return false
		}
	}
	return s != ""
}

// isDigit is str.isdigit: decimal digits, and superscripts and the like.
func isDigit(r rune) bool {
	return unicode.IsDigit(r) || unicode.Is(superscripts, r)
}

var superscripts = &unicode.RangeTable{R16: []unicode.Range16{
	{Lo: 0xb2, Hi: 0xb3, Stride: 1}, {Lo: 0xb9, Hi: 0xb9, Stride: 1}, {Lo: 0x2070, Hi: 0x2070, Stride: 1},
	{Lo: 0x2074, Hi: 0x2079, Stride: 1}, {Lo: 0x2080, Hi: 0x2089, Stride: 1}, {Lo: 0x2460, Hi: 0x2468, Stride: 1},
}, LatinOffset: 2}
