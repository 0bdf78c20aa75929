package jinja

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Dict is a Python dict: a map that keeps the order in which keys were first set. The zero Dict is empty and ready to use.
// It may be shared between renders, but not changed while one runs.
type Dict struct {
	keys, values []Value
	index        map[any]int // by hashKey, once linear search is slow
}

const (
	linearSearch = 8       // the largest dict without an index
	maxKey       = 1 << 20 // bytes of the largest tuple that can be a key
)

// Set stores a value of any kind that [FromGo] takes; the error is FromGo's.
func (d *Dict) Set(key string, value any) error {
	v, err := FromGo(value)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	d.put(key, v)
	return nil
}

// Get returns the value of a key as this package represents it.
func (d *Dict) Get(key string) (value any, ok bool) { return d.getText(key) }

// Len returns the number of keys.
func (d *Dict) Len() int { return len(d.keys) }

// Keys returns the keys that are strings, in order.
func (d *Dict) Keys() []string {
	out := make([]string, 0, len(d.keys))
	for _, k := range d.keys {
		if s, ok := text(k); ok {
			out = append(out, s)
		}
	}
	return out
}

func (d *Dict) getText(key string) (Value, bool) {
	if i := d.findText(key); i >= 0 {
		return d.values[i], true
	}
	return nil, false
}

func (d *Dict) findText(key string) int {
	if d.index != nil {
		if i, ok := d.index[key]; ok {
			return i
		}
		return -1
	}
	for i, k := range d.keys {
		if s, ok := text(k); ok && s == key {
			return i
		}
	}
	return -1
}

// get raises TypeError for a key that cannot be hashed.
func (d *Dict) get(key Value) (Value, bool) {
	if i := d.find(key); i >= 0 {
		return d.values[i], true
	}
	return nil, false
}

func (d *Dict) find(key Value) int {
	if s, ok := text(key); ok {
		return d.findText(s)
	}
	h := hashKey(key)
	if d.index != nil {
		if i, ok := d.index[h]; ok {
			return i
		}
		return -1
	}
	for i, k := range d.keys {
		if hashKey(k) == h {
			return i
		}
	}
	return -1
}

func (d *Dict) put(key, value Value) {
	if i := d.find(key); i >= 0 {
		d.values[i] = value
		return
	}
	d.keys, d.values = append(d.keys, key), append(d.values, value)
	switch n := len(d.keys); {
	case d.index != nil:
		d.index[hashKey(key)] = n - 1
	case n > linearSearch:
		d.index = make(map[any]int, 2*n)
		for i, k := range d.keys {
			d.index[hashKey(k)] = i
		}
	}
}

// Clone returns a copy that can be changed; the values are shared.
func (d *Dict) Clone() *Dict {
	c := &Dict{}
	for i, k := range d.keys {
		c.put(k, d.values[i])
	}
	return c
}

// dictView is what keys(), values() and items() return.
type dictView struct {
	d    *Dict
	part viewPart
}

type viewPart uint8

const (
	viewKeys viewPart = iota
	viewValues
	viewItems
)

func (v *dictView) at(i int) Value {
	switch v.part {
	case viewKeys:
		return v.d.keys[i]
	case viewValues:
		return v.d.values[i]
	}
	return &tuple{items: []Value{v.d.keys[i], v.d.values[i]}}
}

func (v *dictView) items() []Value {
	out := make([]Value, v.d.Len())
	for i := range out {
		out[i] = v.at(i)
	}
	return out
}

type (
	noneKey      struct{}
	undefinedKey struct{}
	bigKey       string
	tupleKey     string
)

// hashKey returns a comparable that is equal for values that are equal as keys (1, 1.0 and True are one key); it raises
// TypeError for lists and dicts.
func hashKey(v Value) any { return hashAt(v, 0) }

func hashAt(v Value, depth int) any {
	switch v := v.(type) {
	case nil:
		return noneKey{}
	case markup:
		return string(v)
	case bool:
		i, _ := integer(v)
		return i
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<62 {
			return int64(v)
		}
		if math.IsNaN(v) {
			return new(float64)
		}
		if v == math.Trunc(v) && !math.IsInf(v, 0) {
			b, _ := big.NewFloat(v).Int(nil)
			return hashAt(small(b), depth)
		}
		return v
	case *big.Int:
		return bigKey(v.String())
	case *undefined:
		return undefinedKey{}
	case *tuple:
		return hashTuple(v, depth)
	case *list, *Dict:
		typeError("unhashable type: '%s'", typeName(v))
	case *dictView:
		if v.part != viewValues {
			typeError("unhashable type: '%s'", typeName(v))
		}
	}
	return v
}

func hashTuple(t *tuple, depth int) any {
	if depth > maxDepth {
		fail("RecursionError", "maximum recursion depth exceeded")
	}
	var b strings.Builder
	for _, e := range t.items {
		switch k := hashAt(e, depth+1).(type) {
		case string:
			b.WriteString(strconv.Quote(k))
		case tupleKey:
			b.WriteString("(" + string(k) + ")")
		case noneKey, undefinedKey, int64, float64, bigKey, rangeValue, dictClass:
			fmt.Fprintf(&b, "%T%v", k, k)
		default:
			fmt.Fprintf(&b, "%T%p", k, k)
		}
		b.WriteByte(',')
		if b.Len() > maxKey {
			fail(KindLimit, "a tuple is too large for a key")
		}
	}
	return tupleKey(b.String())
}
