package dataset

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Message is one turn of a conversation: role, content, and what else the chat template reads.
type Message = map[string]any

// Row is one row of a data set: columns by name. A column read from a file holds
//
//	nil, bool, string, int64, float64       JSON's values; whole numbers are int64
//	[]any, map[string]any                   lists and objects
//	json.RawMessage                         the list in the column tools, and lists and objects inside a message, such as
//	                                        tool_calls: chat templates print them, and a map has no order of keys
//	[]byte, time.Time                       Parquet's binary columns and timestamps
//
// In memory a row may also hold []Message, []int and []int32.
type Row map[string]any

// UnmarshalJSON decodes an object as a file's row is decoded.
func (r *Row) UnmarshalJSON(text []byte) (err error) {
	*r, err = decodeRow(text)
	return err
}

// Columns returns the names of the row's columns, sorted.
func (r Row) Columns() []string { return slices.Sorted(maps.Keys(r)) }

// Has reports whether a column is there and not nil.
func (r Row) Has(column string) bool { return r[column] != nil }

// Value returns a column; one that is absent or nil is an error.
func (r Row) Value(column string) (any, error) {
	if !r.Has(column) {
		return nil, fmt.Errorf("column %q is missing (the row has %s)", column, quoted(r.Columns()))
	}
	return r[column], nil
}

// Text returns a column that holds text.
func (r Row) Text(column string) (string, error) {
	v, err := r.Value(column)
	if err != nil {
		return "", err
	}
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("column %q is %s; want a text", column, describe(v))
	}
	return s, nil
}

// Object returns a column that holds an object; nil if the row has no such column.
func (r Row) Object(column string) (map[string]any, error) {
	switch v := r[column].(type) {
	case nil:
		return nil, nil
	case map[string]any:
		return v, nil
	default:
		return nil, fmt.Errorf("column %q is %s; want an object", column, describe(v))
	}
}

// Ints returns a column that holds a list of whole numbers of 32 bits, such as token ids; nil if the row has no such column.
func (r Row) Ints(column string) ([]int32, error) {
	list := []int32{}
	switch v := r[column].(type) {
	case nil:
		return nil, nil
	case []int32:
		return v, nil
	case []int:
		for i, x := range v {
			if int(int32(x)) != x {
				return nil, fmt.Errorf("%s[%d] is %v; want a whole number of 32 bits", column, i, x)
			}
			list = append(list, int32(x))
		}
	case []any:
		for i, x := range v {
			n, ok := x.(int64)
			if !ok || int64(int32(n)) != n {
				return nil, fmt.Errorf("%s[%d] is %v; want a whole number", column, i, x)
			}
			list = append(list, int32(n))
		}
	default:
		return nil, fmt.Errorf("column %q is %s; want a list of whole numbers", column, describe(v))
	}
	return list, nil
}

// Messages returns a column that holds a conversation: a list of objects with a role, or with ShareGPT's from and value,
// which become role and content; the roles' names stay (trl.maybe_convert_to_chatml). The row is not changed.
func (r Row) Messages(column string) ([]Message, error) {
	v, err := r.Value(column)
	if err != nil {
		return nil, err
	}
	var list []any
	switch v := v.(type) {
	case []any:
		list = v
	case []Message:
		for _, m := range v {
			list = append(list, m)
		}
	default:
		return nil, fmt.Errorf("column %q is %s; want a list of messages", column, describe(v))
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("column %q is an empty list; want at least one message", column)
	}
	messages := make([]Message, len(list))
	for i, e := range list {
		m, ok := e.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s[%d] is %s; want an object with role and content", column, i, describe(e))
		}
		m = chatML(m)
		if _, ok := m["role"].(string); !ok {
			return nil, fmt.Errorf("%s[%d] has no role (it has %s); want an object with role and content", column, i, quoted(Row(m).Columns()))
		}
		messages[i] = m
	}
	return messages, nil
}

// chatML renames ShareGPT's keys in a copy.
func chatML(m Message) Message {
	_, from := m["from"]
	_, value := m["value"]
	if !from && !value {
		return m
	}
	m = maps.Clone(m)
	for old, name := range map[string]string{"from": "role", "value": "content"} {
		if v, ok := m[old]; ok {
			delete(m, old)
			m[name] = v
		}
	}
	return m
}

// Tools returns the tool definitions in the column tools: a list, or JSON text of one, whose keys keep their order. nil: none.
func (r Row) Tools() (any, error) {
	text, ok := r["tools"].(string)
	if !ok {
		return r["tools"], nil
	}
	v, err := decodeJSON([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("column %q: %w; want a list of tools, or JSON text of one", "tools", err)
	}
	if v == nil {
		return nil, nil
	}
	return json.RawMessage(text), nil
}

// IsConversation reports whether a column is a list of messages, told by the first: an object with a role, or with
// ShareGPT's from and value.
func (r Row) IsConversation(column string) bool {
	return r.firstHas(column, "role") || r.firstHas(column, "from", "value")
}

// firstHas reports whether a column is a list whose first element is an object with the given keys.
func (r Row) firstHas(column string, keys ...string) bool {
	var first any
	switch v := r[column].(type) {
	case []any:
		if len(v) > 0 {
			first = v[0]
		}
	case []Message:
		if len(v) > 0 {
			first = v[0]
		}
	}
	m, ok := first.(map[string]any)
	for _, k := range keys {
		if _, has := m[k]; !has {
			return false
		}
	}
	return ok
}

func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return "a text"
	case bool, int64, int, float64, json.Number:
		return fmt.Sprintf("%v", v)
	case []any, []Message:
		return "a list"
	case map[string]any:
		return "an object"
	}
	return fmt.Sprintf("a %T", v)
}

func quoted(names []string) string {
	if len(names) == 0 {
		return "no columns"
	}
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(q, ", ")
}
