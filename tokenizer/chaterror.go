package tokenizer

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/loris-ml/loris/internal/jinja"
)

// ChatTemplateError says why a chat template cannot render a conversation, or cannot be used at all.
type ChatTemplateError struct {
	Message int    // index of the message that the template fails on; -1 if it is not one message's fault
	Line    int    // of the template; 0 if none is at fault
	Kind    string // class of the exception that Python raises, such as TypeError; see Refused
	Reason  string // of the exception; the template's own words if it refuses the conversation
}

// kindSpans is the Kind of a conversation that is rendered, but whose assistant turns cannot be told.
const kindSpans = "SpansError"

// Refused reports whether the template itself refuses the conversation, as many do if roles do not alternate: the data is
// at fault, not the template.
func (e *ChatTemplateError) Refused() bool { return e.Kind == jinja.KindRaised }

func (e *ChatTemplateError) Error() string {
	var b strings.Builder
	b.WriteString("tokenizer: ")
	if e.Message >= 0 {
		fmt.Fprintf(&b, "messages[%d]: ", e.Message)
	}
	switch {
	case e.Refused():
		b.WriteString("the chat template refuses the conversation: ")
	case e.Kind == kindSpans:
		b.WriteString("the chat template does not tell which text is the assistant's: ")
	case e.Line > 0:
		fmt.Fprintf(&b, "chat template, line %d: %s: ", e.Line, e.Kind)
	default:
		fmt.Fprintf(&b, "chat template: %s: ", e.Kind)
	}
	b.WriteString(e.Reason)
	return b.String()
}

func chatError(err error, message int) error {
	var e *jinja.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("tokenizer: %w", err)
	}
	return &ChatTemplateError{Message: message, Line: e.Line, Kind: e.Kind, Reason: e.Message}
}

// explain finds the message that a template fails on: the last one of the shortest beginning of the conversation that fails
// in the same way.
func (c *conversation) explain(err error) error {
	fails := func(n int) bool {
		_, e := c.renderFirst(n, false)
		var a, b *jinja.Error
		return errors.As(e, &a) && errors.As(err, &b) && a.Kind == b.Kind && a.Message == b.Message
	}
	if !fails(0) {
		for i := range c.messages {
			if fails(i + 1) {
				return chatError(err, i)
			}
		}
	}
	return chatError(err, -1)
}

// parsedTemplates keeps the templates that were used, since parsing takes longer than rendering.
type parsedTemplates struct{ bySource sync.Map }

func (p *parsedTemplates) parse(source string) (*jinja.Template, error) {
	if t, ok := p.bySource.Load(source); ok {
		return t.(*jinja.Template), nil
	}
	t, err := jinja.Parse("", source)
	if err != nil {
		return nil, chatError(err, -1)
	}
	p.bySource.Store(source, t)
	return t, nil
}
