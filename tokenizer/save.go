package tokenizer

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/loris-ml/loris/internal/atomicfile"
)

// SavePretrained writes the tokenizer to a folder in Hugging Face layout, made if absent: tokenizer.json (the bytes it was
// loaded from, or with the added tokens, truncation and padding that were changed; from a GGUF file one that the Rust
// library loads to the same ids), tokenizer_config.json, special_tokens_map.json where there was one, and the chat
// templates. Every file is whole or not there.
func (t *Tokenizer) SavePretrained(dir string) error {
	document, err := t.document()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fmt.Errorf("tokenizer: %w", err)
	}
	config, err := indented(t.files.config)
	if err != nil {
		return fmt.Errorf("tokenizer: tokenizer_config.json: %w", err)
	}
	write := func(name string, data []byte) error {
		return atomicfile.Write(filepath.Join(dir, name), func(w io.Writer) error {
			_, err := w.Write(data)
			return err
		})
	}
	if err := write("tokenizer.json", document); err != nil {
		return err
	}
	if err := write("tokenizer_config.json", config); err != nil {
		return err
	}
	if t.files.specialTokens != nil { // else tokenizer_config.json has all of them, with flags that a map of texts would undo
		if err := write("special_tokens_map.json", t.files.specialTokens); err != nil {
			return err
		}
	}
	return t.templates.save(dir, write)
}

// Fingerprint identifies what the tokenizer does: 64 hexadecimal digits, made of the files that SavePretrained writes.
func (t *Tokenizer) Fingerprint() (string, error) {
	document, err := t.document()
	if err != nil {
		return "", err
	}
	config, err := indented(t.files.config)
	if err != nil {
		return "", fmt.Errorf("tokenizer: tokenizer_config.json: %w", err)
	}
	h := sha256.New()
	part := func(name string, data []byte) { fmt.Fprintf(h, "%q %d\n%s\n", name, len(data), data) }
	part("tokenizer.json", document)
	part("tokenizer_config.json", config)
	part("special_tokens_map.json", t.files.specialTokens)
	part("chat_template.jinja", []byte(t.templates.standard))
	for _, name := range slices.Sorted(maps.Keys(t.templates.named)) {
		part(name, []byte(t.templates.named[name]))
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// document returns the tokenizer.json: as it was loaded, with what was changed since.
func (t *Tokenizer) document() ([]byte, error) {
	if !t.changed {
		return t.files.tokenizerJSON, nil
	}
	root := node{file: "tokenizer.json", raw: t.files.tokenizerJSON}
	fields, err := root.fields()
	if err != nil {
		return nil, err
	}
	keys, err := root.keys()
	if err != nil {
		return nil, err
	}
	added := t.sortedAdded()
	if err := t.checkReloaded(added); err != nil {
		return nil, err
	}
	if fields["added_tokens"], err = unescaped(added); err != nil {
		return nil, err
	}
	if fields["truncation"], err = t.truncation.json(); err != nil {
		return nil, err
	}
	if fields["padding"], err = t.padding.json(); err != nil {
		return nil, err
	}
	for _, key := range [...]string{"truncation", "padding", "added_tokens"} { // a file may lack them
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return assemble(keys, fields, bytes.ContainsRune(t.files.tokenizerJSON, '\n'))
}

// assemble writes an object with its fields in this order.
func assemble(keys []string, fields map[string]json.RawMessage, indent bool) ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, key := range keys {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(key)
		if err != nil {
			return nil, fmt.Errorf("tokenizer: tokenizer.json: %w", err)
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(fields[key])
	}
	b.WriteByte('}')
	if !indent {
		return b.Bytes(), nil
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b.Bytes(), "", "  "); err != nil {
		return nil, fmt.Errorf("tokenizer: tokenizer.json: %w", err)
	}
	return out.Bytes(), nil
}

// checkReloaded reports a token that would have another id when the file is loaded: the format does not keep ids, and a
// vocabulary with gaps numbers tokens of several calls differently.
func (t *Tokenizer) checkReloaded(added []addedToken) error {
	next := len(t.vocab.ids)
	for _, a := range added {
		if _, ok := t.vocab.lookup(a.Content); ok {
			continue
		}
		if a.ID != next {
			return fmt.Errorf("tokenizer: tokenizer.json: the added token %q has id %d, but loading the file would give it %d; add all tokens in one call", a.Content, a.ID, next)
		}
		next++
	}
	return nil
}

// unescaped marshals in one line, without escaping <, > and &.
func unescaped(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

func (t *templates) save(dir string, write func(name string, data []byte) error) error {
	if t.standard != "" {
		if err := write("chat_template.jinja", []byte(t.standard)); err != nil {
			return err
		}
	}
	const more = "additional_chat_templates"
	if len(t.named) > 0 {
		if err := os.MkdirAll(filepath.Join(dir, more), 0o777); err != nil {
			return fmt.Errorf("tokenizer: %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.named)) {
		if name == "" || strings.ContainsAny(name, `/\:`) || strings.HasPrefix(name, ".") {
			return fmt.Errorf("tokenizer: the chat template named %q cannot be a file name; rename it in tokenizer_config.json", name)
		}
		if err := write(filepath.Join(more, name+".jinja"), []byte(t.named[name])); err != nil {
			return err
		}
	}
	return nil
}

// indented marshals without escaping <, > and &, as Python does.
func indented(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return b.Bytes(), err
}

// jsonTokenizer is a tokenizer.json as it is written.
type jsonTokenizer struct {
	Version       string          `json:"version"`
	Truncation    *struct{}       `json:"truncation"`
	Padding       *struct{}       `json:"padding"`
	AddedTokens   []addedToken    `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         jsonBPE         `json:"model"`
}

type jsonBPE struct {
	Type         string      `json:"type"`
	Dropout      *float64    `json:"dropout"`
	UnkToken     *string     `json:"unk_token"`
	Prefix       *string     `json:"continuing_subword_prefix"`
	Suffix       *string     `json:"end_of_word_suffix"`
	FuseUnk      bool        `json:"fuse_unk"`
	ByteFallback bool        `json:"byte_fallback"`
	IgnoreMerges bool        `json:"ignore_merges"`
	Vocab        jsonVocab   `json:"vocab"`
	Merges       [][2]string `json:"merges"`
}

// jsonVocab is written as an object in order of ids.
type jsonVocab []string

func (v jsonVocab) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for id, s := range v {
		if id > 0 {
			b.WriteByte(',')
		}
		key, err := indented(s)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%s:%d", bytes.TrimSpace(key), id)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}
