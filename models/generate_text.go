package models

import (
	"context"
	"fmt"
	"iter"
	"slices"
)

// Generator continues texts: a [CausalLM], or a PeftModel of package peft.
type Generator interface {
	Generate(ctx context.Context, tok Tokenizer, prompt string, c GenerationConfig) (string, error)
	GenerateBatch(ctx context.Context, tok Tokenizer, prompts []string, c GenerationConfig) ([]string, error)
	Stream(ctx context.Context, tok Tokenizer, prompt string, c GenerationConfig) iter.Seq2[string, error]
}

// Generate continues the prompt and returns the new text, without special tokens.
func (m *CausalLM) Generate(ctx context.Context, tok Tokenizer, prompt string, c GenerationConfig) (string, error) {
	return m.GenerateWith(ctx, nil, tok, prompt, c)
}

// GenerateWith is Generate with adapters; package peft calls it.
func (m *CausalLM) GenerateWith(ctx context.Context, adapters Adapters, tok Tokenizer, prompt string, c GenerationConfig) (string, error) {
	out, err := m.GenerateBatchWith(ctx, adapters, tok, []string{prompt}, c)
	if err != nil {
		return "", err
	}
	return out[0], nil
}

// GenerateBatch continues several prompts at once; each gets the text that it gets alone. With sampling, equal prompts
// get equal texts unless c.Seeds gives each its own.
func (m *CausalLM) GenerateBatch(ctx context.Context, tok Tokenizer, prompts []string, c GenerationConfig) ([]string, error) {
	return m.GenerateBatchWith(ctx, nil, tok, prompts, c)
}

// GenerateBatchWith is GenerateBatch with adapters; package peft calls it.
func (m *CausalLM) GenerateBatchWith(ctx context.Context, adapters Adapters, tok Tokenizer, prompts []string, c GenerationConfig) ([]string, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.forTokenizer(tok)
	ids, writers := make([][]int, len(prompts)), make([]*textWriter, len(prompts))
	for i, p := range prompts {
		var err error
		if ids[i], err = tok.Encode(p, !c.SkipSpecialTokens); err != nil {
			return nil, fmt.Errorf("prompt %d: %w", i, err)
		}
		writers[i] = newTextWriter(tok, c.StopStrings)
	}
	var each func(row, id int) (bool, error)
	if len(c.StopStrings) > 0 {
		each = func(row, id int) (bool, error) {
			_, err := writers[row].add(id)
			return writers[row].stopped, err
		}
	}
	out, err := m.generate(ctx, adapters, ids, c, each)
	if err != nil {
		return nil, err
	}
	texts := make([]string, len(prompts))
	for i, w := range writers {
		if texts[i], err = w.whole(out[i]); err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// Stream is Generate that hands out the text piece by piece, as soon as it is certain. Pieces are whole characters; none
// is part of a stop string. An error, ctx's among them, comes last, with an empty piece. Leaving the loop ends the
// generation.
func (m *CausalLM) Stream(ctx context.Context, tok Tokenizer, prompt string, c GenerationConfig) iter.Seq2[string, error] {
	return m.StreamWith(ctx, nil, tok, prompt, c)
}

// StreamWith is Stream with adapters; package peft calls it.
func (m *CausalLM) StreamWith(ctx context.Context, adapters Adapters, tok Tokenizer, prompt string, c GenerationConfig) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		open := true
		hand := func(piece string) bool {
			open = open && (piece == "" || yield(piece, nil))
			return open
		}
		err := m.stream(ctx, adapters, tok, prompt, c, hand)
		if err != nil && open {
			yield("", err)
		}
	}
}

// stream calls hand with each piece until it returns false.
func (m *CausalLM) stream(ctx context.Context, adapters Adapters, tok Tokenizer, prompt string, c GenerationConfig, hand func(piece string) bool) error {
	if err := c.Validate(); err != nil {
		return err
	}
	c = c.forTokenizer(tok)
	ids, err := tok.Encode(prompt, !c.SkipSpecialTokens)
	if err != nil {
		return err
	}
	w := newTextWriter(tok, c.StopStrings)
	_, err = m.generate(ctx, adapters, [][]int{ids}, c, func(_, id int) (bool, error) {
		piece, err := w.add(id)
		return !hand(piece) || w.stopped, err
	})
	if err != nil {
		return err
	}
	piece, err := w.finish()
	hand(piece)
	return err
}

// forTokenizer fills in the tokens that end the text: the tokenizer's, and special ones among the stop strings.
func (c GenerationConfig) forTokenizer(tok Tokenizer) GenerationConfig {
	if c.EOSTokenIDs == nil {
		c.EOSTokenIDs = tok.EOSIDs()
	}
	t, ok := tok.(interface {
		TokenToID(token string) (int, bool)
		IsSpecial(id int) bool
	})
	if !ok {
		return c
	}
	var stops []string
	c.EOSTokenIDs = slices.Clone(c.EOSTokenIDs)
	for _, stop := range c.StopStrings {
		if id, known := t.TokenToID(stop); known && t.IsSpecial(id) {
			c.EOSTokenIDs = append(c.EOSTokenIDs, id)
		} else {
			stops = append(stops, stop)
		}
	}
	c.StopStrings = stops
	return c
}
