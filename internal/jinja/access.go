package jinja

import (
	"math"
	"strings"
	"unicode/utf8"
)

// attr is v.name: an attribute or method of the value, or else its item.
func (st *state) attr(v Value, name string) Value {
	if a, ok := attribute(v, name); ok {
		return a
	}
	if item, ok := st.subscript(v, name); ok {
		return item
	}
	return &undefined{obj: v, hasObj: true, name: name}
}

// item is v[key]: an item of the value, or else its attribute.
func (st *state) item(v, key Value) Value {
	if item, ok := st.subscript(v, key); ok {
		return item
	}
	if name, ok := text(key); ok {
		if a, ok := attribute(v, name); ok {
			return a
		}
	}
	return &undefined{obj: v, hasObj: true, name: key}
}

// attribute returns what Python's getattr finds on a value, as the sandbox lets it be seen: what would change the value
// or reach into Python is undefined and raises SecurityError when used.
func attribute(v Value, name string) (Value, bool) {
	switch v := v.(type) {
	case *undefined:
		v.fail()
	case *namespace:
		a, ok := v.attrs.getText(name)
		if ok || name != "__class__" {
			return a, ok
		}
	case *loopContext:
		if a, ok := v.attr(name); ok {
			return a, true
		}
	case *cycler:
		if a, ok := v.attr(name); ok {
			return a, true
		}
	case *joiner:
		if a, ok := v.attr(name); ok {
			return a, true
		}
	case *macro:
		if a, ok := v.attr(name); ok {
			return a, true
		}
	case dictClass:
		if name == "fromkeys" {
			return &builtin{name, dictFromKeys}, true
		}
	case *tuple:
		switch {
		case v.group && name == "grouper":
			return v.items[0], true
		case v.group && name == "list":
			return v.items[1], true
		}
	}
	if m := methodOf(v, name); m != nil {
		return &method{name, v, m}, true
	}
	if changes(v, name) || isPythonAttribute(name) {
		hint := "access to attribute " + reprString(name) + " of " + reprString(typeName(v)) + " object is unsafe."
		return &undefined{hint: hint, obj: v, hasObj: true, name: name, kind: "SecurityError"}, true
	}
	return nil, false
}

// methodOf returns a method that a template may call, nil for none.
func methodOf(v Value, name string) methodFunc {
	switch v.(type) {
	case string, markup:
		return textMethod(name)
	case *list:
		return listMethod(name)
	case *tuple:
		return tupleMethod(name)
	case *Dict:
		return dictMethod(name)
	case float64:
		if name == "is_integer" {
			return floatIsInteger
		}
	}
	return nil
}

// changes reports whether a method changes its value.
func changes(v Value, name string) bool {
	switch v.(type) {
	case *list:
		switch name {
		case "append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove":
			return true
		}
	case *Dict:
		switch name {
		case "clear", "pop", "popitem", "setdefault", "update":
			return true
		}
	}
	return false
}

// isPythonAttribute recognises the attributes that every Python object has.
func isPythonAttribute(name string) bool {
	name, ok := strings.CutPrefix(name, "__")
	if name, ok = strings.CutSuffix(name, "__"); !ok {
		return false
	}
	switch name {
	case "class", "delattr", "dir", "doc", "eq", "format", "ge", "getattribute", "getstate", "gt", "hash", "init",
		"init_subclass", "le", "lt", "ne", "new", "reduce", "reduce_ex", "repr", "setattr", "sizeof", "str", "subclasshook":
		return true
	}
	return false
}

// subscript is Python's v[key]; false where that raises TypeError or LookupError.
func (st *state) subscript(v, key Value) (Value, bool) {
	switch v := v.(type) {
	case *undefined:
		v.fail()
	case *Dict:
		if isUnhashable(key) {
			return nil, false
		}
		return v.get(key)
	case *list:
		if i, ok := index(key, len(v.items)); ok {
			return v.items[i], true
		}
	case *tuple:
		if i, ok := index(key, len(v.items)); ok {
			return v.items[i], true
		}
	case rangeValue:
		if i, ok := index(key, v.len()); ok {
			return v.at(i), true
		}
	case string, markup:
		if _, ok := integer(key); !ok {
			return nil, false
		}
		s, _ := text(v)
		st.charge(len(s) / bytesPerStep)
		if i, ok := index(key, utf8.RuneCountInString(s)); ok {
			return like(v, runeSlice(s, i, i+1)), true
		}
	}
	return nil, false
}

func isUnhashable(v Value) bool {
	switch v.(type) {
	case *list, *Dict:
		return true
	}
	return false
}

// index resolves an index into a sequence of n items; false if it is none or out of range.
func index(key Value, n int) (int, bool) {
	i, ok := integer(key)
	if i < 0 {
		i += int64(n)
	}
	return int(i), ok && i >= 0 && i < int64(n)
}

// runeSlice returns the code points [from, to) of s.
func runeSlice(s string, from, to int) string {
	if len(s) == utf8.RuneCountInString(s) {
		return s[from:to]
	}
	start, end, n := len(s), len(s), 0
	for i := range s {
		if n == from {
			start = i
		}
		if n == to {
			end = i
			break
		}
		n++
	}
	return s[start:max(start, end)]
}

// slice is v[start:stop:step].
func (st *state) slice(v, start, stop, step Value) Value {
	switch v := v.(type) {
	case string, markup:
		s, _ := text(v)
		st.checkLen(len(s))
		return like(v, sliceText(s, start, stop, step))
	case *list:
		return &list{st.sliceItems(v.items, start, stop, step)}
	case *tuple:
		return &tuple{items: st.sliceItems(v.items, start, stop, step)}
	case rangeValue:
		from, n, by := sliceBounds(v.len(), start, stop, step)
		begin := v.start + int64(from)*v.step
		return rangeValue{begin, begin + int64(n)*int64(by)*v.step, v.step * int64(by)}
	case *undefined:
		v.fail()
	case *Dict:
		typeError("unhashable type: 'slice'")
	}
	typeError("'%s' object is not subscriptable", typeName(v))
	return nil
}

func (st *state) sliceItems(items []Value, start, stop, step Value) []Value {
	from, n, by := sliceBounds(len(items), start, stop, step)
	if by == 1 {
		return items[from : from+n : from+n] // lists do not change
	}
	st.charge(n)
	out := make([]Value, n)
	for i := range out {
		out[i] = items[from+i*by]
	}
	return out
}

func sliceText(s string, start, stop, step Value) string {
	n := utf8.RuneCountInString(s)
	from, n, by := sliceBounds(n, start, stop, step)
	if by == 1 {
		return runeSlice(s, from, from+n)
	}
	runes := []rune(s)
	out := make([]rune, n)
	for i := range out {
		out[i] = runes[from+i*by]
	}
	return string(out)
}

// sliceBounds resolves a slice of a sequence of size items: the n items from, from+by, ...
func sliceBounds(size int, start, stop, step Value) (from, n, by int) {
	bound := func(v Value, d, low, high int) int {
		if v == nil {
			return d
		}
		if _, ok := bigInteger(v); !ok {
			typeError("slice indices must be integers or None or have an __index__ method")
		}
		i := mustInt(v)
		if i < 0 {
			i += size
		}
		return min(max(i, low), high)
	}
	by = 1
	if step != nil {
		if _, ok := bigInteger(step); !ok {
			typeError("slice indices must be integers or None or have an __index__ method")
		}
		if by = mustInt(step); by == 0 {
			valueError("slice step cannot be zero")
		}
		by = min(max(by, -math.MaxInt32), math.MaxInt32)
	}
	if by > 0 {
		from = bound(start, 0, 0, size)
		to := bound(stop, size, 0, size)
		if to > from {
			n = (to-from-1)/by + 1
		}
		return from, n, by
	}
	from = bound(start, size-1, -1, size-1)
	to := bound(stop, -1, -1, size-1)
	if from > to {
		n = (from-to-1)/-by + 1
	}
	return from, n, by
}
