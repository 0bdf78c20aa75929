package jinja

import (
	"slices"
	"strings"
	"unicode/utf8"
)

func textSplit(st *state, self Value, a callArgs) Value {
	args := a.bind("split", 0, "sep", "maxsplit")
	return splitList(st, self, args, splitText)
}

func textRSplit(st *state, self Value, a callArgs) Value {
	args := a.bind("rsplit", 0, "sep", "maxsplit")
	return splitList(st, self, args, rsplitText)
}

func splitList(st *state, self Value, args []Value, split func(s, sep string, n int) []string) Value {
	s, _ := text(self)
	sep := ""
	if v := or(args[0], nil); v != nil {
		if sep = argText("split", v); sep == "" {
			valueError("empty separator")
		}
	}
	parts := split(s, sep, mustInt(or(args[1], int64(-1))))
	st.charge(len(parts))
	return textList(self, parts)
}

func textList(self Value, parts []string) Value {
	l := &list{items: make([]Value, len(parts))}
	for i, p := range parts {
		l.items[i] = like(self, p)
	}
	return l
}

// splitText cuts s at most n times (any number of times if n < 0) at sep, or at runs of space if sep is empty.
func splitText(s, sep string, n int) []string {
	if sep != "" {
		if n >= 0 {
			n = min(n, len(s)) + 1
		}
		return strings.SplitN(s, sep, n)
	}
	if n < 0 {
		return strings.FieldsFunc(s, isSpace)
	}
	var parts []string
	for s = strings.TrimLeftFunc(s, isSpace); s != ""; s = strings.TrimLeftFunc(s, isSpace) {
		i := strings.IndexFunc(s, isSpace)
		if len(parts) == n || i < 0 {
			return append(parts, s)
		}
		parts = append(parts, s[:i])
		s = s[i:]
	}
	return parts
}

// rsplitText is splitText from the right.
func rsplitText(s, sep string, n int) []string {
	if n < 0 {
		return splitText(s, sep, n)
	}
	var parts []string
	for {
		if sep == "" {
			if s = strings.TrimRightFunc(s, isSpace); s == "" {
				break
			}
		}
		i, size := strings.LastIndex(s, sep), len(sep)
		if sep == "" {
			i, size = strings.LastIndexFunc(s, isSpace), 1
			if i >= 0 {
				_, size = utf8.DecodeRuneInString(s[i:])
			}
		}
		if i < 0 || len(parts) == n {
			parts = append(parts, s)
			break
		}
		parts = append(parts, s[i+size:])
		s = s[:i]
	}
	slices.Reverse(parts)
	return parts
}

func textSplitLines(st *state, self Value, a callArgs) Value {
	keep := mustInt(or(a.bind("splitlines", 0, "keepends")[0], false)) != 0
	s, _ := text(self)
	lines := splitLines(s, keep)
	st.charge(len(lines))
	return textList(self, lines)
}

// splitLines cuts at every line boundary that Python knows.
func splitLines(s string, keep bool) []string {
	var lines []string
	for s != "" {
		i := strings.IndexAny(s, "\n\r\v\f\x1c\x1d\x1e\u0085\u2028\u2029")
		if i < 0 {
			return append(lines, s)
		}
		_, n := utf8.DecodeRuneInString(s[i:])
		if strings.HasPrefix(s[i:], "\r\n") {
			n = 2
		}
		end := i
		if keep {
			end += n
		}
		lines = append(lines, s[:end])
		s = s[i+n:]
	}
	return lines
}

func textPartition(st *state, self Value, a callArgs) Value {
	return partition(self, a, "partition", strings.Index)
}

func textRPartition(st *state, self Value, a callArgs) Value {
	return partition(self, a, "rpartition", strings.LastIndex)
}

func partition(self Value, a callArgs, name string, find func(s, sep string) int) Value {
	sep := argText(name, a.positional(name, 1, 1)[0])
	if sep == "" {
		valueError("empty separator")
	}
	s, _ := text(self)
	parts := []string{s, "", ""}
	if i := find(s, sep); i >= 0 {
		parts = []string{s[:i], sep, s[i+len(sep):]}
	} else if name == "rpartition" {
		parts = []string{"", "", s}
	}
	return &tuple{items: textList(self, parts).(*list).items}
}
