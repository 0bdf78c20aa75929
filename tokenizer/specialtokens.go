package tokenizer

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// specialTokens are the tokens with a role, "" for none.
type specialTokens struct {
	bos, eos, pad, unk string
	more               map[string]string // the others by the name of their field, such as sep_token
	eosIDs             []int
}

// standardRoles are the fields of special tokens in the order in which new ones get their ids.
var standardRoles = [...]string{"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}

func (s *specialTokens) named() map[string]*string {
	return map[string]*string{"bos_token": &s.bos, "eos_token": &s.eos, "pad_token": &s.pad, "unk_token": &s.unk}
}

func (s *specialTokens) set(role, token string) {
	if to, ok := s.named()[role]; ok {
		*to = token
		return
	}
	if s.more == nil {
		s.more = map[string]string{}
	}
	s.more[role] = token
}

// all returns the tokens by the names of their fields.
func (s *specialTokens) all() map[string]string {
	all := map[string]string{}
	for role, token := range s.named() {
		all[role] = *token
	}
	for role, token := range s.more {
		all[role] = token
	}
	for role, token := range all {
		if token == "" {
			delete(all, role)
		}
	}
	return all
}

// SpecialTokens returns the tokens with a role by the names of their fields in tokenizer_config.json, such as sep_token: the
// variables of the same names in chat templates.
func (t *Tokenizer) SpecialTokens() map[string]string { return t.special.all() }

// SetSpecialToken gives a token of the vocabulary a role, such as pad_token. SavePretrained writes it to
// tokenizer_config.json. No other call may run at the same time.
func (t *Tokenizer) SetSpecialToken(role, token string) error {
	if !strings.HasSuffix(role, "_token") {
		return fmt.Errorf("tokenizer: SetSpecialToken: the role %q; want a field such as pad_token", role)
	}
	if _, ok := t.TokenToID(token); !ok {
		return fmt.Errorf("tokenizer: SetSpecialToken: %s: %q is not in the vocabulary; add it with AddSpecialTokens", role, token)
	}
	raw, err := json.Marshal(token)
	if err != nil {
		return fmt.Errorf("tokenizer: SetSpecialToken: %w", err)
	}
	if t.files.config == nil {
		t.files.config = map[string]json.RawMessage{}
	}
	t.files.config[role] = raw
	t.special.set(role, token)
	if t.files.specialTokens == nil {
		return nil
	}
	legacy, err := node{file: "special_tokens_map.json", raw: t.files.specialTokens}.fields()
	if err != nil {
		return err
	}
	legacy[role] = raw
	if t.files.specialTokens, err = indented(legacy); err != nil {
		return fmt.Errorf("tokenizer: SetSpecialToken: %w", err)
	}
	return nil
}

// specialReader gathers special tokens as transformers does: from tokenizer_config.json, and where that has no
// added_tokens_decoder, before it from special_tokens_map.json and added_tokens.json.
type specialReader struct {
	t       *Tokenizer
	known   map[string]AddedToken // entries of added_tokens_decoder, or added_tokens of tokenizer.json, by content
	order   []string              // of the roles
	roles   map[string]AddedToken
	extra   []AddedToken // without a role
	decoder []addedToken // of added_tokens_decoder or added_tokens.json
	legacy  bool         // there is an added_tokens.json
}

// readSpecialTokens sets the roles, and adds the tokens that tokenizer.json lacks.
func (t *Tokenizer) readSpecialTokens(dir string, config node) error {
	fields, err := config.fields()
	if err != nil {
		return err
	}
	t.files.config = fields
	legacy, err := readJSON(dir, "special_tokens_map.json")
	if err != nil {
		return err
	}
	t.files.specialTokens = legacy.raw
	r := specialReader{t: t, known: map[string]AddedToken{}, roles: map[string]AddedToken{}}
	for _, role := range standardRoles {
		r.order = append(r.order, role)
	}
	if t.padding != nil {
		r.roles["pad_token"] = AddedToken{Content: t.padding.Token, Special: true}
	}
	decoder := config.child("added_tokens_decoder", fields["added_tokens_decoder"])
	if len(decoder.raw) > 0 {
		err = r.readDecoder(decoder)
	} else {
		for _, a := range t.added {
			r.known[a.Content] = a.AddedToken
		}
		err = r.readLegacyAdded(dir)
	}
	if err != nil {
		return err
	}
	if err := r.readRoles(config, false); err != nil {
		return err
	}
	if len(decoder.raw) == 0 {
		if err := r.readRoles(legacy, true); err != nil {
			return err
		}
	} else if _, err := legacy.fields(); err != nil {
		return err
	}
	return r.apply()
}

// readDecoder reads {"id": token}.
func (r *specialReader) readDecoder(n node) error {
	var byID map[string]json.RawMessage
	if err := n.decode(&byID); err != nil {
		return err
	}
	for key, raw := range byID {
		id, err := strconv.Atoi(key)
		if err != nil {
			return n.errorf("%q is not an id", key)
		}
		token, ok, err := n.child(key, raw).addedToken()
		if err != nil {
			return err
		}
		if ok {
			r.decoder = append(r.decoder, addedToken{id, token})
			r.known[token.Content] = token
		}
	}
	slices.SortFunc(r.decoder, func(a, b addedToken) int { return cmp.Compare(a.ID, b.ID) })
	return nil
}

// readLegacyAdded reads added_tokens.json, {"token": id}. Its tokens are special where they have a role.
func (r *specialReader) readLegacyAdded(dir string) error {
	n, err := readJSON(dir, "added_tokens.json")
	if err != nil || n.absent() {
		return err
	}
	r.legacy = true
	var ids map[string]int
	if err := n.decode(&ids); err != nil {
		return err
	}
	for content, id := range ids {
		if _, ok := r.known[content]; !ok {
			r.decoder = append(r.decoder, addedToken{id, AddedToken{Content: content, Normalized: true}})
		}
	}
	slices.SortFunc(r.decoder, func(a, b addedToken) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), strings.Compare(a.Content, b.Content))
	})
	return nil
}

// readRoles reads the fields of an object whose names end with _token, and the lists of further special tokens.
// With nullable, null is no value; else it takes away what an earlier file had.
func (r *specialReader) readRoles(n node, nullable bool) error {
	fields, err := n.fields()
	if err != nil {
		return err
	}
	keys, err := n.keys()
	if err != nil {
		return err
	}
	for _, key := range keys {
		f := n.child(key, fields[key])
		switch {
		case key == "extra_special_tokens" && bytes.HasPrefix(bytes.TrimSpace(f.raw), []byte("{")):
			if err := r.readRoles(f, nullable); err != nil {
				return err
			}
		case key == "extra_special_tokens" || key == "additional_special_tokens":
			if err := r.readExtra(f); err != nil {
				return err
			}
		case strings.HasSuffix(key, "_token"):
			if err := r.readRole(key, f, nullable); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *specialReader) readRole(key string, n node, nullable bool) error {
	standard := slices.Contains(standardRoles[:], key)
	if !standard && !n.isToken() {
		return nil // a flag such as add_bos_token
	}
	token, ok, err := n.addedToken()
	if err != nil {
		return err
	}
	if !ok {
		if !nullable {
			delete(r.roles, key)
		}
		return nil
	}
	if !slices.Contains(r.order, key) {
		r.order = append(r.order, key)
	}
	r.roles[key] = token
	return nil
}

func (r *specialReader) readExtra(n node) error {
	if n.absent() {
		return nil
	}
	var list []json.RawMessage
	if err := n.decode(&list); err != nil {
		return err
	}
	for i, raw := range list {
		token, ok, err := n.child(fmt.Sprintf("[%d]", i), raw).addedToken()
		if err != nil {
			return err
		}
		if ok && !slices.ContainsFunc(r.extra, func(a AddedToken) bool { return a.Content == token.Content }) {
			r.extra = append(r.extra, token)
		}
	}
	return nil
}

// apply sets the roles and adds the tokens that are not yet added tokens, as special ones.
func (r *specialReader) apply() error {
	var list []addedToken
	for i, a := range r.decoder {
		for _, role := range r.roles {
			if role.Content == a.Content && !r.decoder[i].Special {
				a.Special, a.Normalized = true, false
			}
		}
		if k, ok := r.t.byContent[a.Content]; !ok || r.t.added[k].AddedToken != a.AddedToken {
			list = append(list, a)
		}
	}
	add := func(a AddedToken) {
		if _, ok := r.t.byContent[a.Content]; ok || slices.ContainsFunc(list, func(b addedToken) bool { return b.Content == a.Content }) {
			return
		}
		a.Special = true
		list = append(list, addedToken{AddedToken: a})
	}
	for _, role := range r.order {
		token, ok := r.roles[role]
		if !ok {
			continue
		}
		r.t.special.set(role, token.Content)
		if known, ok := r.known[token.Content]; ok {
			token = known
		}
		add(token)
	}
	for _, token := range r.extra {
		add(token)
	}
	_, err := r.t.addTokens(list)
	r.t.changed = r.legacy && len(list) > 0 // added_tokens.json is not written again: tokenizer.json takes its tokens
	return err
}

// isToken reports whether the value is a text or an object with content.
func (n node) isToken() bool {
	raw := bytes.TrimSpace(n.raw)
	return bytes.HasPrefix(raw, []byte(`"`)) || bytes.HasPrefix(raw, []byte(`{`)) && bytes.Contains(raw, []byte(`"content"`))
}

// addedToken reads a token written as "text" or {"content": "text", ...}; false when it is absent or empty.
func (n node) addedToken() (AddedToken, bool, error) {
	if n.absent() {
		return AddedToken{}, false, nil
	}
	var s string
	if json.Unmarshal(n.raw, &s) == nil {
		return AddedToken{Content: s, Special: true}, s != "", nil
	}
	var c struct {
		Content *string `json:"content"`
		AddedToken
	}
	if err := json.Unmarshal(n.raw, &c); err != nil || c.Content == nil {
		return AddedToken{}, false, n.errorf(`want a token as text or {"content": text}, got %.80s`, n.raw)
	}
	if !utf8.ValidString(*c.Content) {
		return AddedToken{}, false, n.errorf("%q is not valid UTF-8", *c.Content)
	}
	c.AddedToken.Content = *c.Content
	return c.AddedToken, *c.Content != "", nil
}

// keys returns the names of an object's fields in the order of the file; none for an absent file.
func (n node) keys() ([]string, error) {
	if len(n.raw) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(n.raw))
	if _, err := d.Token(); err != nil {
		return nil, n.errorf("%w", err)
	}
	var keys []string
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, n.errorf("%w", err)
		}
		var skip json.RawMessage
		if err := d.Decode(&skip); err != nil {
			return nil, n.errorf("%w", err)
		}
		if s, ok := key.(string); ok && !slices.Contains(keys, s) {
			keys = append(keys, s)
		}
	}
	return keys, nil
}
