package jinja

import (
	"html"
	"strings"
	"unicode/utf8"
)

func filterCenter(st *state, v Value, a callArgs) Value {
	width := mustInt(or(a.bind("center", 0, "width")[0], int64(80)))
	v = st.soft(v)
	s, _ := text(v)
	return like(v, st.pad("center", s, width, " "))
}

// titleWords is the filter title: unlike str.title it begins a word only after space and opening brackets.
func titleWords(s string) string {
	const before = "-({[<"
	var b strings.Builder
	for s != "" {
		separates := func(r rune) bool { return isSpace(r) || strings.ContainsRune(before, r) }
		n := strings.IndexFunc(s, func(r rune) bool { return !separates(r) })
		if n < 0 {
			n = len(s)
		}
		b.WriteString(s[:n])
		s = s[n:]
		if n = strings.IndexFunc(s, separates); n < 0 {
			n = len(s)
		}
		if n > 0 {
			_, size := utf8.DecodeRuneInString(s)
			b.WriteString(upper(s[:size]))
			b.WriteString(lower(s[size:n]))
		}
		s = s[n:]
	}
	return b.String()
}

// filterIndent indents the lines after the first.
func filterIndent(st *state, v Value, a callArgs) Value {
	args := a.bind("indent", 0, "width", "first", "blank")
	width, ok := text(or(args[0], int64(4)))
	if !ok {
		n := max(0, mustInt(or(args[0], int64(4))))
		st.checkLen(n)
		width = strings.Repeat(" ", n)
	}
	failUndefined(v)
	s, ok := text(v)
	if !ok {
		typeError("unsupported operand type(s) for +=: '%s' and 'str'", typeName(v))
	}
	lines := splitLines(s+"\n", false)
	st.checkRepeat(len(width), len(lines))
	st.checkLen(len(s) + len(width)*len(lines))
	blank := truthy(or(args[2], false))
	for i, line := range lines {
		if i == 0 && truthy(or(args[1], false)) || i > 0 && (blank || line != "") {
			lines[i] = width + line
		}
	}
	return like(v, strings.Join(lines, "\n"))
}

func filterTruncate(st *state, v Value, a callArgs) Value {
	args := a.bind("truncate", 0, "length", "killwords", "end", "leeway")
	most, end := mustInt(or(args[0], int64(255))), mustText(or(args[2], "..."))
	leeway := 5
	if l := or(args[3], nil); l != nil {
		leeway = mustInt(l)
	}
	keep := most - utf8.RuneCountInString(end)
	if keep < 0 || leeway < 0 {
		fail("AssertionError", "truncate: expected length >= %d, got %d, and leeway >= 0, got %d", most-keep, most, leeway)
	}
	if n, ok := length(v); ok && n <= most+leeway {
		return v
	}
	s, ok := text(v)
	if !ok {
		typeError("object of type '%s' cannot be truncated", typeName(v))
	}
	s = runeSlice(s, 0, keep)
	if !truthy(or(args[1], false)) {
		if i := strings.LastIndexByte(s, ' '); i >= 0 {
			s = s[:i]
		}
	}
	if _, safe := v.(markup); safe {
		end = escapedFor(v, or(args[2], "..."), "truncate")
	}
	return like(v, s+end)
}

func filterWordCount(st *state, v Value, a callArgs) Value {
	a.bind("wordcount", 0)
	s := st.str(v)
	st.checkLen(len(s))
	// \w does not match marks, which names may hold.
	return int64(len(strings.FieldsFunc(s, func(r rune) bool { return !isWordRune(r) || isMark(r) })))
}

func filterStripTags(st *state, v Value, a callArgs) Value {
	a.bind("striptags", 0)
	s := st.str(v)
	st.checkLen(len(s))
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '<')
		if i < 0 {
			break
		}
		skip, end := 1, ">"
		if strings.HasPrefix(s[i:], "<!--") {
			skip, end = 4, "-->"
		}
		n := strings.Index(s[i+skip:], end)
		if n < 0 {
			break
		}
		b.WriteString(s[:i])
		s = s[i+skip+n+len(end):]
	}
	b.WriteString(s)
	return html.UnescapeString(strings.Join(strings.FieldsFunc(b.String(), isSpace), " "))
}

// filterURLEncode quotes text for a path, or a dict or pairs as a query.
func filterURLEncode(st *state, v Value, a callArgs) Value {
	a.bind("urlencode", 0)
	if _, ok := text(v); ok || !isIterable(v) {
		return quoteURL(st.str(v), "/")
	}
	if d, ok := v.(*Dict); ok {
		v = &dictView{d, viewItems}
	}
	var parts []string
	for _, pair := range st.items(v) {
		kv := st.unpack(pair, 2)
		parts = append(parts, quoteQuery(st.str(kv[0]))+"="+quoteQuery(st.str(kv[1])))
	}
	return st.join(parts, "&")
}

func quoteQuery(s string) string { return strings.ReplaceAll(quoteURL(s, ""), "%20", "+") }

func quoteURL(s, safe string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if isWordByte(c) || strings.IndexByte("_.-~"+safe, c) >= 0 {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

func filterXMLAttr(st *state, v Value, a callArgs) Value {
	space := truthy(or(a.bind("xmlattr", 0, "autospace")[0], true))
	d, ok := v.(*Dict)
	if !ok {
		failUndefined(v)
		fail("AttributeError", "'%s' object has no attribute 'items'", typeName(v))
	}
	var parts []string
	for i, k := range d.keys {
		value := d.values[i]
		if _, ok := value.(*undefined); ok || value == nil {
			continue
		}
		key := mustText(k)
		if strings.ContainsAny(key, " \t\n\r\f\v/>=") {
			valueError("Invalid character in attribute name: %s", reprString(key))
		}
		parts = append(parts, string(escape(key))+`="`+st.str(escapeValue(st, value))+`"`)
	}
	s := st.join(parts, " ")
	if space && s != "" {
		s = " " + s
	}
	return s
}
