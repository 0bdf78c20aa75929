package jinja

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// textMethod returns a method of str.
func textMethod(name string) methodFunc {
	switch name {
	case "capitalize":
		return mapText(name, capitalize)
	case "casefold":
		return mapText(name, caseFold)
	case "lower":
		return mapText(name, lower)
	case "swapcase":
		return mapText(name, swapCase)
	case "title":
		return mapText(name, titleCase)
	case "upper":
		return mapText(name, upper)
	case "isalnum":
		return askText(name, func(s string) bool {
			return allRunes(s, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) })
		})
	case "isalpha":
		return askText(name, func(s string) bool { return allRunes(s, unicode.IsLetter) })
	case "isascii":
		return askText(name, isASCII)
	case "isdecimal":
		return askText(name, func(s string) bool { return allRunes(s, unicode.IsDigit) })
	case "isdigit":
		return askText(name, func(s string) bool { return allRunes(s, isDigit) })
	case "isidentifier":
		return askText(name, isIdentifier)
	case "islower":
		return askText(name, isLower)
	case "isnumeric":
		return askText(name, func(s string) bool { return allRunes(s, unicode.IsNumber) })
	case "isprintable":
		return askText(name, func(s string) bool { return s == "" || allRunes(s, isPrintable) })
	case "isspace":
		return askText(name, isBlank)
	case "istitle":
		return askText(name, isTitle)
	case "isupper":
		return askText(name, isUpper)
	case "strip":
		return strip(name, true, true)
	case "lstrip":
		return strip(name, true, false)
	case "rstrip":
		return strip(name, false, true)
	case "startswith":
		return textStartsWith
	case "endswith":
		return textEndsWith
	case "removeprefix":
		return removeAffix(name, strings.TrimPrefix)
	case "removesuffix":
		return removeAffix(name, strings.TrimSuffix)
	case "replace":
		return textReplace
	case "join":
		return textJoin
	case "split":
		return textSplit
	case "rsplit":
		return textRSplit
	case "splitlines":
		return textSplitLines
	case "partition":
		return textPartition
	case "rpartition":
		return textRPartition
	case "find", "rfind", "index", "rindex", "count":
		return search(name)
	case "center", "ljust", "rjust":
		return pad(name)
	case "zfill":
		return textZFill
	case "expandtabs":
		return textExpandTabs
	case "format":
		return textFormat
	case "format_map":
		return textFormatMap
	case "encode", "translate", "maketrans":
		return func(*state, Value, callArgs) Value {
			fail(KindUnsupported, "the method str.%s is not supported", name)
			return nil
		}
	}
	return nil
}

func mapText(name string, f func(string) string) methodFunc {
	return func(st *state, self Value, a callArgs) Value {
		a.positional(name, 0, 0)
		s, _ := text(self)
		st.checkLen(len(s))
		return like(self, f(s))
	}
}

func askText(name string, f func(string) bool) methodFunc {
	return func(st *state, self Value, a callArgs) Value {
		a.positional(name, 0, 0)
		s, _ := text(self)
		st.checkLen(len(s))
		return f(s)
	}
}

func strip(name string, left, right bool) methodFunc {
	return func(st *state, self Value, a callArgs) Value {
		s, _ := text(self)
		var chars Value
		if args := a.positional(name, 0, 1); len(args) > 0 {
			chars = args[0]
		}
		return like(self, stripText(s, chars, left, right))
	}
}

// stripText removes space, or the given characters, from the ends.
func stripText(s string, chars Value, left, right bool) string {
	is := isSpace
	if chars != nil {
		set, ok := text(chars)
		if !ok {
			typeError("strip arg must be None or str")
		}
		is = func(r rune) bool { return strings.ContainsRune(set, r) }
	}
	if left {
		s = strings.TrimLeftFunc(s, is)
	}
	if right {
		s = strings.TrimRightFunc(s, is)
	}
	return s
}

// window is the part [start, end) of s that a search looks at, its offset in code points, and false if start is beyond s.
func window(s string, bounds []Value) (part string, offset int, ok bool) {
	var start, stop Value
	if len(bounds) > 0 {
		start = bounds[0]
	}
	if len(bounds) > 1 {
		stop = bounds[1]
	}
	if start == nil && stop == nil {
		return s, 0, true
	}
	n := utf8.RuneCountInString(s)
	from, length, _ := sliceBounds(n, start, stop, nil)
	if start != nil && mustInt(start) > n {
		return "", from, false
	}
	return runeSlice(s, from, from+length), from, true
}

func textStartsWith(st *state, self Value, a callArgs) Value {
	return affix("startswith", self, a, strings.HasPrefix)
}

func textEndsWith(st *state, self Value, a callArgs) Value {
	return affix("endswith", self, a, strings.HasSuffix)
}

func affix(name string, self Value, a callArgs, has func(s, affix string) bool) Value {
	args := a.positional(name, 1, 3)
	s, _ := text(self)
	s, _, ok := window(s, args[1:])
	options := args[:1]
	if t, isTuple := args[0].(*tuple); isTuple {
		options = t.items
	}
	for _, o := range options {
		part, isText := text(o)
		if !isText {
			typeError("%s first arg must be str or a tuple of str, not %s", name, typeName(o))
		}
		if ok && has(s, part) {
			return true
		}
	}
	return false
}

func removeAffix(name string, trim func(s, affix string) string) methodFunc {
	return func(st *state, self Value, a callArgs) Value {
		arg := a.positional(name, 1, 1)[0]
		s, _ := text(self)
		return like(self, trim(s, argText(name, arg)))
	}
}

func argText(fn string, v Value) string {
	s, ok := text(v)
	if !ok {
		typeError("%s() argument must be str, not %s", fn, typeName(v))
	}
	return s
}

func textReplace(st *state, self Value, a callArgs) Value {
	args := a.positional("replace", 2, 3)
	n := -1
	if len(args) > 2 {
		n = mustInt(args[2])
	}
	s, _ := text(self)
	return like(self, st.replace(s, argText("replace", args[0]), escapedFor(self, args[1], "replace"), n))
}

// escapedFor is text that goes into self: escaped if self is Markup and it is not.
func escapedFor(self, v Value, fn string) string {
	s := argText(fn, v)
	_, into := self.(markup)
	if _, safe := v.(markup); into && !safe {
		return string(escape(s))
	}
	return s
}

func (st *state) replace(s, old, with string, n int) string {
	count := strings.Count(s, old)
	if n >= 0 {
		count = min(count, n)
	}
	st.checkRepeat(len(with), count)
	st.checkLen(len(s) + count*(len(with)-len(old)))
	return strings.Replace(s, old, with, n)
}

func textJoin(st *state, self Value, a callArgs) Value {
	items := st.items(a.positional("join", 1, 1)[0])
	sep, _ := text(self)
	parts := make([]string, len(items))
	for i, item := range items {
		if _, ok := text(item); !ok {
			typeError("sequence item %d: expected str instance, %s found", i, typeName(item))
		}
		parts[i] = escapedFor(self, item, "join")
	}
	return like(self, st.join(parts, sep))
}

func (st *state) join(parts []string, sep string) string {
	n := 0
	for _, p := range parts {
		n += len(p) + len(sep)
	}
	st.checkLen(n)
	return strings.Join(parts, sep)
}

func search(name string) methodFunc {
	return func(st *state, self Value, a callArgs) Value {
		args := a.positional(name, 1, 3)
		s, _ := text(self)
		st.charge(len(s) / bytesPerStep)
		part := argText(name, args[0])
		s, offset, ok := window(s, args[1:])
		switch {
		case name == "count" && !ok:
			return int64(0)
		case name == "count":
			return int64(strings.Count(s, part))
		}
		i := -1
		if ok && name[0] == 'r' {
			i = strings.LastIndex(s, part)
		} else if ok {
			i = strings.Index(s, part)
		}
		switch {
		case i >= 0:
			return int64(offset + utf8.RuneCountInString(s[:i]))
		case strings.HasSuffix(name, "index"):
			valueError("substring not found")
		}
		return int64(-1)
	}
}

func pad(name string) methodFunc {
	return func(st *state, self Value, a callArgs) Value {
		args := a.positional(name, 1, 2)
		fill := " "
		if len(args) > 1 {
			fill = argText(name, args[1])
		}
		if utf8.RuneCountInString(fill) != 1 {
			typeError("The fill character must be exactly one character long")
		}
		s, _ := text(self)
		return like(self, st.pad(name, s, mustInt(args[0]), fill))
	}
}

// pad widens s to a number of characters.
func (st *state) pad(name, s string, width int, fill string) string {
	n := width - utf8.RuneCountInString(s)
	if n <= 0 {
		return s
	}
	st.checkRepeat(len(fill), n)
	left := 0
	switch name {
	case "rjust":
		left = n
	case "center":
		left = n/2 + n&width&1
	}
	return strings.Repeat(fill, left) + s + strings.Repeat(fill, n-left)
}

func textZFill(st *state, self Value, a callArgs) Value {
	width := mustInt(a.positional("zfill", 1, 1)[0])
	s, _ := text(self)
	sign := ""
	if s != "" && (s[0] == '-' || s[0] == '+') {
		sign, s = s[:1], s[1:]
	}
	return like(self, sign+st.pad("rjust", s, width-len(sign), "0"))
}

func textExpandTabs(st *state, self Value, a callArgs) Value {
	size := 8
	if v := a.bind("expandtabs", 0, "tabsize")[0]; v != missing {
		size = min(mustInt(v), st.maxOutput)
	}
	s, _ := text(self)
	st.checkRepeat(strings.Count(s, "\t"), max(size, 0))
	var b strings.Builder
	column := 0
	for _, r := range s {
		switch {
		case r != '\t':
			b.WriteRune(r)
			if column++; r == '\n' || r == '\r' {
				column = 0
			}
		case size > 0:
			n := size - column%size
			b.WriteString(strings.Repeat(" ", n))
			column += n
		}
	}
	return like(self, b.String())
}
