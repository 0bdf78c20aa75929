package sft

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/loris-ml/loris/tokenizer"
)

// setChatTemplate gives the tokenizer the chat template of SFTConfig.ChatTemplatePath.
func setChatTemplate(tok Tokenizer, c SFTConfig) error {
	path := c.ChatTemplatePath
	if path == "" {
		return nil
	}
	settable, ok := tok.(changeable)
	if !ok {
		return fmt.Errorf("sft: SFTConfig.ChatTemplatePath is %q, but a %T has no methods SetChatTemplate(string) error and SetSpecialToken(name, token string) error; unset it", path, tok)
	}
	change := cloneChatTemplate
	if ext := filepath.Ext(path); ext == ".jinja" || ext == ".j2" {
		change = readChatTemplate
	}
	if err := change(settable, path); err != nil {
		return fmt.Errorf("sft: SFTConfig.ChatTemplatePath: %w", err)
	}
	return nil
}

// changeable is a tokenizer whose chat template and special tokens can be replaced.
type changeable interface {
	Tokenizer
	SetChatTemplate(text string) error
	SetSpecialToken(name, token string) error
}

func readChatTemplate(tok changeable, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := tok.SetChatTemplate(string(text)); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// cloneChatTemplate takes chat template and end of sequence from another tokenizer, as trl.clone_chat_template. That adds the
// other's tokens to the vocabulary, and rows for them to the model; here they must be there.
func cloneChatTemplate(tok changeable, path string) error {
	source, err := tokenizer.FromPretrained(path)
	if err != nil {
		return fmt.Errorf("%q is no .jinja or .j2 file, and no tokenizer: %w", path, err)
	}
	if source.ChatTemplate() == "" {
		return fmt.Errorf("the tokenizer %s has no chat template", path)
	}
	var missing []string
	added := source.AddedTokens()
	for _, id := range slices.Sorted(maps.Keys(added)) {
		if _, ok := tok.TokenToID(added[id].Content); !ok {
			missing = append(missing, added[id].Content)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the tokenizer %s has %d tokens that the model's vocabulary lacks, such as %q; train with a .jinja file that does without them", path, len(missing), missing[0])
	}
	if err := tok.SetChatTemplate(source.ChatTemplate()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if source.EOSToken() == "" {
		return nil
	}
	return tok.SetSpecialToken("eos_token", source.EOSToken())
}
