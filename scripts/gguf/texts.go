package main

import (
	"context"
	"encoding/json"
	"os"
	"slices"

	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/tokenizer"
)

// texts are what check_text.py asks llama.cpp and gguf-py for too.
type texts struct {
	Type       string             `json:"type"` // of the file's matrices
	IDs        []int              `json:"ids"`  // of the text whose perplexity is measured
	Perplexity map[string]float64 `json:"perplexity"`
	Greedy     []continuation     `json:"greedy"`
}

// continuation is a greedy text.
type continuation struct {
	Form   string    `json:"form"` // "base" or "tuned"
	Prompt []int     `json:"prompt"`
	IDs    []int     `json:"ids"`
	Text   string    `json:"text"`
	Margin []float64 `json:"margin"` // of each token's logit over the second largest
}

const (
	licenceTokens = 500
	newTokens     = 48
)

var prompts = []string{"The capital of France is", "Once upon a time, there was a little", "def fibonacci(n):\n"}

func writeTexts(ctx context.Context, path, kind string, tok *tokenizer.Tokenizer, m *models.CausalLM, p *peft.PeftModel) error {
	licence, err := os.ReadFile("LICENSE")
	if err != nil {
		return err
	}
	t := texts{Type: kind, Perplexity: map[string]float64{}}
	if t.IDs, err = tok.Encode(string(licence), false); err != nil {
		return err
	}
	t.IDs = t.IDs[:licenceTokens]
	for _, form := range []struct {
		name string
		model
	}{{"base", m}, {"tuned", p}} {
		if t.Perplexity[form.name], err = form.Perplexity(ctx, t.IDs, models.PerplexityConfig{MaxLength: licenceTokens}); err != nil {
			return err
		}
		for _, prompt := range prompts {
			c, err := continued(ctx, form.name, form.model, tok, prompt)
			if err != nil {
				return err
			}
			t.Greedy = append(t.Greedy, c)
		}
	}
	raw, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o644)
}

// model is a CausalLM or a PeftModel.
type model interface {
	models.Generator
	models.Scorer
	Logits(ctx context.Context, ids, mask [][]int) ([][][]float32, error)
}

// idRecorder is the tokenizer of a generation, which it keeps the new tokens of.
type idRecorder struct {
	*tokenizer.Tokenizer
	ids []int
}

func (r *idRecorder) EOSIDs() []int { return []int{} }

func (r *idRecorder) Decode(ids []int, skipSpecialTokens bool) (string, error) {
	r.ids = slices.Clone(ids)
	return r.Tokenizer.Decode(ids, skipSpecialTokens)
}

func continued(ctx context.Context, name string, m model, tok *tokenizer.Tokenizer, prompt string) (c continuation, err error) {
	c.Form = name
	if c.Prompt, err = tok.Encode(prompt, false); err != nil {
		return c, err
	}
	r := &idRecorder{Tokenizer: tok}
	if c.Text, err = m.Generate(ctx, r, prompt, models.GenerationConfig{MaxNewTokens: newTokens, SkipSpecialTokens: true}); err != nil {
		return c, err
	}
	c.IDs = r.ids
	logits, err := m.Logits(ctx, [][]int{slices.Concat(c.Prompt, c.IDs)}, nil)
	if err != nil {
		return c, err
	}
	for i := range c.IDs {
		row := slices.Sorted(slices.Values(logits[0][len(c.Prompt)+i-1]))
		c.Margin = append(c.Margin, float64(row[len(row)-1])-float64(row[len(row)-2]))
	}
	return c, nil
}
