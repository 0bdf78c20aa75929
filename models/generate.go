package models

import (
	"context"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"
)

// Tokenizer is what generation needs of a tokenizer; *tokenizer.Tokenizer is one.
type Tokenizer interface {
	Encode(text string, addSpecialTokens bool) ([]int, error)
	Decode(ids []int, skipSpecialTokens bool) (string, error)
	EOSIDs() []int
}

const defaultNewTokens = 20

// GenerationConfig says how to continue a prompt; names and defaults are those of transformers, but for TopK, which is
// off unless given.
type GenerationConfig struct {
	MaxNewTokens int     // 0: 20
	DoSample     bool    // false: greedy
	Temperature  float64 // 0: 1; with DoSample
	TopK         int     // 0: all tokens; with DoSample
	TopP         float64 // 0: 1; with DoSample
	MinP         float64 // 0: all tokens; with DoSample: least probability, as a share of the likeliest token's
	// RepetitionPenalty above 1 makes tokens of the prompt and of the new text less likely; 0: 1, none. Without DoSample too.
	RepetitionPenalty float64
	Seed              uint64   // of the sampling; every prompt of a batch draws as it would alone
	Seeds             []uint64 // of a batch, one for each prompt; nil: Seed for all
	EOSTokenIDs       []int    // tokens that end the text; nil: the tokenizer's
	// StopStrings end the text where one of them appears in it, and are not part of it. One that is a special token's is
	// taken as that token, which the text does not show.
	StopStrings []string

	// SkipSpecialTokens leaves out what the tokenizer's post-processor would add to the prompt (BOS): for prompts that a
	// chat template has rendered.
	SkipSpecialTokens bool
}

// Validate reports values out of range.
func (c GenerationConfig) Validate() error {
	switch {
	case c.MaxNewTokens < 0:
		return fmt.Errorf("GenerationConfig.MaxNewTokens is %d, want a positive number", c.MaxNewTokens)
	case c.Temperature < 0 || math.IsNaN(c.Temperature):
		return fmt.Errorf("GenerationConfig.Temperature is %v, want a positive number", c.Temperature)
	case c.TopP < 0 || c.TopP > 1 || math.IsNaN(c.TopP):
		return fmt.Errorf("GenerationConfig.TopP is %v, want a number in (0, 1]", c.TopP)
	case c.TopK < 0:
		return fmt.Errorf("GenerationConfig.TopK is %d, want a positive number", c.TopK)
	case c.MinP < 0 || c.MinP > 1 || math.IsNaN(c.MinP):
		return fmt.Errorf("GenerationConfig.MinP is %v, want a number in [0, 1]", c.MinP)
	case c.RepetitionPenalty < 0 || math.IsNaN(c.RepetitionPenalty) || math.IsInf(c.RepetitionPenalty, 0):
		return fmt.Errorf("GenerationConfig.RepetitionPenalty is %v, want a positive number", c.RepetitionPenalty)
	case !c.DoSample && (c.Temperature != 0 || c.TopP != 0 || c.TopK != 0 || c.MinP != 0):
		return errors.New("GenerationConfig has Temperature, TopP, TopK or MinP without DoSample: set DoSample, or leave them out for greedy decoding")
	}
	for i, stop := range c.StopStrings {
		if stop == "" || !utf8.ValidString(stop) {
			return fmt.Errorf("GenerationConfig.StopStrings[%d] is %q, want text in UTF-8 that is not empty", i, stop)
		}
	}
	return nil
}

// GenerateIDs continues ids by at most c.MaxNewTokens tokens and returns the new ones; a token of c.EOSTokenIDs ends
// the text and is the last. adapters may be nil. c.StopStrings are of no effect, for want of a tokenizer.
func (m *CausalLM) GenerateIDs(ctx context.Context, adapters Adapters, ids []int, c GenerationConfig) ([]int, error) {
	out, err := m.GenerateBatchIDs(ctx, adapters, [][]int{ids}, c)
	if out == nil {
		return nil, err
	}
	return out[0], err
}

// GenerateBatchIDs is GenerateIDs of several prompts at once, of any lengths; each row's tokens are those that it gets
// alone. After an error, rows have what was generated so far.
func (m *CausalLM) GenerateBatchIDs(ctx context.Context, adapters Adapters, ids [][]int, c GenerationConfig) ([][]int, error) {
	return m.generate(ctx, adapters, ids, c, nil)
}
