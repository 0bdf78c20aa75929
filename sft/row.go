package sft

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Message is one turn of a conversation: role, content, and what else the chat template reads.
type Message = map[string]any

// Row is one line of a data set: columns by name. A column holds what encoding/json decodes, except that whole numbers
// are int64, and that the list in tools, and the lists and objects inside a message, such as tool_calls, are read from a
// file as json.RawMessage, because chat templates print them and a map has no order of keys. See [LoadJSONL] for the columns
// that the trainer reads.
type Row map[string]any

// UnmarshalJSON reads a row as [LoadJSONL] does.
func (r *Row) UnmarshalJSON(text []byte) (err error) {
	*r, err = decodeRow(text)
	return err
}

// Columns returns the names of the row's columns, sorted.
func (r Row) Columns() []string { return slices.Sorted(maps.Keys(r)) }

// Text returns a column that holds text.
func (r Row) Text(column string) (string, error) {
	v, err := r.value(column)
	if err != nil {
		return "", err
	}
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("column %q is %s; want a text", column, describe(v))
	}
	return s, nil
}

// Messages returns a column that holds a conversation: a list of objects with a role, or with ShareGPT's from and value,
// which become role and content; the roles' names stay. The row is not changed.
func (r Row) Messages(column string) ([]Message, error) {
	v, err := r.value(column)
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

// tools returns the tool definitions of a row: a list, or JSON text of one, whose keys keep their order. nil: none.
func (r Row) tools() (any, error) {
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

// keepOrder puts the JSON text of lists and objects that chat templates print in their place; text is that of the row.
func (r Row) keepOrder(text []byte) error {
	var columns map[string]json.RawMessage
	for name, v := range r {
		list, ok := v.([]any)
		if !ok || name != "tools" && !r.isConversation(name, "role") && !r.isConversation(name, "from") {
			continue
		}
		if columns == nil {
			if err := unmarshal(text, &columns); err != nil {
				return err
			}
		}
		if name == "tools" {
			r[name] = columns[name]
		} else if err := keepOrderOfMessages(list, columns[name]); err != nil {
			return err
		}
	}
	return nil
}

func keepOrderOfMessages(list []any, text json.RawMessage) error {
	var messages []json.RawMessage
	if err := unmarshal(text, &messages); err != nil {
		return err
	}
	for i, m := range list {
		fields, ok := m.(map[string]any)
		if !ok {
			continue // reported where the conversation is read
		}
		var raw map[string]json.RawMessage
		for name, v := range fields {
			switch v.(type) {
			case []any, map[string]any:
			default:
				continue
			}
			if raw == nil {
				if err := unmarshal(messages[i], &raw); err != nil {
					return err
				}
			}
			fields[name] = raw[name]
		}
	}
	return nil
}

// templateKwargs returns a row's variables for the chat template.
func (r Row) templateKwargs() (map[string]any, error) {
	switch v := r["chat_template_kwargs"].(type) {
	case nil:
		return nil, nil
	case map[string]any:
		return v, nil
	default:
		return nil, fmt.Errorf("column %q is %s; want an object", "chat_template_kwargs", describe(v))
	}
}

// numbers returns a column that holds a list of whole numbers; nil if the row has no such column.
func (r Row) numbers(column string) ([]int32, error) {
	list := []int32{}
	switch v := r[column].(type) {
	case nil:
		return nil, nil
	case []int32:
		return v, nil
	case []int:
		for _, x := range v {
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

func (r Row) has(column string) bool { return r[column] != nil }

func (r Row) value(column string) (any, error) {
	if !r.has(column) {
		return nil, fmt.Errorf("column %q is missing (the row has %s)", column, quoted(r.Columns()))
	}
	return r[column], nil
}

// isConversation reports whether a column is a list whose first element is an object with the given keys.
func (r Row) isConversation(column string, keys ...string) bool {
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
