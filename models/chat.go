package models

import (
	"context"
	"iter"

	"github.com/loris-ml/loris/tokenizer"
)

// ChatTokenizer is a Tokenizer that renders conversations; *tokenizer.Tokenizer is one.
type ChatTokenizer interface {
	Tokenizer
	ApplyChatTemplate(messages []tokenizer.Message, o tokenizer.ChatOptions) (string, error)
}

// Chat answers a conversation: it renders the messages by the model's chat template, with the header of an assistant's turn
// behind them unless o continues the last message, and returns what the model says. The template writes the special tokens,
// so none are added, whatever c.SkipSpecialTokens.
func Chat(ctx context.Context, g Generator, tok ChatTokenizer, messages []tokenizer.Message, o tokenizer.ChatOptions, c GenerationConfig) (string, error) {
	prompt, err := renderChat(tok, messages, o)
	if err != nil {
		return "", err
	}
	c.SkipSpecialTokens = true
	return g.Generate(ctx, tok, prompt, c)
}

// StreamChat is Chat that hands out the answer piece by piece, as [CausalLM.Stream] does.
func StreamChat(ctx context.Context, g Generator, tok ChatTokenizer, messages []tokenizer.Message, o tokenizer.ChatOptions, c GenerationConfig) iter.Seq2[string, error] {
	prompt, err := renderChat(tok, messages, o)
	if err != nil {
		return func(yield func(string, error) bool) { yield("", err) }
	}
	c.SkipSpecialTokens = true
	return g.Stream(ctx, tok, prompt, c)
}

func renderChat(tok ChatTokenizer, messages []tokenizer.Message, o tokenizer.ChatOptions) (string, error) {
	o.AddGenerationPrompt = !o.ContinueFinalMessage
	return tok.ApplyChatTemplate(messages, o)
}
