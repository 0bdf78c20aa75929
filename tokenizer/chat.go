package tokenizer

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
	"unicode"

	"github.com/loris-ml/loris/internal/jinja"
)

// Message is one turn of a conversation: role and content, and what else the chat template reads.
//
// A map has no order. Where a template shows one, as in JSON of tools and calls, the keys role, content, id, type and name
// come first, as they are usually written, then the others sorted, at every level. A json.RawMessage as value keeps the order
// of its keys, and 1 apart from 1.0: a float64 without a fraction counts as an int, because encoding/json makes a float64 of
// every number. A key with the value nil is None in the template; leave the key out where the template should find none.
type Message = map[string]any

// ChatOptions says how a conversation is rendered.
type ChatOptions struct {
	AddGenerationPrompt  bool             // end with the header of an assistant turn
	ContinueFinalMessage bool             // end with the content of the last message, its turn left open
	Tools                any              // a list of JSON schemas; nil for none
	Documents            any              // a list of objects with title and text; nil for none
	Template             string           // the name of one of the tokenizer's templates, or the text of another; "" is its own choice
	Kwargs               map[string]any   // further variables of the template, such as enable_thinking
	Now                  func() time.Time // what strftime_now formats in the template; nil is time.Now
}

// ApplyChatTemplate renders a conversation as the model was trained to read it; encode the result without special tokens.
// It is transformers' apply_chat_template: the model's Jinja template runs with messages, tools, documents,
// add_generation_prompt, the special tokens by name, and Kwargs. An error of the template is a [*ChatTemplateError].
func (t *Tokenizer) ApplyChatTemplate(messages []Message, o ChatOptions) (string, error) {
	c, err := t.newConversation(messages, o)
	if err != nil {
		return "", err
	}
	r, err := c.render()
	return r.Text, err
}

// ApplyChatTemplateSpans renders a conversation and returns the byte ranges [start, end) of text that an assistant-only
// loss trains, in order.
//
// A template with {% generation %} marks them itself. For another one they are what each assistant turn adds after the
// generation prompt, with its end-of-turn token and without the space after that; they are found by rendering the
// conversation up to each turn. That needs a template whose text of the first turns does not change when more follow
// (templates that drop earlier thinking do change it); the error says where it does.
func (t *Tokenizer) ApplyChatTemplateSpans(messages []Message, o ChatOptions) (text string, assistant [][2]int, err error) {
	c, err := t.newConversation(messages, o)
	if err != nil {
		return "", nil, err
	}
	r, err := c.render()
	if err != nil {
		return "", nil, err
	}
	if !c.template.HasGenerations() {
		r.Generation, err = c.spans(r.Text)
	} else if r.Unplaced > 0 {
		err = &ChatTemplateError{Message: -1, Kind: kindSpans, Reason: "{% generation %} stands inside a macro or captured text, so its place in the text is not known; put it around the output"}
	}
	if err != nil {
		return "", nil, err
	}
	return r.Text, r.Generation, nil
}

// conversation is what one call renders.
type conversation struct {
	template *jinja.Template
	messages []any          // *jinja.Dict
	vars     map[string]any // but messages and add_generation_prompt
	prompt   bool
	final    *openTurn // not nil: the last message is to be continued
	now      func() time.Time
}

func (t *Tokenizer) newConversation(messages []Message, o ChatOptions) (*conversation, error) {
	if o.AddGenerationPrompt && o.ContinueFinalMessage {
		return nil, errors.New("tokenizer: ChatOptions: AddGenerationPrompt and ContinueFinalMessage exclude each other; set one")
	}
	source, err := t.templates.choose(o.Template, o.Tools != nil)
	if err != nil {
		return nil, err
	}
	c := &conversation{prompt: o.AddGenerationPrompt, now: o.Now}
	if c.template, err = t.parsed.parse(source); err != nil {
		return nil, err
	}
	if c.vars, err = t.chatVariables(o); err != nil {
		return nil, err
	}
	for i, m := range messages {
		d, err := jinja.FromGo(m)
		if err != nil {
			return nil, fmt.Errorf("tokenizer: messages[%d]: %w", i, err)
		}
		c.messages = append(c.messages, d)
	}
	if o.ContinueFinalMessage {
		c.final, err = c.openFinalTurn(source)
	}
	return c, err
}

// chatVariables are the variables of the template: special tokens that the model has, then Kwargs, which may replace them.
func (t *Tokenizer) chatVariables(o ChatOptions) (map[string]any, error) {
	vars := map[string]any{}
	for name, token := range t.special.all() {
		vars[name] = token
	}
	for name, v := range o.Kwargs {
		switch name {
		case "messages", "tools", "documents", "add_generation_prompt", "continue_final_message":
			return nil, fmt.Errorf("tokenizer: ChatOptions.Kwargs has %q, which is not a further variable; use the argument or field for it", name)
		}
		value, err := jinja.FromGo(v)
		if err != nil {
			return nil, fmt.Errorf("tokenizer: ChatOptions.Kwargs: %s: %w", name, err)
		}
		vars[name] = value
	}
	for name, v := range map[string]any{"tools": o.Tools, "documents": o.Documents} {
		value, err := jinja.FromGo(v)
		if err != nil {
			return nil, fmt.Errorf("tokenizer: ChatOptions: %s: %w", name, err)
		}
		if _, ok := jinja.Elements(value); !ok && value != nil {
			return nil, fmt.Errorf("tokenizer: ChatOptions: %s: want a list of objects, got %T", name, v)
		}
		vars[name] = value
	}
	return vars, nil
}

// render renders the whole conversation.
func (c *conversation) render() (jinja.Result, error) {
	r, err := c.renderFirst(len(c.messages), c.prompt)
	if err != nil {
		return r, c.explain(err)
	}
	if c.final != nil {
		return c.final.cut(r)
	}
	return r, nil
}

// renderFirst renders the first n messages.
func (c *conversation) renderFirst(n int, prompt bool) (jinja.Result, error) {
	return c.renderMessages(c.messages[:n], prompt)
}

func (c *conversation) renderMessages(messages []any, prompt bool) (jinja.Result, error) {
	vars := maps.Clone(c.vars)
	vars["messages"], vars["add_generation_prompt"] = messages, prompt
	return c.template.Render(vars, jinja.Options{Clock: c.now})
}

// openTurn is a last message that is to be continued: its content was rendered with a mark at its end, where the text is
// then cut.
type openTurn struct {
	content string
	index   int // of the message
}

const openMark = "CONTINUE_FINAL_MESSAGE_TAG " // transformers' own: templates see the same text

// openFinalTurn marks the end of the last message's content: of its last text part if it has parts.
func (c *conversation) openFinalTurn(source string) (*openTurn, error) {
	fail := func(format string, args ...any) (*openTurn, error) {
		return nil, fmt.Errorf("tokenizer: ChatOptions.ContinueFinalMessage: "+format, args...)
	}
	if len(c.messages) == 0 {
		return fail("the conversation is empty; give the message to continue")
	}
	i := len(c.messages) - 1
	message := c.messages[i].(*jinja.Dict).Clone()
	content, _ := message.Get("content")
	if content == nil {
		return fail("messages[%d] has no content to continue", i)
	}
	if !strings.Contains(source, "content") {
		return fail("the chat template does not read content")
	}
	open := &openTurn{index: i}
	marked, ok := open.mark(content)
	if !ok {
		return fail("messages[%d].content has no text to continue", i)
	}
	if err := message.Set("content", marked); err != nil {
		return fail("messages[%d]: %w", i, err)
	}
	c.messages[i] = message
	return open, nil
}

// mark returns the content with the mark, and remembers the text that it follows.
func (o *openTurn) mark(content any) (marked any, ok bool) {
	if o.content, ok = content.(string); ok {
		return o.content + openMark, true
	}
	parts, ok := jinja.Elements(content)
	if !ok {
		return nil, false
	}
	for k := len(parts) - 1; k >= 0; k-- {
		part, ok := parts[k].(*jinja.Dict)
		if !ok {
			continue
		}
		text, _ := part.Get("text")
		if o.content, ok = text.(string); ok {
			part = part.Clone()
			if part.Set("text", o.content+openMark) != nil {
				return nil, false
			}
			parts[k] = part
			return parts, true
		}
	}
	return nil, false
}

// cut ends the text at the mark. Where the template trimmed the content, the space before the mark goes too.
func (o *openTurn) cut(r jinja.Result) (jinja.Result, error) {
	at := strings.LastIndex(r.Text, strings.TrimSpace(openMark))
	if at < 0 || !strings.Contains(r.Text, trimSpace(o.content)) {
		return jinja.Result{}, fmt.Errorf("tokenizer: ChatOptions.ContinueFinalMessage: messages[%d].content does not appear in the text: the chat template deletes parts of it, so it cannot be continued", o.index)
	}
	trimmed := !strings.HasPrefix(r.Text[at:], openMark)
	r.Text = r.Text[:at]
	if trimmed {
		r.Text = strings.TrimRightFunc(r.Text, isTemplateSpace)
	}
	spans := r.Generation
	r.Generation = nil
	for _, s := range spans {
		if s[0] < len(r.Text) {
			r.Generation = append(r.Generation, [2]int{s[0], min(s[1], len(r.Text))})
		}
	}
	return r, nil
}

// isTemplateSpace is Python's str.isspace of a character.
func isTemplateSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

func trimSpace(s string) string { return strings.TrimFunc(s, isTemplateSpace) }
