package jinja

import (
	"slices"
	"strings"
)

// lazy makes a generator whose items start returns when the first one is asked for.
func lazy(kind string, start func() iterator) *generator {
	var next iterator
	return &generator{kind: kind, next: func() (Value, bool) {
		if next == nil {
			next = start()
		}
		return next()
	}}
}

// filterMap applies a filter to every item, or looks up an attribute of it.
func filterMap(st *state, v Value, a callArgs) Value {
	return lazy("generator", func() iterator {
		if !truthy(v) {
			return sliceIterator(nil)
		}
		apply := st.mapper(a)
		next := st.iterate(v)
		return func() (Value, bool) {
			item, ok := next()
			if !ok {
				return nil, false
			}
			st.charge(1)
			return apply(item), true
		}
	})
}

func (st *state) mapper(a callArgs) func(Value) Value {
	if len(a.pos) > 0 {
		var f filterFunc
		if name, ok := text(a.pos[0]); ok {
			f = filterNamed(name)
		}
		if f == nil {
			fail("TemplateRuntimeError", "No filter named %s.", plainRepr(a.pos[0]))
		}
		rest := callArgs{a.pos[1:], a.kw}
		return func(v Value) Value { return f(st, v, rest) }
	}
	if !a.has("attribute") {
		fail("FilterArgumentError", "map requires a filter argument")
	}
	for _, k := range a.kw {
		if k.name != "attribute" && k.name != "default" {
			fail("FilterArgumentError", "Unexpected keyword argument %s", reprString(k.name))
		}
	}
	args := a.bind("map", 0, "attribute", "default")
	path, d := attrPath(args[0]), or(args[1], nil)
	return func(v Value) Value { return st.follow(v, path, d) }
}

// choose makes select, reject, selectattr and rejectattr.
func choose(name string, want, byAttr bool) filterFunc {
	return func(st *state, v Value, a callArgs) Value {
		return lazy("generator", func() iterator {
			if !truthy(v) {
				return sliceIterator(nil)
			}
			is := st.chooser(a, byAttr)
			next := st.iterate(v)
			return func() (Value, bool) {
				for {
					item, ok := next()
					if !ok {
						return nil, false
					}
					st.charge(1)
					if is(item) == want {
						return item, true
					}
				}
			}
		})
	}
}

func (st *state) chooser(a callArgs, byAttr bool) func(Value) bool {
	args := a.pos
	var path []Value
	if byAttr {
		if len(args) == 0 {
			fail("FilterArgumentError", "Missing parameter for attribute name")
		}
		path, args = attrPath(args[0]), args[1:]
	}
	if len(args) == 0 {
		return func(v Value) bool { return truthy(st.follow(v, path, nil)) }
	}
	var test testFunc
	if name, ok := text(args[0]); ok {
		test = testNamed(name)
	}
	if test == nil {
		fail("TemplateRuntimeError", "No test named %s.", plainRepr(args[0]))
	}
	rest := callArgs{args[1:], a.kw}
	return func(v Value) bool { return test(st, st.follow(v, path, nil), rest) }
}

func filterUnique(st *state, v Value, a callArgs) Value {
	args := a.bind("unique", 0, "case_sensitive", "attribute")
	return lazy("generator", func() iterator {
		key := st.keyOf(args[0], args[1], nil)
		seen := map[any]bool{}
		next := st.iterate(v)
		return func() (Value, bool) {
			for {
				item, ok := next()
				if !ok {
					return nil, false
				}
				if k := hashKey(key(item)); !seen[k] {
					seen[k] = true
					return item, true
				}
			}
		}
	})
}

func filterSort(st *state, v Value, a callArgs) Value {
	args := a.bind("sort", 0, "reverse", "case_sensitive", "attribute")
	var keys []func(Value) Value
	attribute := or(args[2], nil)
	if s, ok := text(attribute); ok { // several, separated by commas
		for _, part := range strings.Split(s, ",") {
			keys = append(keys, st.keyOf(args[1], part, nil))
		}
	} else {
		keys = append(keys, st.keyOf(args[1], attribute, nil))
	}
	key := func(v Value) Value {
		l := &list{items: make([]Value, len(keys))}
		for i, k := range keys {
			l.items[i] = k(v)
		}
		return l
	}
	return &list{st.sorted(st.items(v), key, mustInt(or(args[0], false)) != 0)}
}

func extreme(name, op string) filterFunc {
	return func(st *state, v Value, a callArgs) Value {
		args := a.bind(name, 0, "case_sensitive", "attribute")
		items := st.items(v)
		if len(items) == 0 {
			return &undefined{hint: "No aggregated item, sequence was empty."}
		}
		key := st.keyOf(args[0], args[1], nil)
		best := items[0]
		bestKey := key(best)
		for _, item := range items[1:] {
			if k := key(item); st.compare(op, k, bestKey) {
				best, bestKey = item, k
			}
		}
		return best
	}
}

func filterGroupBy(st *state, v Value, a callArgs) Value {
	args := a.bind("groupby", 1, "attribute", "default", "case_sensitive")
	d := or(args[1], nil)
	key := st.keyOf(args[2], args[0], d)
	items := st.sorted(st.items(v), key, false)
	groups := &list{}
	for i := 0; i < len(items); {
		k := key(items[i])
		n := i + 1
		for n < len(items) && st.equal(key(items[n]), k) {
			n++
		}
		if !truthy(or(args[2], false)) {
			k = st.follow(items[i], attrPath(args[0]), d)
		}
		groups.items = append(groups.items, &tuple{items: []Value{k, &list{slices.Clone(items[i:n])}}, group: true})
		i = n
	}
	return groups
}

func filterBatch(st *state, v Value, a callArgs) Value {
	args := a.bind("batch", 1, "linecount", "fill_with")
	return lazy("generator", func() iterator {
		next := st.iterate(v)
		done := false
		var held []Value
		return func() (Value, bool) {
			for !done {
				item, ok := next()
				if !ok {
					done = true
					break
				}
				st.charge(1)
				if st.equal(int64(len(held)), args[0]) {
					full := held
					held = []Value{item}
					return &list{full}, true
				}
				held = append(held, item)
			}
			if len(held) == 0 {
				return nil, false
			}
			last := held
			held = nil
			if fill := or(args[1], nil); fill != nil {
				last = st.fill(last, fill, args[0])
			}
			return &list{last}, true
		}
	})
}

// fill appends v up to a length.
func (st *state) fill(items []Value, v, length Value) []Value {
	if n := mustInt(length) - len(items); n > 0 {
		st.charge(n)
		items = append(items, slices.Repeat([]Value{v}, n)...)
	}
	return items
}

func filterSlice(st *state, v Value, a callArgs) Value {
	args := a.bind("slice", 1, "slices", "fill_with")
	return lazy("generator", func() iterator {
		items := st.items(v)
		n := mustInt(args[0])
		if n == 0 {
			fail("ZeroDivisionError", "integer division or modulo by zero")
		}
		each, extra := len(items)/max(n, 1), len(items)%max(n, 1)
		return countIterator(n, func(i int) Value {
			st.charge(1 + each)
			start := i*each + min(i, extra)
			end := start + each
			if i < extra {
				end++
			}
			part := slices.Clone(items[start:end])
			if fill := or(args[1], nil); fill != nil && i >= extra {
				part = append(part, fill)
			}
			return &list{part}
		})
	})
}
