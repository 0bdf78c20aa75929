package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// FromPretrained loads a tokenizer from a folder in Hugging Face layout or from a .gguf file.
//
// A folder must hold tokenizer.json. Read beside it, where present: tokenizer_config.json (special tokens, chat
// template), special_tokens_map.json, generation_config.json (end-of-sequence ids), chat_template.jinja and
// additional_chat_templates. As in transformers 5, the post-processor of tokenizer.json decides which special tokens
// Encode adds, whatever add_bos_token says; the truncation and padding in a tokenizer.json are not applied.
// Errors name the file and the field; a component that is not known is an [UnsupportedError].
func FromPretrained(path string) (*Tokenizer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w; want a folder with tokenizer.json or a .gguf file", err)
	}
	if info.IsDir() {
		return fromFolder(path)
	}
	if strings.EqualFold(filepath.Ext(path), ".gguf") {
		return fromGGUF(path)
	}
	return nil, fmt.Errorf("tokenizer: %s: want a folder with tokenizer.json or a .gguf file", path)
}

// files is what SavePretrained writes again.
type files struct {
	tokenizerJSON []byte
	config        map[string]json.RawMessage // tokenizer_config.json without a chat template of its own
	specialTokens []byte                     // special_tokens_map.json, nil when there was none
}

// specialTokens are the tokens with a role, "" for none.
type specialTokens struct {
	bos, eos, pad, unk string
	more               map[string]string // the others by the name of their field, such as sep_token
	eosIDs             []int
}

// settings are the fields of tokenizer_config.json that calls read.
type settings struct {
	modelMaxLength int // 0: none
	padTypeID      int
	paddingSide    Direction
	truncationSide Direction
	cleanUp        bool // Decode takes out the blanks that English spelling has not
}

func fromFolder(dir string) (*Tokenizer, error) {
	file := filepath.Join(dir, "tokenizer.json")
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w; the folder must hold the tokenizer.json of the model", err)
	}
	p, err := newPipeline(file, data)
	if err != nil {
		return nil, err
	}
	t := &Tokenizer{pipeline: p, files: files{tokenizerJSON: data}}
	config, err := readJSON(dir, "tokenizer_config.json")
	if err != nil {
		return nil, err
	}
	if err := t.readSpecialTokens(dir, config); err != nil {
		return nil, err
	}
	if err := t.readEOSIDs(dir); err != nil {
		return nil, err
	}
	return t, t.readTemplates(dir, config)
}

// readJSON reads a file that may be absent: the node is then absent too.
func readJSON(dir, name string) (node, error) {
	file := filepath.Join(dir, name)
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return node{file: file}, nil
	}
	if err != nil {
		return node{}, fmt.Errorf("tokenizer: %w", err)
	}
	return node{file: file, raw: data}, nil
}

// fields decodes an object; an absent file has no fields.
func (n node) fields() (map[string]json.RawMessage, error) {
	m := map[string]json.RawMessage{}
	if len(n.raw) == 0 {
		return m, nil
	}
	return m, n.decode(&m)
}

// readSpecialTokens takes the tokens from tokenizer_config.json, and from special_tokens_map.json what is not there.
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
	more, err := legacy.fields()
	if err != nil {
		return err
	}
	for key, to := range t.special.named() {
		n := config.child(key, fields[key])
		if len(n.raw) == 0 {
			n = legacy.child(key, more[key])
		}
		if *to, err = n.tokenText(); err != nil {
			return err
		}
	}
	return nil
}

func (s *specialTokens) named() map[string]*string {
	return map[string]*string{"bos_token": &s.bos, "eos_token": &s.eos, "pad_token": &s.pad, "unk_token": &s.unk}
}

// tokenText reads a token written as "text" or {"content": "text", ...}; "" when absent.
func (n node) tokenText() (string, error) {
	if n.absent() {
		return "", nil
	}
	var s string
	if json.Unmarshal(n.raw, &s) == nil {
		return s, nil
	}
	var c struct {
		Content *string `json:"content"`
	}
	if err := n.decode(&c); err != nil || c.Content == nil {
		return "", n.errorf(`want a token as text or {"content": text}, got %.80s`, n.raw)
	}
	return *c.Content, nil
}

// readEOSIDs takes the ids that end a generation from generation_config.json.
func (t *Tokenizer) readEOSIDs(dir string) error {
	n, err := readJSON(dir, "generation_config.json")
	if err != nil || n.absent() {
		return err
	}
	fields, err := n.fields()
	if err != nil {
		return err
	}
	eos := n.child("eos_token_id", fields["eos_token_id"])
	if eos.absent() {
		return nil
	}
	var id int
	if json.Unmarshal(eos.raw, &id) == nil {
		t.special.eosIDs = []int{id}
		return nil
	}
	return eos.decode(&t.special.eosIDs)
}

// BOSToken returns the beginning-of-sequence token, "" when the model has none.
func (t *Tokenizer) BOSToken() string { return t.special.bos }

// EOSToken returns the end-of-sequence token, "" when the model has none.
func (t *Tokenizer) EOSToken() string { return t.special.eos }

// PadToken returns the padding token, "" when the model has none.
func (t *Tokenizer) PadToken() string { return t.special.pad }

// UnkToken returns the token for unknown text, "" when the model has none.
func (t *Tokenizer) UnkToken() string { return t.special.unk }

// BOSID returns the id of [Tokenizer.BOSToken]; -1 when there is none or the vocabulary lacks it.
func (t *Tokenizer) BOSID() int { return t.idOrNone(t.special.bos) }

// EOSID returns the id of [Tokenizer.EOSToken]; -1 when there is none or the vocabulary lacks it.
func (t *Tokenizer) EOSID() int { return t.idOrNone(t.special.eos) }

// PadID returns the id of [Tokenizer.PadToken]; -1 when there is none or the vocabulary lacks it.
func (t *Tokenizer) PadID() int { return t.idOrNone(t.special.pad) }

// EOSIDs returns the ids that end a generation: those of generation_config.json, or [Tokenizer.EOSID] alone.
func (t *Tokenizer) EOSIDs() []int {
	if len(t.special.eosIDs) > 0 {
		return append([]int(nil), t.special.eosIDs...)
	}
	if id := t.EOSID(); id >= 0 {
		return []int{id}
	}
	return nil
}

func (t *Tokenizer) idOrNone(token string) int {
	if id, ok := t.TokenToID(token); ok && token != "" {
		return id
	}
	return -1
}

// ModelMaxLength returns model_max_length of tokenizer_config.json, the most tokens that the model takes; 0: not known.
func (t *Tokenizer) ModelMaxLength() int { return t.settings.modelMaxLength }
