package jinja

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// number reads an int or a float: 1, 1_000, 0x1f, 0o17, 0b1, 1.5, 1e3.
func (l *lexer) number() {
	rest := l.src[l.pos:]
	afterDot := l.pos > 0 && l.src[l.pos-1] == '.'
	if n := floatLen(rest); n > 0 && !afterDot {
		l.emit(tokenFloat, l.pos, strings.ReplaceAll(rest[:n], "_", ""))
		l.pos += n
		return
	}
	n := intLen(rest)
	l.emit(tokenInt, l.pos, strings.ReplaceAll(rest[:n], "_", ""))
	l.pos += n
}

// floatLen returns the length of the float at the start of s, 0 if there is none.
func floatLen(s string) int {
	n := digitsLen(s, isDecimal)
	if n == 0 {
		return 0
	}
	float := false
	if n < len(s) && s[n] == '.' {
		if d := digitsLen(s[n+1:], isDecimal); d > 0 {
			n += 1 + d
			float = true
		}
	}
	if n < len(s) && (s[n] == 'e' || s[n] == 'E') {
		e := n + 1
		if e < len(s) && (s[e] == '+' || s[e] == '-') {
			e++
		}
		if d := digitsLen(s[min(e, len(s)):], isDecimal); d > 0 {
			return e + d
		}
	}
	if float {
		return n
	}
	return 0
}

func intLen(s string) int {
	if len(s) > 2 && s[0] == '0' {
		var is func(byte) bool
		switch s[1] | 0x20 {
		case 'x':
			is = isHex
		case 'o':
			is = func(c byte) bool { return c >= '0' && c <= '7' }
		case 'b':
			is = func(c byte) bool { return c == '0' || c == '1' }
		}
		if is != nil {
			d := s[2:]
			if d[0] == '_' {
				d = d[1:]
			}
			if n := digitsLen(d, is); n > 0 {
				return len(s) - len(d) + n
			}
		}
	}
	if s[0] == '0' {
		return digitsLen(s, func(c byte) bool { return c == '0' })
	}
	return digitsLen(s, isDecimal)
}

// digitsLen counts digits with single underscores between them.
func digitsLen(s string, is func(byte) bool) int {
	n := 0
	for n < len(s) {
		switch {
		case is(s[n]):
			n++
		case s[n] == '_' && n > 0 && s[n-1] != '_' && n+1 < len(s) && is(s[n+1]):
			n++
		default:
			return n
		}
	}
	return n
}

func isDecimal(c byte) bool { return c >= '0' && c <= '9' }

func isHex(c byte) bool { return isDecimal(c) || c|0x20 >= 'a' && c|0x20 <= 'f' }

// string reads a literal in quotes; false if it has no end.
func (l *lexer) string(quote byte) bool {
	for i := l.pos + 1; i < len(l.src); i++ {
		switch l.src[i] {
		case '\\':
			i++
		case quote:
			l.emit(tokenString, l.pos, l.unescape(l.src[l.pos+1:i]))
			l.pos = i + 1
			return true
		}
	}
	return false
}

// unescape is Python's unicode-escape codec, after all that is not ASCII was written as an escape: a backslash before such
// a character therefore shows the escape.
func (l *lexer) unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '\\')
		if i < 0 || i+1 >= len(s) {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(s[:i])
		r, size := utf8.DecodeRuneInString(s[i+1:])
		s = s[i+1+size:]
		switch {
		case r == '\n':
		case strings.ContainsRune(`\'"`, r):
			b.WriteRune(r)
		case r == 'x':
			s = l.codePoint(&b, s, 2)
		case r == 'u':
			s = l.codePoint(&b, s, 4)
		case r == 'U':
			s = l.codePoint(&b, s, 8)
		case r == 'N':
			l.fail(l.pos, "named characters (\\N{...}) are not supported; write \\u and the code point")
		case r >= '0' && r <= '7':
			s = octal(&b, byte(r), s)
		case r >= utf8.RuneSelf:
			b.WriteByte('\\')
			b.WriteString(backslashReplace(r)[1:])
		default:
			if k := strings.IndexRune("abfnrtv", r); k >= 0 {
				b.WriteByte("\a\b\f\n\r\t\v"[k])
			} else {
				b.WriteByte('\\')
				b.WriteRune(r)
			}
		}
	}
}

func (l *lexer) codePoint(b *strings.Builder, s string, digits int) string {
	v, err := strconv.ParseUint(s[:min(digits, len(s))], 16, 32)
	if err != nil || len(s) < digits {
		l.fail(l.pos, "truncated \\%cXX escape", map[int]rune{2: 'x', 4: 'u', 8: 'U'}[digits])
	}
	if !utf8.ValidRune(rune(v)) {
		l.fail(l.pos, "the escape of %#x is not a character", v)
	}
	b.WriteRune(rune(v))
	return s[digits:]
}

// octal reads up to two more digits.
func octal(b *strings.Builder, first byte, s string) string {
	v := rune(first - '0')
	for n := 0; n < 2 && s != "" && s[0] >= '0' && s[0] <= '7'; n++ {
		v = v*8 + rune(s[0]-'0')
		s = s[1:]
	}
	b.WriteRune(v)
	return s
}

// backslashReplace spells a character that is not ASCII as an escape.
func backslashReplace(r rune) string {
	switch {
	case r < 0x100:
		return fmt.Sprintf(`\x%02x`, r)
	case r < 0x10000:
		return fmt.Sprintf(`\u%04x`, r)
	}
	return fmt.Sprintf(`\U%08x`, r)
}
