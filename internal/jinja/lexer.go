package jinja

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokenEOF tokenKind = iota
	tokenData
	tokenVarBegin
	tokenVarEnd
	tokenBlockBegin
	tokenBlockEnd
	tokenName
	tokenString
	tokenInt
	tokenFloat
	tokenOp
)

type token struct {
	kind tokenKind
	line int
	text string
}

// lexer cuts a template into text and the tokens inside tags, and applies whitespace control: a minus inside a tag strips
// all space on its side, a plus keeps it; otherwise the blanks between the start of a line and a block or comment are
// dropped (lstrip_blocks), and so is the newline after one (trim_blocks).
type lexer struct {
	src       string
	pos       int
	line      int // of linePos
	linePos   int
	lineStart bool // the last tag ended with a newline, or there was none
	tokens    []token
}

func lex(src string, line *int) []token {
	src = strings.ReplaceAll(strings.ReplaceAll(src, "\r\n", "\n"), "\r", "\n")
	l := lexer{src: strings.TrimSuffix(src, "\n"), line: 1, lineStart: true}
	defer func() { *line = l.line }()
	for l.pos < len(l.src) {
		l.root()
	}
	l.emit(tokenEOF, len(l.src), "")
	return l.tokens
}

func (l *lexer) emit(kind tokenKind, at int, text string) {
	l.lineAt(at)
	l.tokens = append(l.tokens, token{kind, l.line, text})
}

// lineAt moves the line count on to a position.
func (l *lexer) lineAt(pos int) {
	l.line += strings.Count(l.src[l.linePos:pos], "\n")
	l.linePos = pos
}

func (l *lexer) fail(at int, format string, args ...any) {
	l.lineAt(at)
	fail(KindSyntax, format, args...)
}

// root reads the text up to the next tag, and the tag.
func (l *lexer) root() {
	start := l.pos
	open := l.findTag(start)
	if open < 0 {
		l.emit(tokenData, start, l.src[start:])
		l.pos = len(l.src)
		return
	}
	if sign, end, ok := l.rawTag(open, "raw"); ok {
		l.text(start, open, sign, true)
		l.raw(open, end)
		return
	}
	kind := l.src[open+1]
	l.pos = open + 2
	sign := l.sign()
	l.text(start, open, sign, kind != '{')
	l.lineStart = false
	switch kind {
	case '{':
		l.emit(tokenVarBegin, open, "")
		l.tag(open, l.endOfVariable)
	case '%':
		l.emit(tokenBlockBegin, open, "")
		l.tag(open, l.endOfBlock)
	default:
		l.comment(open)
	}
}

func (l *lexer) findTag(from int) int {
	for {
		i := strings.IndexByte(l.src[from:], '{')
		if i < 0 || from+i+1 >= len(l.src) {
			return -1
		}
		from += i
		switch l.src[from+1] {
		case '{', '%', '#':
			return from
		}
		from++
	}
}

// sign reads the whitespace control after the opening of a tag.
func (l *lexer) sign() byte {
	if l.pos < len(l.src) && (l.src[l.pos] == '-' || l.src[l.pos] == '+') {
		l.pos++
		return l.src[l.pos-1]
	}
	return 0
}

// text emits what stands between two tags.
func (l *lexer) text(start, end int, sign byte, strips bool) {
	s := l.src[start:end]
	switch {
	case sign == '-':
		s = strings.TrimRightFunc(s, isSpace)
	case sign != '+' && strips:
		from := strings.LastIndexByte(s, '\n') + 1
		if (from > 0 || l.lineStart) && isBlank(s[from:]) {
			s = s[:from]
		}
	}
	if s != "" {
		l.emit(tokenData, start, s)
	}
}

// rawTag recognises {% raw %} and {% endraw %} at a position and returns where the tag ends. The newline after raw is kept.
func (l *lexer) rawTag(open int, name string) (sign byte, end int, ok bool) {
	rest, ok := strings.CutPrefix(l.src[open:], "{%")
	if !ok {
		return 0, 0, false
	}
	if rest != "" && (rest[0] == '-' || rest[0] == '+') {
		sign, rest = rest[0], rest[1:]
	}
	rest = strings.TrimLeftFunc(rest, isSpace)
	if rest, ok = strings.CutPrefix(rest, name); !ok {
		return 0, 0, false
	}
	rest = strings.TrimLeftFunc(rest, isSpace)
	switch {
	case strings.HasPrefix(rest, "-%}"):
		rest = strings.TrimLeftFunc(rest[3:], isSpace)
	case strings.HasPrefix(rest, "%}"):
		rest = rest[2:]
		if name == "endraw" {
			rest = strings.TrimPrefix(rest, "\n")
		}
	case strings.HasPrefix(rest, "+%}") && name == "endraw":
		rest = rest[3:]
	default:
		return 0, 0, false
	}
	return sign, len(l.src) - len(rest), true
}

func (l *lexer) raw(open, start int) {
	l.lineStart = l.src[start-1] == '\n'
	for at := start; ; at += 2 {
		i := strings.Index(l.src[at:], "{%")
		if i < 0 {
			l.fail(open, "Missing end of raw directive")
		}
		at += i
		if sign, end, ok := l.rawTag(at, "endraw"); ok {
			l.text(start, at, sign, true)
			l.moveTo(end)
			return
		}
	}
}

func (l *lexer) moveTo(end int) {
	l.pos = end
	l.lineStart = l.src[end-1] == '\n'
}

func (l *lexer) comment(open int) {
	i := strings.Index(l.src[l.pos:], "#}")
	if i < 0 {
		l.fail(open, "Missing end of comment tag")
	}
	end := l.pos + i + 2
	switch {
	case i > 0 && l.src[end-3] == '+':
	case i > 0 && l.src[end-3] == '-':
		end += leadingSpace(l.src[end:])
	default:
		end += leadingNewline(l.src[end:])
	}
	l.moveTo(end)
}

// endOfBlock and endOfVariable move past the end of a tag, if that is what follows.
func (l *lexer) endOfBlock() bool {
	rest := l.src[l.pos:]
	switch {
	case strings.HasPrefix(rest, "+%}"):
		l.end(tokenBlockEnd, 3)
	case strings.HasPrefix(rest, "-%}"):
		l.end(tokenBlockEnd, 3+leadingSpace(rest[3:]))
	case strings.HasPrefix(rest, "%}"):
		l.end(tokenBlockEnd, 2+leadingNewline(rest[2:]))
	default:
		return false
	}
	return true
}

func (l *lexer) endOfVariable() bool {
	rest := l.src[l.pos:]
	switch {
	case strings.HasPrefix(rest, "-}}"):
		l.end(tokenVarEnd, 3+leadingSpace(rest[3:]))
	case strings.HasPrefix(rest, "}}"):
		l.end(tokenVarEnd, 2)
	default:
		return false
	}
	return true
}

func (l *lexer) end(kind tokenKind, n int) {
	l.emit(kind, l.pos, "")
	l.moveTo(l.pos + n)
}

func leadingSpace(s string) int { return len(s) - len(strings.TrimLeftFunc(s, isSpace)) }

func leadingNewline(s string) int { return len(s) - len(strings.TrimPrefix(s, "\n")) }

// tag reads the tokens of a tag. Its end is not one inside brackets, so that {{ {'a': {}} }} works.
func (l *lexer) tag(open int, atEnd func() bool) {
	var brackets []byte // the closing ones that are expected
	for l.pos < len(l.src) {
		if len(brackets) == 0 && atEnd() {
			return
		}
		r, size := utf8.DecodeRuneInString(l.src[l.pos:])
		switch {
		case isSpace(r):
			l.pos += size
		case r >= '0' && r <= '9':
			l.number()
		case isWordRune(r):
			l.name()
		case (r == '\'' || r == '"') && l.string(byte(r)):
		default:
			brackets = l.operator(brackets)
		}
	}
}

func (l *lexer) name() {
	rest := l.src[l.pos:]
	n := strings.IndexFunc(rest, func(r rune) bool { return !isWordRune(r) })
	if n < 0 {
		n = len(rest)
	}
	for i, r := range rest[:n] {
		if unicode.Is(unicode.No, r) || i == 0 && !(r == '_' || unicode.IsLetter(r) || unicode.Is(unicode.Nl, r)) {
			l.fail(l.pos, "Invalid character in identifier")
		}
	}
	l.emit(tokenName, l.pos, rest[:n])
	l.pos += n
}

// operator reads an operator and keeps count of brackets.
func (l *lexer) operator(brackets []byte) []byte {
	rest := l.src[l.pos:]
	op := rest[:1]
	if len(rest) > 1 {
		switch rest[:2] {
		case "**", "==", "!=", ">=", "<=", "//":
			op = rest[:2]
		}
	}
	switch op {
	case "{":
		brackets = append(brackets, '}')
	case "(":
		brackets = append(brackets, ')')
	case "[":
		brackets = append(brackets, ']')
	case "}", ")", "]":
		if len(brackets) == 0 {
			l.fail(l.pos, "unexpected '%s'", op)
		}
		want := brackets[len(brackets)-1]
		if brackets = brackets[:len(brackets)-1]; want != op[0] {
			l.fail(l.pos, "unexpected '%s', expected '%c'", op, want)
		}
	default:
		if len(op) == 1 && !strings.Contains("+-/*%~><=.:|,;", op) {
			r, _ := utf8.DecodeRuneInString(rest)
			l.fail(l.pos, "unexpected char %s at %d", reprString(string(r)), utf8.RuneCountInString(l.src[:l.pos]))
		}
	}
	l.emit(tokenOp, l.pos, op)
	l.pos += len(op)
	return brackets
}
