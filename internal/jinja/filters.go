package jinja

import (
	"slices"
	"strconv"
	"strings"
)

// filterFunc is what stands after a bar.
type filterFunc func(st *state, v Value, a callArgs) Value

// filterNamed returns a filter, nil if there is none of that name.
func filterNamed(name string) filterFunc {
	switch name {
	case "abs":
		return filterAbs
	case "attr":
		return filterAttr
	case "batch":
		return filterBatch
	case "capitalize":
		return softText(name, capitalize)
	case "center":
		return filterCenter
	case "count", "length":
		return filterLength
	case "d", "default":
		return filterDefault
	case "dictsort":
		return filterDictSort
	case "e", "escape":
		return func(st *state, v Value, a callArgs) Value { a.positional(name, 0, 0); return escapeValue(st, v) }
	case "filesizeformat":
		return filterFileSize
	case "first":
		return filterFirst
	case "float":
		return filterFloat
	case "forceescape":
		return func(st *state, v Value, a callArgs) Value { a.bind(name, 0); return escape(st.str(v)) }
	case "format":
		return filterFormat
	case "groupby":
		return filterGroupBy
	case "indent":
		return filterIndent
	case "int":
		return filterInt
	case "items":
		return filterItems
	case "join":
		return filterJoin
	case "last":
		return filterLast
	case "list":
		return filterList
	case "lower":
		return softText(name, lower)
	case "map":
		return filterMap
	case "max":
		return extreme(name, ">")
	case "min":
		return extreme(name, "<")
	case "reject":
		return choose("do_reject", false, false)
	case "rejectattr":
		return choose("do_rejectattr", false, true)
	case "replace":
		return filterReplace
	case "reverse":
		return filterReverse
	case "round":
		return filterRound
	case "safe":
		return func(st *state, v Value, a callArgs) Value { a.bind(name, 0); return markup(st.str(v)) }
	case "select":
		return choose("do_select", true, false)
	case "selectattr":
		return choose("do_selectattr", true, true)
	case "slice":
		return filterSlice
	case "sort":
		return filterSort
	case "string":
		return softText(name, func(s string) string { return s })
	case "striptags":
		return filterStripTags
	case "sum":
		return filterSum
	case "title":
		return softText(name, titleWords)
	case "tojson":
		return filterToJSON
	case "trim":
		return filterTrim
	case "truncate":
		return filterTruncate
	case "unique":
		return filterUnique
	case "upper":
		return softText(name, upper)
	case "urlencode":
		return filterURLEncode
	case "wordcount":
		return filterWordCount
	case "xmlattr":
		return filterXMLAttr
	case "pprint", "random", "urlize", "wordwrap":
		return func(*state, Value, callArgs) Value {
			fail(KindUnsupported, "the filter %s is not supported", name)
			return nil
		}
	}
	return nil
}

// soft is str() that leaves Markup what it is.
func (st *state) soft(v Value) Value {
	if _, ok := text(v); ok {
		return v
	}
	return st.str(v)
}

// softText makes a filter of a function of text.
func softText(name string, f func(string) string) filterFunc {
	return func(st *state, v Value, a callArgs) Value {
		a.bind(name, 0)
		v = st.soft(v)
		s, _ := text(v)
		st.checkLen(len(s))
		return like(v, f(s))
	}
}

func escapeValue(st *state, v Value) Value {
	if m, ok := v.(markup); ok {
		return m
	}
	return escape(st.str(v))
}

// attrPath is a path such as "function.name" or "0.id": the items to look up one after the other.
func attrPath(attribute Value) []Value {
	s, ok := text(attribute)
	if !ok {
		if attribute == nil {
			return nil
		}
		return []Value{attribute}
	}
	var path []Value
	for _, part := range strings.Split(s, ".") {
		if i, err := strconv.ParseInt(part, 10, 64); err == nil && allRunes(part, isDigit) {
			path = append(path, i)
		} else {
			path = append(path, part)
		}
	}
	return path
}

// follow looks up a path; d, unless nil, replaces what is undefined.
func (st *state) follow(v Value, path []Value, d Value) Value {
	for _, key := range path {
		v = st.item(v, key)
		if _, ok := v.(*undefined); ok && d != nil {
			v = d
		}
	}
	return v
}

func ignoreCase(v Value) Value {
	if s, ok := text(v); ok {
		return lower(s)
	}
	return v
}

// keyOf returns what a filter with the arguments case_sensitive and attribute compares of an item.
func (st *state) keyOf(caseSensitive, attribute, d Value) func(Value) Value {
	path, exact := attrPath(or(attribute, nil)), truthy(or(caseSensitive, false))
	return func(v Value) Value {
		st.charge(1)
		if v = st.follow(v, path, d); exact {
			return v
		}
		return ignoreCase(v)
	}
}

func filterLength(st *state, v Value, a callArgs) Value {
	a.positional("len", 0, 0)
	n, ok := length(v)
	if !ok {
		typeError("object of type '%s' has no len()", typeName(v))
	}
	return int64(n)
}

func filterDefault(st *state, v Value, a callArgs) Value {
	args := a.bind("default", 0, "default_value", "boolean")
	_, isUndefined := v.(*undefined)
	if isUndefined || truthy(or(args[1], false)) && !truthy(v) {
		return or(args[0], "")
	}
	return v
}

func filterAttr(st *state, v Value, a callArgs) Value {
	name := mustText(a.bind("attr", 1, "name")[0])
	if value, ok := attribute(v, name); ok {
		return value
	}
	return &undefined{obj: v, hasObj: true, name: name}
}

func filterFirst(st *state, v Value, a callArgs) Value {
	a.bind("first", 0)
	if item, ok := st.iterate(v)(); ok {
		return item
	}
	return &undefined{hint: "No first item, sequence was empty."}
}

func filterLast(st *state, v Value, a callArgs) Value {
	a.bind("last", 0)
	if item, ok := st.reversed(v)(); ok {
		return item
	}
	return &undefined{hint: "No last item, sequence was empty."}
}

// reversed iterates from the end over what has one.
func (st *state) reversed(v Value) iterator {
	switch v := v.(type) {
	case string, markup:
		s, _ := text(v)
		st.checkLen(len(s))
		runes := []rune(s)
		return countIterator(len(runes), func(i int) Value { return like(v, string(runes[len(runes)-1-i])) })
	case rangeValue:
		return countIterator(v.len(), func(i int) Value { return v.at(v.len() - 1 - i) })
	case *dictView:
		return countIterator(v.d.Len(), func(i int) Value { return v.at(v.d.Len() - 1 - i) })
	case *undefined:
		return sliceIterator(nil)
	case *list, *tuple, *Dict:
		items := st.items(v)
		return countIterator(len(items), func(i int) Value { return items[len(items)-1-i] })
	}
	typeError("'%s' object is not reversible", typeName(v))
	return nil
}

func filterReverse(st *state, v Value, a callArgs) Value {
	a.bind("reverse", 0)
	switch v := v.(type) {
	case string, markup:
		return st.slice(v, nil, nil, int64(-1))
	case *generator, *loopContext:
		items := slices.Clone(st.items(v))
		slices.Reverse(items)
		return &list{items}
	}
	if !isIterable(v) {
		fail("FilterArgumentError", "argument must be iterable")
	}
	return &generator{st.reversed(v), "reversed"}
}

func filterItems(st *state, v Value, a callArgs) Value {
	a.bind("items", 0)
	var next iterator
	return &generator{kind: "generator", next: func() (Value, bool) {
		if next == nil {
			d, ok := v.(*Dict)
			if _, isUndefined := v.(*undefined); !ok && !isUndefined {
				typeError("Can only get item pairs from a mapping.")
			}
			if !ok {
				d = &Dict{}
			}
			next = countIterator(d.Len(), (&dictView{d, viewItems}).at)
		}
		return next()
	}}
}

func filterList(st *state, v Value, a callArgs) Value {
	a.bind("list", 0)
	switch v.(type) {
	case *list, *tuple, *Dict:
		return &list{st.concat(st.items(v), nil)}
	}
	return &list{st.items(v)}
}

func filterJoin(st *state, v Value, a callArgs) Value {
	args := a.bind("join", 0, "d", "attribute")
	path := attrPath(or(args[1], nil))
	items := st.items(v)
	parts := make([]string, len(items))
	for i, item := range items {
		parts[i] = st.str(st.follow(item, path, nil))
	}
	st.charge(len(items))
	return st.join(parts, st.str(or(args[0], "")))
}

func filterSum(st *state, v Value, a callArgs) Value {
	args := a.bind("sum", 0, "attribute", "start")
	path := attrPath(or(args[0], nil))
	sum := or(args[1], int64(0))
	if _, ok := text(sum); ok {
		typeError("sum() can't sum strings [use ''.join(seq) instead]")
	}
	next := st.iterate(v)
	for {
		item, ok := next()
		if !ok {
			return sum
		}
		st.charge(1)
		sum = st.binary("+", sum, st.follow(item, path, nil))
	}
}

func filterDictSort(st *state, v Value, a callArgs) Value {
	args := a.bind("dictsort", 0, "case_sensitive", "by", "reverse")
	by, at := or(args[1], "key"), 0
	switch by {
	case "key":
	case "value":
		at = 1
	default:
		fail("FilterArgumentError", `You can only sort by either "key" or "value"`)
	}
	d, ok := v.(*Dict)
	if !ok {
		failUndefined(v)
		fail("AttributeError", "'%s' object has no attribute 'items'", typeName(v))
	}
	key := st.keyOf(args[0], missing, nil)
	byPart := func(pair Value) Value { return key(pair.(*tuple).items[at]) }
	return &list{st.sorted((&dictView{d, viewItems}).items(), byPart, mustInt(or(args[2], false)) != 0)}
}

func filterTrim(st *state, v Value, a callArgs) Value {
	chars := or(a.bind("trim", 0, "chars")[0], nil)
	v = st.soft(v)
	s, _ := text(v)
	return like(v, stripText(s, chars, true, true))
}

func filterReplace(st *state, v Value, a callArgs) Value {
	args := a.bind("replace", 2, "old", "new", "count")
	n := -1
	if c := or(args[2], nil); c != nil {
		n = mustInt(c)
	}
	return st.replace(st.str(v), st.str(args[0]), st.str(args[1]), n)
}

func filterFormat(st *state, v Value, a callArgs) Value {
	v = st.soft(v)
	s, _ := text(v)
	if len(a.kw) == 0 {
		return st.percent(v, s, &tuple{items: a.pos})
	}
	if len(a.pos) > 0 {
		fail("FilterArgumentError", "can't handle positional and keyword arguments at the same time")
	}
	d := &Dict{}
	for _, k := range a.kw {
		d.put(k.name, k.value)
	}
	return st.percent(v, s, d)
}
