package jinja

import (
	"cmp"
	"math"
	"math/big"
	"slices"
	"strings"
)

// compare is a comparison operator of Python.
func (st *state) compare(op string, a, b Value) bool {
	switch op {
	case "==":
		return st.equal(a, b)
	case "!=":
		return !st.equal(a, b)
	case "in":
		return st.contains(b, a)
	case "not in":
		return !st.contains(b, a)
	}
	c, ordered := st.order(op, a, b)
	if !ordered {
		return false
	}
	switch op {
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	}
	return c >= 0
}

// order compares values that have an order; ordered is false for NaN.
func (st *state) order(op string, a, b Value) (c int, ordered bool) {
	if isNumber(a) && isNumber(b) {
		return compareNumbers(a, b)
	}
	s, aText := text(a)
	t, bText := text(b)
	if aText && bText {
		return strings.Compare(s, t), true // the order of UTF-8 is that of code points
	}
	switch x := a.(type) {
	case *list:
		if y, ok := b.(*list); ok {
			return st.orderItems(op, x.items, y.items)
		}
	case *tuple:
		if y, ok := b.(*tuple); ok {
			return st.orderItems(op, x.items, y.items)
		}
	}
	failUndefined(a, b)
	typeError("'%s' not supported between instances of '%s' and '%s'", op, typeName(a), typeName(b))
	return 0, false
}

// orderItems compares by the first items that differ.
func (st *state) orderItems(op string, a, b []Value) (int, bool) {
	st.enter(1)
	defer st.leave(1)
	for i := range min(len(a), len(b)) {
		if !st.equal(a[i], b[i]) {
			return st.order(op, a[i], b[i])
		}
	}
	return cmp.Compare(len(a), len(b)), true
}

func compareNumbers(a, b Value) (c int, ordered bool) {
	i, aInt := integer(a)
	j, bInt := integer(b)
	if aInt && bInt {
		return cmp.Compare(i, j), true
	}
	x, y := exact(a), exact(b)
	if x == nil || y == nil {
		return 0, false
	}
	return x.Cmp(y), true
}

// exact returns a number without rounding; nil for NaN.
func exact(v Value) *big.Float {
	if f, ok := v.(float64); ok {
		if math.IsNaN(f) {
			return nil
		}
		return big.NewFloat(f)
	}
	b, _ := bigInteger(v)
	return new(big.Float).SetPrec(uint(max(64, b.BitLen()))).SetInt(b)
}

// equal is Python's ==, which is false for values of classes that have nothing to do with each other.
func (st *state) equal(a, b Value) bool {
	st.charge(1)
	switch x := a.(type) {
	case nil:
		return b == nil
	case string, markup:
		s, _ := text(a)
		t, ok := text(b)
		return ok && s == t
	case bool, int64, *big.Int, float64:
		if !isNumber(b) {
			return false
		}
		c, ordered := compareNumbers(a, b)
		return ordered && c == 0
	case *list:
		y, ok := b.(*list)
		return ok && (x == y || st.equalItems(x.items, y.items))
	case *tuple:
		y, ok := b.(*tuple)
		return ok && (x == y || st.equalItems(x.items, y.items))
	case *Dict:
		y, ok := b.(*Dict)
		return ok && (x == y || st.equalDicts(x, y))
	case *undefined:
		_, ok := b.(*undefined)
		return ok
	case rangeValue:
		y, ok := b.(rangeValue)
		return ok && x.len() == y.len() && (x.len() == 0 || x.start == y.start && (x.len() == 1 || x.step == y.step))
	case *dictView:
		y, ok := b.(*dictView)
		return ok && (x == y || x.part != viewValues && y.part != viewValues && st.equalSets(x.items(), y.items()))
	case *method:
		y, ok := b.(*method)
		return ok && x.name == y.name && same(x.self, y.self)
	}
	return a == b
}

func (st *state) equalItems(a, b []Value) bool {
	if len(a) != len(b) {
		return false
	}
	st.enter(1)
	defer st.leave(1)
	for i := range a {
		if !same(a[i], b[i]) && !st.equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

func (st *state) equalDicts(a, b *Dict) bool {
	if a.Len() != b.Len() {
		return false
	}
	st.enter(1)
	defer st.leave(1)
	for i, k := range a.keys {
		v, ok := b.get(k)
		if !ok || !same(a.values[i], v) && !st.equal(a.values[i], v) {
			return false
		}
	}
	return true
}

func (st *state) equalSets(a, b []Value) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(v Value) bool { return !st.includes(b, v) })
}

// same is Python's is, as far as it can be relied on: constants and small values are one object.
func same(a, b Value) bool {
	if f, ok := a.(float64); ok && math.IsNaN(f) {
		return false
	}
	switch a.(type) {
	case *big.Int, *dictView:
		return false
	}
	return a == b
}

func (st *state) includes(items []Value, v Value) bool {
	return slices.ContainsFunc(items, func(e Value) bool { return same(e, v) || st.equal(e, v) })
}

// contains is Python's in.
func (st *state) contains(in, v Value) bool {
	switch in := in.(type) {
	case string, markup:
		s, _ := text(in)
		part, ok := text(v)
		if !ok {
			typeError("'in <string>' requires string as left operand, not %s", typeName(v))
		}
		st.charge(len(s) / bytesPerStep)
		return strings.Contains(s, part)
	case *list:
		return st.includes(in.items, v)
	case *tuple:
		return st.includes(in.items, v)
	case *Dict:
		return in.find(v) >= 0
	case *dictView:
		if in.part == viewKeys {
			return in.d.find(v) >= 0
		}
	}
	if !isIterable(in) {
		typeError("argument of type '%s' is not iterable", typeName(in))
	}
	next := st.iterate(in)
	for {
		e, ok := next()
		if !ok {
			return false
		}
		if same(e, v) || st.equal(e, v) {
			return true
		}
	}
}

// sorted returns items in the order of their keys, or the reverse; equal ones stay in the order they had.
func (st *state) sorted(items []Value, key func(Value) Value, reverse bool) []Value {
	type entry struct{ item, key Value }
	entries := make([]entry, len(items))
	for i, item := range items {
		entries[i] = entry{item, key(item)}
	}
	slices.SortStableFunc(entries, func(a, b entry) int {
		st.charge(1)
		if reverse {
			a, b = b, a
		}
		c, _ := st.order("<", a.key, b.key)
		return c
	})
	out := make([]Value, len(items))
	for i, e := range entries {
		out[i] = e.item
	}
	return out
}
