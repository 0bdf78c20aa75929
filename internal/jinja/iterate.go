package jinja

import "unicode/utf8"

// iterator returns the next item, and false after the last.
type iterator func() (Value, bool)

func sliceIterator(items []Value) iterator {
	i := 0
	return func() (Value, bool) {
		if i >= len(items) {
			return nil, false
		}
		i++
		return items[i-1], true
	}
}

// countIterator yields at(0), ..., at(n-1).
func countIterator(n int, at func(int) Value) iterator {
	i := 0
	return func() (Value, bool) {
		if i >= n {
			return nil, false
		}
		i++
		return at(i - 1), true
	}
}

// textIterator yields characters; those of Markup are no Markup.
func textIterator(s string) iterator {
	return func() (Value, bool) {
		if s == "" {
			return nil, false
		}
		_, n := utf8.DecodeRuneInString(s)
		c := s[:n]
		s = s[n:]
		return c, true
	}
}

func isIterable(v Value) bool {
	switch v.(type) {
	case string, markup, *list, *tuple, *Dict, rangeValue, *dictView, *generator, *undefined, *loopContext:
		return true
	}
	return false
}

// iterate is Python's iter(): items of sequences, keys of dicts, characters of strings, nothing of undefined.
func (st *state) iterate(v Value) iterator {
	switch v := v.(type) {
	case string:
		return textIterator(v)
	case markup:
		return textIterator(string(v))
	case *list:
		return sliceIterator(v.items)
	case *tuple:
		return sliceIterator(v.items)
	case *Dict:
		return sliceIterator(v.keys)
	case rangeValue:
		return countIterator(v.len(), v.at)
	case *dictView:
		return countIterator(v.d.Len(), v.at)
	case *generator:
		return st.pull(v)
	case *undefined:
		return sliceIterator(nil)
	case *loopContext:
		return func() (Value, bool) {
			item, ok := v.advance()
			return &tuple{items: []Value{item, v}}, ok
		}
	}
	typeError("'%s' object is not iterable", typeName(v))
	return nil
}

// pull guards a chain of generators, each of which asks the one before it.
func (st *state) pull(g *generator) iterator {
	return func() (Value, bool) {
		st.enter(1)
		defer st.leave(1)
		return g.next()
	}
}

// collect returns the remaining items.
func (st *state) collect(next iterator) []Value {
	var out []Value
	for {
		v, ok := next()
		if !ok {
			return out
		}
		st.charge(1)
		out = append(out, v)
	}
}

// items returns all items of an iterable. They must not be changed.
func (st *state) items(v Value) []Value {
	switch v := v.(type) {
	case *list:
		return v.items
	case *tuple:
		return v.items
	case *Dict:
		return v.keys
	}
	return st.collect(st.iterate(v))
}

// length is Python's len(); false for what has none.
func length(v Value) (int, bool) {
	switch v := v.(type) {
	case string:
		return utf8.RuneCountInString(v), true
	case markup:
		return utf8.RuneCountInString(string(v)), true
	case *list:
		return len(v.items), true
	case *tuple:
		return len(v.items), true
	case *Dict:
		return v.Len(), true
	case rangeValue:
		return v.len(), true
	case *dictView:
		return v.d.Len(), true
	case *undefined:
		return 0, true
	case *loopContext:
		return v.len(), true
	}
	return 0, false
}
