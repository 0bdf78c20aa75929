package jinja

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// str is Python's str().
func (st *state) str(v Value) string {
	switch v := v.(type) {
	case string:
		return v
	case markup:
		return string(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case *undefined:
		return ""
	}
	return st.repr(v)
}

// repr is Python's repr().
func (st *state) repr(v Value) string {
	var w reprWriter
	w.st = st
	w.write(v)
	return w.b.String()
}

// plainRepr is repr of a value inside an error message.
func plainRepr(v Value) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		if v {
			return "True"
		}
		return "False"
	case int64:
		return strconv.FormatInt(v, 10)
	case *big.Int:
		return bigString(v)
	case float64:
		return reprFloat(v)
	case string:
		return reprString(v)
	case markup:
		return "Markup(" + reprString(string(v)) + ")"
	case *undefined:
		return "Undefined"
	case rangeValue:
		if v.step == 1 {
			return fmt.Sprintf("range(%d, %d)", v.start, v.stop)
		}
		return fmt.Sprintf("range(%d, %d, %d)", v.start, v.stop, v.step)
	case *loopContext:
		return fmt.Sprintf("<LoopContext %d/%d>", v.index0+1, v.len())
	case *macro:
		if v.def.name == "" {
			return "<Macro anonymous>"
		}
		return "<Macro " + v.name() + ">"
	case *builtin:
		return "<function " + v.name + ">"
	case *method:
		return "<built-in method " + v.name + " of " + typeName(v.self) + " object>"
	}
	return "<" + typeName(v) + " object>"
}

func bigString(b *big.Int) string {
	s := b.String()
	if len(strings.TrimPrefix(s, "-")) > maxDigits {
		valueError("Exceeds the limit (%d digits) for integer string conversion", maxDigits)
	}
	return s
}

type reprWriter struct {
	st *state
	b  strings.Builder
}

func (w *reprWriter) write(v Value) {
	w.st.charge(1)
	switch v := v.(type) {
	case *list:
		w.sequence("[", v.items, "]")
	case *tuple:
		if len(v.items) == 1 {
			w.sequence("(", v.items, ",)")
		} else {
			w.sequence("(", v.items, ")")
		}
	case *Dict:
		w.dict(v)
	case *dictView:
		w.sequence(typeName(v)+"([", v.items(), "])")
	case *namespace:
		w.b.WriteString("<Namespace ")
		w.dict(v.attrs)
		w.b.WriteString(">")
	default:
		s := plainRepr(v)
		w.st.limit(w.b.Len() + len(s))
		w.st.charge(len(s) / bytesPerStep)
		w.b.WriteString(s)
	}
}

func (w *reprWriter) sequence(open string, items []Value, end string) {
	w.st.enter(1)
	defer w.st.leave(1)
	w.b.WriteString(open)
	for i, e := range items {
		if i > 0 {
			w.b.WriteString(", ")
		}
		w.write(e)
	}
	w.b.WriteString(end)
}

func (w *reprWriter) dict(d *Dict) {
	w.st.enter(1)
	defer w.st.leave(1)
	w.b.WriteByte('{')
	for i, k := range d.keys {
		if i > 0 {
			w.b.WriteString(", ")
		}
		w.write(k)
		w.b.WriteString(": ")
		w.write(d.values[i])
	}
	w.b.WriteByte('}')
}

// reprFloat is the shortest text that reads back as f.
func reprFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	s := strconv.FormatFloat(f, 'e', -1, 64)
	exp, _ := strconv.Atoi(s[strings.IndexByte(s, 'e')+1:])
	if exp < -4 || exp >= 16 {
		return s
	}
	s = strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// reprString quotes a string: with single quotes, unless it has some and no double quotes.
func reprString(s string) string {
	quote := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	var b strings.Builder
	b.Grow(len(s) + 2)
	b.WriteByte(quote)
	for _, r := range s {
		switch {
		case r == rune(quote) || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r >= ' ' && r < 0x7f:
			b.WriteByte(byte(r))
		case isPrintable(r):
			b.WriteRune(r)
		default:
			b.WriteString(backslashReplace(r))
		}
	}
	b.WriteByte(quote)
	return b.String()
}

// isPrintable is str.isprintable of a character.
func isPrintable(r rune) bool { return unicode.IsPrint(r) }

// asciiRepr is Python's ascii().
func asciiRepr(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r < utf8.RuneSelf {
			b.WriteByte(byte(r))
		} else {
			b.WriteString(backslashReplace(r))
		}
	}
	return b.String()
}

// isSpace is str.isspace of a character.
func isSpace(r rune) bool {
	if r < utf8.RuneSelf {
		return r == ' ' || r >= '\t' && r <= '\r' || r >= 0x1c && r <= 0x1f
	}
	return unicode.IsSpace(r)
}

// isBlank reports whether s is not empty and all space.
func isBlank(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return !isSpace(r) }) < 0
}

// isWordRune is \w of Python's regular expressions, and what else may stand in a name.
func isWordRune(r rune) bool {
	if r < utf8.RuneSelf {
		return r == '_' || r >= '0' && r <= '9' || r|0x20 >= 'a' && r|0x20 <= 'z'
	}
	return unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.IsMark(r)
}

var htmlEscapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&#39;", `"`, "&#34;")

func escape(s string) markup { return markup(htmlEscapes.Replace(s)) }

func isMark(r rune) bool { return r >= utf8.RuneSelf && unicode.IsMark(r) }
