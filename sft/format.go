package sft

import (
	"fmt"
)

// format is how the rows of a data set are written. The first row decides for all of them, as in TRL.
type format int

const (
	plainText format = iota
	promptCompletion
	conversation
	conversationCompletion // prompt and completion are lists of messages
	tokenized
)

// columns names what rows of a format must have.
func (f format) columns(c SFTConfig) string {
	switch f {
	case promptCompletion:
		return `"prompt" and "completion" as texts`
	case conversation:
		return `"messages" as a list of messages`
	case conversationCompletion:
		return `"prompt" and "completion" as lists of messages`
	case tokenized:
		return `"input_ids" as a list of token ids`
	}
	return fmt.Sprintf("%q as text", c.DatasetTextField)
}

func (f format) conversational() bool { return f == conversation || f == conversationCompletion }

// completions reports whether prompts can be told from completions.
func (f format) completions(first Row) bool {
	return f == promptCompletion || f == conversationCompletion || f == tokenized && first.Has("completion_mask")
}

// detectFormat looks at the first row.
func detectFormat(first Row, c SFTConfig) (format, error) {
	switch {
	case first.Has("input_ids"):
		return tokenized, nil
	case c.FormattingFunc != nil:
		return plainText, nil
	case first.IsConversation("messages") || first.IsConversation("conversations"):
		return conversation, nil
	case first.Has("prompt") && first.IsConversation("prompt"):
		return conversationCompletion, nil
	case first.Has("prompt"):
		return promptCompletion, nil
	case first.Has(c.DatasetTextField):
		return plainText, nil
	}
	for _, column := range []string{"messages", "conversations"} {
		if first.Has(column) {
			_, err := first.Messages(column)
			return 0, fmt.Errorf("sft: row 1: %w", err)
		}
	}
	return 0, fmt.Errorf(`sft: row 1 has the columns %q; want %q (SFTConfig.DatasetTextField), "prompt" and "completion", "messages" or "conversations"`,
		first.Columns(), c.DatasetTextField)
}

// checkMasks refuses loss masks that the format cannot carry, and settles the default of CompletionOnlyLoss.
func checkMasks(f format, first Row, c SFTConfig) (completionOnly bool, err error) {
	if c.LastTurnOnlyLoss && !f.conversational() {
		return false, fmt.Errorf("sft: SFTConfig.LastTurnOnlyLoss is true, but the rows have %s; want conversations, or unset it", f.columns(c))
	}
	if c.AssistantOnlyLoss && !f.conversational() && !(f == tokenized && first.Has("assistant_masks")) {
		return false, fmt.Errorf("sft: SFTConfig.AssistantOnlyLoss is true, but the rows have %s; want conversations, or unset it", f.columns(c))
	}
	if c.CompletionOnlyLoss == nil {
		return f != plainText && first.Has("prompt") && first.Has("completion"), nil
	}
	if *c.CompletionOnlyLoss && !f.completions(first) && !(f == tokenized && first.Has("labels")) {
		return false, fmt.Errorf(`sft: SFTConfig.CompletionOnlyLoss is true, but the rows have %s; want "prompt" and "completion", or unset it`, f.columns(c))
	}
	return *c.CompletionOnlyLoss, nil
}
