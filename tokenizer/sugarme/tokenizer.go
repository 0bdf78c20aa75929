package sugarme

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"unicode/utf8"

	"github.com/loris-ml/loris/tokenizer"
	sugar "github.com/sugarme/tokenizer"
	"github.com/sugarme/tokenizer/pretrained"
)

// Tokenizer is a tokenizer of github.com/sugarme/tokenizer as sft.Tokenizer and models.Tokenizer want it. It is safe for
// concurrent use; the library is not, so calls wait for each other.
type Tokenizer struct {
	mu  sync.Mutex
	lib *sugar.Tokenizer
	o   Options
}

// Options says what the library's instance does not know.
type Options struct {
	// Reference is the tokenizer of the same files in package tokenizer. It has the chat template and the roles of tokens, it is
	// what SavePretrained writes, and the library's instance is compared with it. nil: none at hand.
	Reference *tokenizer.Tokenizer

	BOSToken, EOSToken, PadToken string // without Reference; "" for none

	Probes    []string // texts to compare, besides those that the package has
	Unchecked bool     // take the instance as it is, though Reference is there
}

// New adapts an instance. With o.Reference the two are compared; the error is then a [*MismatchError] where they differ.
func New(lib *sugar.Tokenizer, o Options) (*Tokenizer, error) {
	if lib == nil {
		return nil, errors.New("sugarme: New: the tokenizer is nil; load one first")
	}
	t := &Tokenizer{lib: lib, o: o}
	if o.Reference == nil {
		for role, token := range map[string]string{"BOSToken": o.BOSToken, "EOSToken": o.EOSToken, "PadToken": o.PadToken} {
			if _, ok := t.TokenToID(token); token != "" && !ok {
				return nil, fmt.Errorf("sugarme: Options.%s: %q is not in the vocabulary", role, token)
			}
		}
		return t, nil
	}
	if !o.Unchecked {
		if err := t.check(o.Reference, append(probes(o.Reference), o.Probes...)); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// FromPretrained loads the tokenizer.json of a folder with the library, what is beside it with package tokenizer, and compares
// the two. A panic of the library is an error.
func FromPretrained(dir string) (*Tokenizer, error) { return fromPretrained(dir, Options{}) }

// FromPretrainedUnchecked is FromPretrained without the comparison: for whom the texts on which the two differ do not matter.
func FromPretrainedUnchecked(dir string) (*Tokenizer, error) {
	return fromPretrained(dir, Options{Unchecked: true})
}

func fromPretrained(dir string, o Options) (*Tokenizer, error) {
	var err error
	if o.Reference, err = tokenizer.FromPretrained(dir); err != nil {
		return nil, fmt.Errorf("sugarme: %w", err)
	}
	file := filepath.Join(dir, "tokenizer.json")
	if _, err := os.Stat(file); err != nil {
		return nil, fmt.Errorf("sugarme: %w; the library reads tokenizer.json only", err)
	}
	var lib *sugar.Tokenizer
	err = guard("loading "+file, func() (err error) {
		lib, err = pretrained.FromFile(file)
		return err
	})
	if err != nil {
		return nil, err
	}
	t, err := New(lib, o)
	if err != nil {
		return nil, fmt.Errorf("sugarme: %s: %w", file, err)
	}
	return t, nil
}

// guard turns a panic of the library into an error.
func guard(doing string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("sugarme: %s: github.com/sugarme/tokenizer panicked: %v; use package tokenizer instead", doing, p)
		}
	}()
	if err := f(); err != nil {
		return fmt.Errorf("sugarme: %s: %w", doing, err)
	}
	return nil
}

// Encode returns the ids of a text.
func (t *Tokenizer) Encode(text string, addSpecialTokens bool) ([]int, error) {
	e, err := t.EncodeFull(text, addSpecialTokens)
	if err != nil {
		return nil, err
	}
	return e.IDs, nil
}

// EncodeFull also gives the bytes of the text that each token stands for, as the library reports them.
func (t *Tokenizer) EncodeFull(text string, addSpecialTokens bool) (*tokenizer.Encoding, error) {
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("sugarme: the text %.60q is not valid UTF-8; convert it first", text)
	}
	out := &tokenizer.Encoding{IDs: []int{}}
	if text == "" && !addSpecialTokens {
		return out, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	err := guard(fmt.Sprintf("encoding %.60q", text), func() error {
		e, err := t.lib.EncodeSingle(text, addSpecialTokens)
		if err != nil {
			return err
		}
		out.IDs, out.TypeIDs, out.SpecialTokensMask, out.Tokens = e.Ids, e.TypeIds, e.SpecialTokenMask, e.Tokens
		for i, o := range e.Offsets {
			if len(o) != 2 {
				return fmt.Errorf("token %d has the offsets %v; want two numbers", i, o)
			}
			out.Offsets = append(out.Offsets, [2]int{o[0], o[1]})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Decode returns the text of ids.
func (t *Tokenizer) Decode(ids []int, skipSpecialTokens bool) (text string, err error) {
	for i, id := range ids {
		if id < 0 {
			return "", fmt.Errorf("sugarme: ids[%d] is %d; want an id of 0 or more (replace ignored labels first)", i, id)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	err = guard(fmt.Sprintf("decoding %d ids", len(ids)), func() error {
		text = t.lib.Decode(ids, skipSpecialTokens)
		return nil
	})
	return text, err
}

// TokenToID returns the id of a token as spelled in the vocabulary.
func (t *Tokenizer) TokenToID(token string) (id int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := guard("looking a token up", func() error {
		id, ok = t.lib.TokenToId(token)
		return nil
	})
	return id, ok && err == nil
}

// ApplyChatTemplate renders a conversation with the chat template of Options.Reference.
func (t *Tokenizer) ApplyChatTemplate(messages []tokenizer.Message, o tokenizer.ChatOptions) (string, error) {
	if t.o.Reference == nil {
		return "", errNoTemplate
	}
	return t.o.Reference.ApplyChatTemplate(messages, o)
}

// ApplyChatTemplateSpans also gives the byte ranges of the text that an assistant-only loss trains.
func (t *Tokenizer) ApplyChatTemplateSpans(messages []tokenizer.Message, o tokenizer.ChatOptions) (string, [][2]int, error) {
	if t.o.Reference == nil {
		return "", nil, errNoTemplate
	}
	return t.o.Reference.ApplyChatTemplateSpans(messages, o)
}

var errNoTemplate = errors.New("sugarme: github.com/sugarme/tokenizer knows no chat templates: set Options.Reference to the tokenizer of the model's folder")

// BOSID returns the id of the token that begins a sequence; -1 for none.
func (t *Tokenizer) BOSID() int {
	if t.o.Reference != nil {
		return t.o.Reference.BOSID()
	}
	return t.idOrNone(t.o.BOSToken)
}

// EOSToken returns the token that ends a sequence, "" for none.
func (t *Tokenizer) EOSToken() string {
	if t.o.Reference != nil {
		return t.o.Reference.EOSToken()
	}
	return t.o.EOSToken
}

// PadToken returns the padding token, "" for none.
func (t *Tokenizer) PadToken() string {
	if t.o.Reference != nil {
		return t.o.Reference.PadToken()
	}
	return t.o.PadToken
}

// EOSIDs returns the ids that end a generation.
func (t *Tokenizer) EOSIDs() []int {
	if t.o.Reference != nil {
		return t.o.Reference.EOSIDs()
	}
	if id := t.idOrNone(t.o.EOSToken); id >= 0 {
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

// SavePretrained writes the files of Options.Reference: the library cannot write its own.
func (t *Tokenizer) SavePretrained(dir string) error {
	if t.o.Reference == nil {
		return fmt.Errorf("sugarme: saving to %s: github.com/sugarme/tokenizer cannot write a tokenizer.json: set Options.Reference to the tokenizer of the model's folder", dir)
	}
	return t.o.Reference.SavePretrained(dir)
}
