package jinja

import (
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// filterToJSON is json.dumps with transformers' defaults: characters as they are, separators ", " and ": ".
func filterToJSON(st *state, v Value, a callArgs) Value {
	args := a.bind("tojson", 0, "ensure_ascii", "indent", "separators", "sort_keys")
	w := jsonWriter{st: st, item: ", ", key: ": ", ascii: truthy(or(args[0], false)), sort: truthy(or(args[3], false))}
	switch indent := or(args[1], nil).(type) {
	case nil:
	case string, markup:
		w.pretty, w.item = true, ","
		w.indent, _ = text(indent)
	default:
		w.pretty, w.item = true, ","
		w.indent = strings.Repeat(" ", min(max(0, mustInt(indent)), maxIndent+1))
	}
	if len(w.indent) > maxIndent {
		fail(KindLimit, "tojson with an indent of more than %d", maxIndent)
	}
	if s := or(args[2], nil); s != nil {
		pair := st.unpack(s, 2)
		w.item, w.key = mustText(pair[0]), mustText(pair[1])
	}
	w.write(v, "\n")
	return w.b.String()
}

const maxIndent = 1000

type jsonWriter struct {
	st                *state
	b                 strings.Builder
	item, key, indent string
	pretty            bool
	ascii, sort       bool
}

// write appends a value; newline is what begins a line at its level.
func (w *jsonWriter) write(v Value, newline string) {
	w.st.charge(1)
	switch v := v.(type) {
	case string, markup:
		s, _ := text(v)
		w.string(s)
	case *list:
		w.array(v.items, newline)
	case *tuple:
		w.array(v.items, newline)
	case *Dict:
		w.object(v, newline)
	default:
		s, ok := jsonAtom(v)
		if !ok {
			typeError("Object of type %s is not JSON serializable", typeName(v))
		}
		w.b.WriteString(s)
	}
	w.st.limit(w.b.Len())
}

// jsonAtom returns a constant or number.
func jsonAtom(v Value) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "null", true
	case bool:
		return strconv.FormatBool(v), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case *big.Int:
		return bigString(v), true
	case float64:
		switch {
		case math.IsNaN(v):
			return "NaN", true
		case math.IsInf(v, 1):
			return "Infinity", true
		case math.IsInf(v, -1):
			return "-Infinity", true
		}
		return reprFloat(v), true
	}
	return "", false
}

func (w *jsonWriter) array(items []Value, newline string) {
	w.container('[', ']', len(items), newline, func(i int, inner string) { w.write(items[i], inner) })
}

func (w *jsonWriter) object(d *Dict, newline string) {
	order := make([]Value, d.Len())
	for i := range order {
		order[i] = int64(i)
	}
	if w.sort {
		order = w.st.sorted(order, func(i Value) Value { return d.keys[i.(int64)] }, false)
	}
	w.container('{', '}', d.Len(), newline, func(i int, inner string) {
		at := order[i].(int64)
		key, ok := text(d.keys[at])
		if !ok {
			if key, ok = jsonAtom(d.keys[at]); !ok {
				typeError("keys must be str, int, float, bool or None, not %s", typeName(d.keys[at]))
			}
		}
		w.string(key)
		w.b.WriteString(w.key)
		w.write(d.values[at], inner)
	})
}

func (w *jsonWriter) container(open, end byte, n int, newline string, element func(i int, inner string)) {
	w.st.enter(1)
	defer w.st.leave(1)
	w.b.WriteByte(open)
	inner := newline + w.indent
	for i := range n {
		if i > 0 {
			w.b.WriteString(w.item)
		}
		if w.pretty {
			w.newline(inner)
		}
		element(i, inner)
	}
	if w.pretty && n > 0 {
		w.newline(newline)
	}
	w.b.WriteByte(end)
}

func (w *jsonWriter) newline(s string) {
	w.st.checkLen(len(s))
	w.b.WriteString(s)
}

func (w *jsonWriter) string(s string) {
	w.st.checkLen(len(s))
	w.b.WriteByte('"')
	start := 0
	for i, r := range s {
		e := w.escape(r)
		if e == "" {
			continue
		}
		w.b.WriteString(s[start:i])
		w.b.WriteString(e)
		start = i + utf8.RuneLen(r)
	}
	w.b.WriteString(s[start:])
	w.b.WriteByte('"')
}

// escape returns how a character is written, "" for as it is.
func (w *jsonWriter) escape(r rune) string {
	switch {
	case r == '"' || r == '\\':
		return `\` + string(r)
	case r >= ' ' && r < 0x7f || !w.ascii && r >= ' ':
		return ""
	}
	if i := strings.IndexRune("\n\r\t\f\b", r); i >= 0 {
		return `\` + "nrtfb"[i:i+1]
	}
	if r < 0x10000 {
		return jsonHex(r)
	}
	high, low := utf16.EncodeRune(r)
	return jsonHex(high) + jsonHex(low)
}

func jsonHex(r rune) string {
	const hex = "0123456789abcdef"
	return `\u` + string([]byte{hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15]})
}

// dictClass is the global dict.
type dictClass struct{}

// makeDict is dict(mapping or pairs, **keywords).
func (st *state) makeDict(a callArgs) *Dict {
	if len(a.pos) > 1 {
		typeError("dict expected at most 1 argument, got %d", len(a.pos))
	}
	d := &Dict{}
	for _, v := range a.pos {
		if from, ok := v.(*Dict); ok {
			st.charge(from.Len())
			d = from.Clone()
			continue
		}
		for _, pair := range slices.Clone(st.items(v)) {
			kv := st.unpack(pair, 2)
			d.put(kv[0], kv[1])
		}
	}
	for _, k := range a.kw {
		d.put(k.name, k.value)
	}
	return d
}

func dictFromKeys(st *state, a callArgs) Value {
	args := a.positional("fromkeys", 1, 2)
	var v Value
	if len(args) > 1 {
		v = args[1]
	}
	d := &Dict{}
	for _, k := range st.items(args[0]) {
		d.put(k, v)
	}
	return d
}
