package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/loris-ml/loris/hub"
)

// FromPretrained loads a tokenizer from a folder in Hugging Face layout, from a .gguf file, or by the id of a model that is in
// the cache of the hub (see hub.Find).
//
// A folder must hold tokenizer.json. Read beside it, where present: tokenizer_config.json (special tokens, chat
// template, sides of padding and truncation), special_tokens_map.json and added_tokens.json (which count only where
// tokenizer_config.json has no added_tokens_decoder), generation_config.json (end-of-sequence ids), chat_template.jinja and
// additional_chat_templates. As in transformers 5, special tokens that tokenizer.json lacks are added to the vocabulary, and
// the post-processor of tokenizer.json decides which of them Encode adds, whatever add_bos_token says; the truncation and
// padding in a tokenizer.json are applied where a call asks for them, see [Tokenizer.FileOptions].
// Errors name the file and the field; a component that is not known is an [UnsupportedError].
func FromPretrained(path string) (*Tokenizer, error) {
	path, err := hub.Locate(path)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w; want a folder with tokenizer.json, a .gguf file, or the id of a model in the cache", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
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

// settings are the fields of tokenizer_config.json that calls read.
type settings struct {
	modelMaxLength int // 0: none
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
	if err := t.readSettings(config); err != nil {
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

// readSettings takes what calls read from tokenizer_config.json, and from the truncation and padding in tokenizer.json what
// is not there.
func (t *Tokenizer) readSettings(config node) error {
	if t.truncation != nil {
		t.settings.truncationSide = t.truncation.Direction
	}
	if t.padding != nil {
		t.settings.paddingSide = t.padding.Direction
	}
	fields := t.files.config
	for key, to := range map[string]*Direction{"truncation_side": &t.settings.truncationSide, "padding_side": &t.settings.paddingSide} {
		n := config.child(key, fields[key])
		if n.absent() {
			continue
		}
		var side string
		if err := n.decode(&side); err != nil {
			return err
		}
		if side != "left" && side != "right" {
			return n.errorf("want left or right, got %q", side)
		}
		if *to = Right; side == "left" {
			*to = Left
		}
	}
	for key, to := range map[string]*bool{"split_special_tokens": &t.plainSpecial, "clean_up_tokenization_spaces": &t.settings.cleanUp} {
		if n := config.child(key, fields[key]); !n.absent() {
			if err := n.decode(to); err != nil {
				return err
			}
		}
	}
	if _, ok := t.model.(*bpe); ok {
		t.settings.cleanUp = false // transformers refuses it there: it would take out blanks of the text
	}
	n := config.child("model_max_length", fields["model_max_length"])
	if n.absent() {
		return nil
	}
	var length float64 // transformers writes 1e30 for none
	if err := n.decode(&length); err != nil {
		return err
	}
	if length < 1 {
		return n.errorf("want 1 or more, got %v", length)
	}
	if length <= maxModelLength {
		t.settings.modelMaxLength = int(length)
	}
	return nil
}

// maxModelLength is the length from which model_max_length means that there is none.
const maxModelLength = 1 << 40

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
