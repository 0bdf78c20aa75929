package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// UnsupportedError reports a component of a tokenizer file that this package does not implement.
// Its text names the file, the field and the component.
type UnsupportedError struct {
	File      string // path of the file
	Field     string // JSON path inside the file, such as pre_tokenizer.pretokenizers[1], or a GGUF key
	Component string // what was found there, such as UnicodeScripts
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("tokenizer: %s: %s: %q is not supported; export the tokenizer without it", e.File, e.Field, e.Component)
}

// node is a value inside a JSON file together with where it stands, so that every error can say so.
type node struct {
	file, path string
	raw        json.RawMessage
}

func (n node) child(field string, raw json.RawMessage) node {
	if n.path != "" {
		field = n.path + "." + field
	}
	return node{n.file, field, raw}
}

func (n node) items(field string, raws []json.RawMessage) []node {
	out := make([]node, len(raws))
	for i, r := range raws {
		out[i] = n.child(fmt.Sprintf("%s[%d]", field, i), r)
	}
	return out
}

// loadAll loads every item of a sequence of components.
func loadAll[T any](items []node, load func(node) (T, error)) ([]T, error) {
	var all []T
	for _, item := range items {
		f, err := load(item)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// absent reports whether the value is missing or null.
func (n node) absent() bool {
	return len(n.raw) == 0 || bytes.Equal(bytes.TrimSpace(n.raw), []byte("null"))
}

func (n node) errorf(format string, args ...any) error {
	where := n.file
	if n.path != "" {
		where += ": " + n.path
	}
	return fmt.Errorf("tokenizer: %s: "+format, append([]any{where}, args...)...)
}

// decode fills v from the value.
func (n node) decode(v any) error {
	if err := json.Unmarshal(n.raw, v); err != nil {
		return n.errorf("%w", err)
	}
	return nil
}

// kind returns the "type" of a component.
func (n node) kind() (string, error) {
	var c struct {
		Type *string `json:"type"`
	}
	if err := n.decode(&c); err != nil {
		return "", err
	}
	if c.Type == nil {
		return "", n.errorf("the component has no \"type\"")
	}
	return *c.Type, nil
}

func (n node) unsupported(component string) error {
	return &UnsupportedError{File: n.file, Field: n.path, Component: component}
}
