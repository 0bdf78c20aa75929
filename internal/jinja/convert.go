package jinja

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// FromGo returns v as a template sees it.
//
//   - A map has no order: role, content, id, type and name come first, as messages and tools usually have them, then the
//     other keys sorted. *Dict and json.RawMessage keep their order.
//   - A float64 without a fraction, up to 2^53, becomes an int, because encoding/json makes a float64 of every number.
//     json.Number and json.RawMessage keep 1 and 1.0 apart, as Python does.
//   - Whatever is not listed in the code below is converted through encoding/json.
//
// The error names the path of the value that cannot be converted: text that is not UTF-8, a channel, a cycle.
func FromGo(v any) (any, error) { return fromGo(v, 0) }

func fromGo(v any, depth int) (Value, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	switch v := v.(type) {
	case nil, bool, int64, *big.Int, markup, *list, *tuple, *Dict, *undefined:
		return v, nil
	case string:
		if !utf8.ValidString(v) {
			return nil, errors.New("the text is not valid UTF-8; convert it first")
		}
		return v, nil
	case int:
		return int64(v), nil
	case int32:
		return int64(v), nil
	case uint64:
		return small(new(big.Int).SetUint64(v)), nil
	case float64:
		if v == math.Trunc(v) && math.Abs(v) <= 1<<53 {
			return int64(v), nil
		}
		return v, nil
	case json.Number:
		return parseNumber(string(v))
	case json.RawMessage:
		return FromJSON(v)
	case []any:
		return fromSlice(v, depth)
	case []string:
		return fromSlice(v, depth)
	case []map[string]any:
		return fromSlice(v, depth)
	case map[string]any:
		return fromMap(v, depth)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return FromJSON(data)
}

func fromSlice[T any](s []T, depth int) (Value, error) {
	l := &list{items: make([]Value, len(s))}
	for i, e := range s {
		v, err := fromGo(e, depth+1)
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		l.items[i] = v
	}
	return l, nil
}

func fromMap(m map[string]any, depth int) (Value, error) {
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
	})
	d := &Dict{keys: make([]Value, 0, len(keys)), values: make([]Value, 0, len(keys))}
	for _, k := range keys {
		if !utf8.ValidString(k) {
			return nil, fmt.Errorf("the key %q is not valid UTF-8; convert it first", k)
		}
		v, err := fromGo(m[k], depth+1)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
		d.put(k, v)
	}
	return d, nil
}

// rank orders the keys that come first in a map.
func rank(key string) int {
	first := []string{"role", "content", "id", "type", "name"}
	if i := slices.Index(first, key); i >= 0 {
		return i
	}
	return len(first)
}

// Elements returns the elements of a list that FromGo or FromJSON returned; false for anything else.
func Elements(v any) ([]any, bool) {
	l, ok := v.(*list)
	if !ok {
		return nil, false
	}
	return slices.Clone(l.items), true
}

// FromJSON decodes JSON as Python's json.loads does: objects keep their order, 1 is an int and 1.0 a float.
func FromJSON(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	v, err := decode(d, 0)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("JSON: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("JSON: more after the value, at byte %d", d.InputOffset())
	}
	return v, nil
}

func decode(d *json.Decoder, depth int) (Value, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Number:
		return parseNumber(string(t))
	case json.Delim:
		if t == '[' {
			return decodeList(d, depth)
		}
		return decodeDict(d, depth)
	}
	return t, nil // nil, bool or string
}

func decodeList(d *json.Decoder, depth int) (Value, error) {
	l := &list{}
	for d.More() {
		v, err := decode(d, depth+1)
		if err != nil {
			return nil, err
		}
		l.items = append(l.items, v)
	}
	_, err := d.Token()
	return l, err
}

func decodeDict(d *json.Decoder, depth int) (Value, error) {
	dict := &Dict{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		v, err := decode(d, depth+1)
		if err != nil {
			return nil, err
		}
		dict.put(key, v)
	}
	_, err := d.Token()
	return dict, err
}

// parseNumber reads a number of JSON.
func parseNumber(s string) (Value, error) {
	if strings.ContainsAny(s, ".eE") {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) { // out of range is infinite, as in Python
			return nil, fmt.Errorf("the number %q: %w", s, err)
		}
		return f, nil
	}
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return i, nil
	}
	if len(s) > maxDigits {
		return nil, fmt.Errorf("an int of %d digits; want at most %d", len(s), maxDigits)
	}
	b, ok := new(big.Int).SetString(s, 10)
	if !ok {
		return nil, fmt.Errorf("%q is not a number", s)
	}
	return b, nil
}
