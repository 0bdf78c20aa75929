package peft

import (
	"fmt"
	"math"
	"strconv"
)

// member is a key and its value; object keeps the order of its members.
type (
	member struct {
		key   string
		value any
	}
	object []member
)

// Python's forms of JSON: one line, or json.dumps' indent=2.
const (
	compact  = -1
	indented = 0
)

// appendPythonJSON appends v as Python's json.dumps writes it, ASCII only. v is nil, bool, int, float64, string, []string,
// []int, []bool or object. indent is compact, or the number of levels that v is nested in.
func appendPythonJSON(dst []byte, v any, indent int) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	case int:
		return strconv.AppendInt(dst, int64(v), 10)
	case float64:
		return appendPythonFloat(dst, v)
	case string:
		return appendPythonString(dst, v)
	case []string:
		return appendItems(dst, '[', ']', len(v), indent, func(dst []byte, i, indent int) []byte {
			return appendPythonString(dst, v[i])
		})
	case []int:
		return appendItems(dst, '[', ']', len(v), indent, func(dst []byte, i, indent int) []byte {
			return strconv.AppendInt(dst, int64(v[i]), 10)
		})
	case []bool:
		return appendItems(dst, '[', ']', len(v), indent, func(dst []byte, i, indent int) []byte { return strconv.AppendBool(dst, v[i]) })
	case object:
		return appendItems(dst, '{', '}', len(v), indent, func(dst []byte, i, indent int) []byte {
			dst = append(appendPythonString(dst, v[i].key), ": "...)
			return appendPythonJSON(dst, v[i].value, indent)
		})
	}
	panic(fmt.Sprintf("peft: %T has no JSON form here", v))
}

// appendItems writes what is between brackets. Python writes empty ones on one line.
func appendItems(dst []byte, open, end byte, n, indent int, item func(dst []byte, i, indent int) []byte) []byte {
	dst = append(dst, open)
	inner := indent
	if indent != compact {
		inner++
	}
	for i := range n {
		switch {
		case i > 0 && indent == compact:
			dst = append(dst, ", "...)
		case i > 0:
			dst = append(dst, ',')
		}
		dst = appendNewline(dst, inner)
		dst = item(dst, i, inner)
	}
	if n > 0 {
		dst = appendNewline(dst, indent)
	}
	return append(dst, end)
}

func appendNewline(dst []byte, indent int) []byte {
	if indent == compact {
		return dst
	}
	dst = append(dst, '\n')
	for range indent {
		dst = append(dst, "  "...)
	}
	return dst
}

// appendPythonFloat writes the shortest digits that read back as x, which is finite, as float.__repr__ does: positional for exponents from
// -4 to 15, else scientific.
func appendPythonFloat(dst []byte, x float64) []byte {
	if magnitude := math.Abs(x); magnitude != 0 && (magnitude < 1e-4 || magnitude >= 1e16) {
		return strconv.AppendFloat(dst, x, 'e', -1, 64)
	}
	dst = strconv.AppendFloat(dst, x, 'f', -1, 64)
	if x == math.Trunc(x) {
		dst = append(dst, ".0"...)
	}
	return dst
}

// appendPythonString escapes everything but printable ASCII, in UTF-16 units.
func appendPythonString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r >= ' ' && r <= '~':
			dst = append(dst, byte(r))
		case r == '\n':
			dst = append(dst, `\n`...)
		case r == '\r':
			dst = append(dst, `\r`...)
		case r == '\t':
			dst = append(dst, `\t`...)
		case r == '\b':
			dst = append(dst, `\b`...)
		case r == '\f':
			dst = append(dst, `\f`...)
		case r < 0x10000:
			dst = fmt.Appendf(dst, `\u%04x`, r)
		default:
			r -= 0x10000
			dst = fmt.Appendf(dst, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
	}
	return append(dst, '"')
}

// pythonNumber is the int that a float stands for where Python would have been given an int: 16, not 16.0.
func pythonNumber(x float64) any {
	if x == math.Trunc(x) && math.Abs(x) < 1<<53 {
		return int(x)
	}
	return x
}
