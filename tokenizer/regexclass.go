package tokenizer

import (
	"fmt"
	"strings"
	"unicode"
)

// pinClasses gives \w, \W, \b and \B in an expression the characters that they have in the Rust library, whose engine
// counts other characters as parts of words than Go's does. The other classes differ by the versions of
// Unicode alone.
func pinClasses(pattern string) string {
	if !strings.Contains(pattern, `\`) {
		return pattern
	}
	var out strings.Builder
	set := false // inside [ ]
	for i := 0; i < len(pattern); i++ {
		c := pattern[i]
		switch {
		case c == '\\' && i+1 < len(pattern):
			i++
			out.WriteString(pinned(pattern[i], set))
			continue
		case c == '[' && !set:
			set = true
			if strings.HasPrefix(pattern[i:], "[]") || strings.HasPrefix(pattern[i:], "[^]") { // ] is a member here
				n := strings.IndexByte(pattern[i:], ']')
				out.WriteString(pattern[i : i+n+1])
				i += n
				continue
			}
		case c == ']':
			set = false
		}
		out.WriteByte(c)
	}
	return out.String()
}

// pinned is what the escape of a character becomes. Inside a set, \w lacks the superscript digits and fractions of Latin-1
// in the library.
func pinned(escape byte, set bool) string {
	word := regexWords.alone
	switch {
	case escape == 'w' && set:
		return regexWords.inSet
	case escape == 'w':
		return "[" + word + "]"
	case escape == 'W' && !set:
		return "[^" + word + "]"
	case escape == 'W':
		return regexWords.notInSet
	case escape == 'b' && !set:
		return "(?:(?<=[" + word + "])(?![" + word + "])|(?<![" + word + "])(?=[" + word + "]))"
	case escape == 'B' && !set:
		return "(?:(?<=[" + word + "])(?=[" + word + "])|(?<![" + word + "])(?![" + word + "]))"
	}
	return `\` + string(escape)
}

// regexWords are \w and \W as members of a set.
var regexWords = func() (w struct{ alone, inSet, notInSet string }) {
	var alone, in, out strings.Builder
	add := func(b *strings.Builder, lo, hi rune) {
		if lo <= hi {
			fmt.Fprintf(b, "%s-%s", setRune(lo), setRune(hi))
		}
	}
	next := rune(0)
	inSet := func(lo, hi rune) {
		add(&in, lo, hi)
		if lo <= hi {
			add(&out, next, lo-1)
			next = hi + 1
		}
	}
	eachRange(regexWord, func(lo, hi rune) {
		add(&alone, lo, hi)
		for _, r := range "²³¹¼½¾" {
			if lo <= r && r <= hi {
				inSet(lo, r-1)
				lo = r + 1
			}
		}
		inSet(lo, hi)
	})
	add(&out, next, unicode.MaxRune)
	w.alone, w.inSet, w.notInSet = alone.String(), in.String(), out.String()
	return w
}()

// setRune writes a character of a set so that it means nothing else.
func setRune(r rune) string {
	if r < 0x80 {
		return fmt.Sprintf(`\x%02x`, r)
	}
	return string(r)
}

func eachRange(t *unicode.RangeTable, f func(lo, hi rune)) {
	for _, r := range t.R16 {
		f(rune(r.Lo), rune(r.Hi))
	}
	for _, r := range t.R32 {
		f(rune(r.Lo), rune(r.Hi))
	}
}
