package jinja

import (
	"strconv"
	"strings"
)

// textFormat is str.format: replacement fields {name.attr[item]!conversion:spec}.
func textFormat(st *state, self Value, a callArgs) Value {
	kw := &Dict{}
	for _, k := range a.kw {
		kw.put(k.name, k.value)
	}
	return st.format(self, a.pos, kw)
}

func textFormatMap(st *state, self Value, a callArgs) Value {
	m, ok := a.positional("format_map", 1, 1)[0].(*Dict)
	if !ok {
		typeError("format_map() argument must be a mapping")
	}
	return st.format(self, nil, m)
}

func (st *state) format(self Value, pos []Value, kw *Dict) Value {
	s, _ := text(self)
	f := &fieldFormat{st: st, pos: pos, kw: kw}
	_, f.escapes = self.(markup)
	return like(self, f.format(s, 2))
}

type fieldFormat struct {
	st      *state
	pos     []Value
	kw      *Dict
	auto    int // the number of the next field without a name; -1 once one had a number
	escapes bool
}

// format fills the fields of s; a specification may have fields too, down to depth levels.
func (f *fieldFormat) format(s string, depth int) string {
	if depth < 0 {
		valueError("Max string recursion exceeded")
	}
	var b strings.Builder
	for s != "" {
		i := strings.IndexAny(s, "{}")
		if i < 0 {
			b.WriteString(s)
			break
		}
		b.WriteString(s[:i])
		c := s[i]
		s = s[i+1:]
		switch {
		case s != "" && s[0] == c:
			b.WriteByte(c)
			s = s[1:]
		case c == '}':
			valueError("Single '}' encountered in format string")
		case s == "":
			valueError("Single '{' encountered in format string")
		default:
			end := fieldEnd(s)
			b.WriteString(f.field(s[:end], depth))
			s = s[end+1:]
		}
		f.st.limit(b.Len())
	}
	return b.String()
}

// fieldEnd finds the brace that closes a field.
func fieldEnd(s string) int {
	depth := 1
	for i := range len(s) {
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	valueError("expected '}' before end of string")
	return 0
}

func (f *fieldFormat) field(s string, depth int) string {
	name, spec := s, ""
	if i := strings.IndexAny(s, "!:"); i >= 0 {
		name, spec = s[:i], s[i:]
	}
	v := f.value(name)
	if rest, ok := strings.CutPrefix(spec, "!"); ok {
		if rest == "" || len(rest) > 1 && rest[1] != ':' {
			valueError("expected ':' after conversion specifier")
		}
		switch spec = rest[1:]; rest[0] {
		case 's':
			v = f.st.str(v)
		case 'r':
			v = f.st.repr(v)
		case 'a':
			v = asciiRepr(f.st.repr(v))
		default:
			valueError("Unknown conversion specifier %c", rest[0])
		}
	}
	spec = strings.TrimPrefix(spec, ":")
	if strings.ContainsAny(spec, "{}") {
		spec = f.format(spec, depth-1)
	}
	out := f.st.formatValue(v, spec)
	if _, safe := v.(markup); f.escapes && !safe {
		out = string(escape(out))
	}
	return out
}

// value finds what a field names: an argument, and its attributes and items.
func (f *fieldFormat) value(path string) Value {
	n := strings.IndexAny(path, ".[")
	if n < 0 {
		n = len(path)
	}
	v := f.argument(path[:n])
	for rest := path[n:]; rest != ""; {
		if name, ok := strings.CutPrefix(rest, "."); ok {
			n := strings.IndexAny(name, ".[")
			if n < 0 {
				n = len(name)
			}
			v, rest = f.st.attr(v, name[:n]), name[n:]
			continue
		}
		key, after, ok := strings.Cut(rest[1:], "]")
		if rest[0] != '[' || !ok {
			valueError("Missing ']' in format string")
		}
		var k Value = key
		if i, err := strconv.ParseUint(key, 10, 31); err == nil {
			k = int64(i)
		}
		v, rest = f.st.item(v, k), after
	}
	return v
}

func (f *fieldFormat) argument(name string) Value {
	if name != "" && !isDecimal(name[0]) {
		v, ok := f.kw.getText(name)
		if !ok {
			fail("KeyError", "%s", reprString(name))
		}
		return v
	}
	i := f.auto
	if name == "" {
		if f.auto < 0 {
			valueError("cannot switch from manual field specification to automatic field numbering")
		}
		f.auto++
	} else {
		if f.auto > 0 {
			valueError("cannot switch from automatic field numbering to manual field specification")
		}
		f.auto = -1
		var err error
		if i, err = strconv.Atoi(name); err != nil {
			fail("KeyError", "%s", reprString(name))
		}
	}
	if i >= len(f.pos) {
		fail("IndexError", "Replacement index %d out of range for positional args tuple", i)
	}
	return f.pos[i]
}
