package sft

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/loris-ml/loris/tokenizer"
)

// toyTokenizer has one token per ASCII byte, four special tokens spelled out in the text, and a ChatML template.
type toyTokenizer struct{}

var toySpecials = []string{"<s>", "</s>", "<|im_start|>", "<|im_end|>"}

const toyVocab = 128 + 4

func (toyTokenizer) EncodeFull(text string, addSpecial bool) (*tokenizer.Encoding, error) {
	e := &tokenizer.Encoding{}
	if addSpecial {
		e.IDs, e.Offsets = append(e.IDs, 128), append(e.Offsets, [2]int{})
	}
next:
	for i := 0; i < len(text); {
		for s, special := range toySpecials {
			if strings.HasPrefix(text[i:], special) {
				e.IDs, e.Offsets = append(e.IDs, 128+s), append(e.Offsets, [2]int{i, i + len(special)})
				i += len(special)
				continue next
			}
		}
		if text[i] >= 128 {
			return nil, fmt.Errorf("byte %#x is not ASCII", text[i])
		}
		e.IDs, e.Offsets = append(e.IDs, int(text[i])), append(e.Offsets, [2]int{i, i + 1})
		i++
	}
	return e, nil
}

func (t toyTokenizer) Encode(text string, addSpecial bool) ([]int, error) {
	e, err := t.EncodeFull(text, addSpecial)
	if err != nil {
		return nil, err
	}
	return e.IDs, nil
}

func (toyTokenizer) Decode(ids []int, skip bool) (string, error) {
	var b strings.Builder
	for _, id := range ids {
		switch {
		case id >= 0 && id < 128:
			b.WriteByte(byte(id))
		case id < 0 || id >= toyVocab:
			return "", fmt.Errorf("id %d", id)
		case !skip:
			b.WriteString(toySpecials[id-128])
		}
	}
	return b.String(), nil
}

func (t toyTokenizer) ApplyChatTemplate(messages []Message, o tokenizer.ChatOptions) (string, error) {
	text, _, err := t.ApplyChatTemplateSpans(messages, o)
	return text, err
}

func (toyTokenizer) ApplyChatTemplateSpans(messages []Message, o tokenizer.ChatOptions) (string, [][2]int, error) {
	var b strings.Builder
	var spans [][2]int
	if name, ok := o.Kwargs["greeting"].(string); ok {
		b.WriteString(name)
	}
	if o.Tools != nil {
		fmt.Fprintf(&b, "%v", o.Tools)
	}
	for i, m := range messages {
		if m["role"] == "system" && i > 0 {
			return "", nil, fmt.Errorf("messages[%d]: the template refuses a late system message", i)
		}
		fmt.Fprintf(&b, "<|im_start|>%s\n", m["role"])
		start := b.Len()
		fmt.Fprintf(&b, "%s<|im_end|>", m["content"])
		if m["role"] == "assistant" {
			spans = append(spans, [2]int{start, b.Len()})
		}
		b.WriteString("\n")
	}
	if o.AddGenerationPrompt {
		b.WriteString("<|im_start|>assistant\n")
	}
	return b.String(), spans, nil
}

func (toyTokenizer) TokenToID(token string) (int, bool) {
	for i, s := range toySpecials {
		if s == token {
			return 128 + i, true
		}
	}
	return 0, false
}

func (toyTokenizer) BOSID() int       { return 128 }
func (toyTokenizer) EOSToken() string { return "</s>" }
func (toyTokenizer) PadToken() string { return "" }

func (toyTokenizer) SavePretrained(dir string) error {
	return os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte("{}\n"), 0o666)
}
