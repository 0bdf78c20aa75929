package tokenizer

import (
	"errors"
	"fmt"
	"strings"
)

// Message is one turn of a conversation: role and content, and what else the template reads.
type Message = map[string]any

// ChatOptions says how a conversation is rendered.
type ChatOptions struct {
	AddGenerationPrompt  bool // end with the header of an assistant turn
	ContinueFinalMessage bool // end with the content of the last message, its turn left open
	Tools                any
	Documents            any
	Kwargs               map[string]any // further variables of the template
}

// ApplyChatTemplate renders a conversation as the model was trained to read it; encode the result without special tokens.
// The error names a template that is not supported, and the message and key that a template cannot render.
func (t *Tokenizer) ApplyChatTemplate(messages []Message, o ChatOptions) (string, error) {
	text, _, err := t.ApplyChatTemplateSpans(messages, o)
	return text, err
}

// ApplyChatTemplateSpans renders a conversation and returns the byte ranges [start, end) of text that an assistant-only
// loss trains: of every assistant turn its content and its end-of-turn token, not the role header and not the newline
// after it (the place of {% generation %} in TRL's training templates).
func (t *Tokenizer) ApplyChatTemplateSpans(messages []Message, o ChatOptions) (text string, assistant [][2]int, err error) {
	if o.AddGenerationPrompt && o.ContinueFinalMessage {
		return "", nil, errors.New("tokenizer: ChatOptions: AddGenerationPrompt and ContinueFinalMessage exclude each other; set one")
	}
	if o.ContinueFinalMessage && len(messages) == 0 {
		return "", nil, errors.New("tokenizer: ChatOptions.ContinueFinalMessage: the conversation is empty; give the message to continue")
	}
	template, err := t.templates.choose(o.Tools != nil)
	if err != nil {
		return "", nil, err
	}
	r, err := newChatML(template)
	if err != nil {
		return "", nil, err
	}
	return r.render(messages, o)
}

// chatML renders turns of the form <|im_start|>role\ncontent<|im_end|>\n.
type chatML struct {
	defaultSystem string // put before a conversation whose first message is not from the system; "" for none
	prompt        bool   // the template knows add_generation_prompt
}

const (
	turnStart = "<|im_start|>"
	turnEnd   = "<|im_end|>"
)

func (c chatML) render(messages []Message, o ChatOptions) (string, [][2]int, error) {
	var b strings.Builder
	var assistant [][2]int
	for i, m := range messages {
		role, err := messageText(m, i, "role")
		if err != nil {
			return "", nil, err
		}
		content, err := messageText(m, i, "content")
		if err != nil {
			return "", nil, err
		}
		if i == 0 && role != "system" && c.defaultSystem != "" {
			b.WriteString(turnStart + "system\n" + c.defaultSystem + turnEnd + "\n")
		}
		b.WriteString(turnStart + role + "\n")
		start := b.Len()
		b.WriteString(content)
		open := o.ContinueFinalMessage && i == len(messages)-1
		if !open {
			b.WriteString(turnEnd)
		}
		if role == "assistant" {
			assistant = append(assistant, [2]int{start, b.Len()})
		}
		if !open {
			b.WriteString("\n")
		}
	}
	if o.AddGenerationPrompt && c.prompt {
		b.WriteString(turnStart + "assistant\n")
	}
	return b.String(), assistant, nil
}

func messageText(m Message, i int, key string) (string, error) {
	v, ok := m[key]
	if !ok {
		return "", fmt.Errorf("tokenizer: messages[%d] has no %q, which the chat template prints", i, key)
	}
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("tokenizer: messages[%d].%s: the chat template joins it to a text; want a string, got %T", i, key, v)
	}
	return s, nil
}
