package tokenizer

import (
	"fmt"
	"strings"

	"github.com/loris-ml/loris/internal/jinja"
)

// spans finds the assistant's turns in the text of a template that does not mark them. Turn i begins where the conversation
// before it, with a generation prompt, ends, and ends where the conversation up to it ends.
func (c *conversation) spans(text string) (spans [][2]int, err error) {
	for i, m := range c.messages {
		if role, _ := m.(*jinja.Dict).Get("role"); role != "assistant" {
			continue
		}
		s, err := c.turn(text, i)
		if err != nil {
			return nil, err
		}
		if s[0] < s[1] {
			spans = append(spans, s)
		}
	}
	return spans, nil
}

func (c *conversation) turn(text string, i int) (span [2]int, err error) {
	with, err := c.renderFirst(i+1, false)
	if err != nil {
		return span, notAlone(i, "up to and with this turn", err)
	}
	open := c.final != nil && i == len(c.messages)-1
	switch {
	case open:
		with.Text = text
	case !strings.HasPrefix(text, with.Text):
		return span, notPreserved(i, "the text up to and with this turn", with.Text, text)
	}
	alone := c.placeContent(i)
	start, err := c.turnStart(with.Text, i, alone)
	if err != nil {
		return span, err
	}
	end := len(with.Text)
	if !open {
		end -= alone.spaceAfterEnd(with.Text[start:])
	}
	return [2]int{start, max(start, end)}, nil
}

// turnStart returns where the text of turn i begins in the text that ends with it.
func (c *conversation) turnStart(text string, i int, alone turnFrame) (int, error) {
	prompted, err := c.renderFirst(i, true)
	if err == nil {
		var before jinja.Result
		before, err = c.renderFirst(i, false)
		if err == nil && before.Text != prompted.Text && strings.HasPrefix(text, prompted.Text) {
			return len(prompted.Text), nil
		}
		if err == nil && c.final != nil && strings.HasPrefix(prompted.Text, text) {
			return len(text), nil // nothing of the turn is there yet
		}
		// A template without a generation prompt, or whose prompt also begins the turn, such as [/INST].
		if err == nil && before.Text == prompted.Text && strings.HasPrefix(text, before.Text) {
			return len(before.Text) + alone.headerLen(text[len(before.Text):], len(before.Text)), nil
		}
	}
	switch {
	case i == 0: // templates need not know a conversation without messages
		return alone.headerLen(text, 0), nil
	case err != nil:
		return 0, notAlone(i, "before this turn", err)
	}
	return 0, notPreserved(i, "the text before this turn with a generation prompt", prompted.Text, text)
}

// turnFrame is what a template puts around the content of a turn.
type turnFrame struct {
	before, after string // the text of the conversation up to the content, and after it
	known         bool
}

// contentMark stands for the content of a turn: a word that no template looks for.
const contentMark = "x9CONTENT7OF4THE2TURNx"

// placeContent renders the conversation up to turn i with another content, to see what is around it.
func (c *conversation) placeContent(i int) (f turnFrame) {
	message := c.messages[i].(*jinja.Dict).Clone()
	if content, _ := message.Get("content"); content == nil {
		return f
	}
	if message.Set("content", contentMark) != nil {
		return f
	}
	r, err := c.renderMessages(append(c.messages[:i:i], message), false)
	if err != nil {
		return f
	}
	f.before, f.after, f.known = strings.Cut(r.Text, contentMark)
	return f
}

// headerLen returns the length of the header before the content of a turn, which begins at offset in the conversation.
// A header of nothing but space is part of what the assistant says.
func (f turnFrame) headerLen(turn string, offset int) int {
	if !f.known || len(f.before) < offset {
		return 0
	}
	header := f.before[offset:]
	if !strings.HasPrefix(turn, header) || trimSpace(header) == "" {
		return 0
	}
	return len(header)
}

// spaceAfterEnd returns the length of the space after the end-of-turn token of a turn. If space is all that ends a turn, it
// is the end of the turn.
func (f turnFrame) spaceAfterEnd(turn string) int {
	space := len(turn) - len(strings.TrimRightFunc(turn, isTemplateSpace))
	if !f.known || !strings.HasSuffix(turn, f.after) {
		return space
	}
	if trimSpace(f.after) == "" {
		return 0
	}
	return len(f.after) - len(strings.TrimRightFunc(f.after, isTemplateSpace))
}

// notAlone reports a beginning of the conversation that cannot be rendered without the rest.
func notAlone(i int, what string, err error) error {
	return &ChatTemplateError{Message: i, Kind: kindSpans, Reason: fmt.Sprintf("the conversation %s cannot be rendered alone: %v; %s", what, err, markedRemedy)}
}

const markedRemedy = "use a template that marks the assistant's text with {% generation %}"

// notPreserved reports a beginning that the whole text does not begin with.
func notPreserved(i int, what, part, text string) error {
	n := 0
	for n < min(len(part), len(text)) && part[n] == text[n] {
		n++
	}
	return &ChatTemplateError{Message: i, Kind: kindSpans, Reason: fmt.Sprintf(
		"%s is rendered differently when the conversation goes on: alone it continues %.40q, in the whole text %.40q, at byte %d; %s", what, from(part, n), from(text, n), n, markedRemedy)}
}

// from returns the text from the character at byte n on.
func from(s string, n int) string {
	for n > 0 && n < len(s) && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[n:]
}
