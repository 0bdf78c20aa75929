package models

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/loris-ml/loris/internal/layerwise"
)

// generatedRow is a prompt on the way.
type generatedRow struct {
	ids    []int // the prompt, then the new tokens
	prompt int   // tokens of the prompt
	random *rand.Rand
	done   bool
}

// generate continues prompts and returns the new tokens of each. It calls each, which may be nil, with every new token;
// each returns whether the row ends there, whatever the token.
func (m *CausalLM) generate(ctx context.Context, adapters Adapters, prompts [][]int, c GenerationConfig,
	each func(row, id int) (end bool, err error)) (out [][]int, err error) {
	rows, next, err := c.start(prompts)
	if err != nil {
		return nil, err
	}
	limit := cmp.Or(c.MaxNewTokens, defaultNewTokens)
	dec, err := m.run.NewDecoder(adapters, next, limit-1) // after the last token nothing is computed
	if err != nil {
		return nil, fmt.Errorf("generate: %w", err)
	}
	defer func() { err = errors.Join(err, dec.Close()) }()
	defer func() {
		for _, r := range rows {
			out = append(out, r.ids[r.prompt:])
		}
	}()
	err = dec.Prefill(ctx)
	for n := 1; ; n++ {
		if err != nil {
			return nil, err
		}
		var next []int32
		if next, err = c.chooseEach(rows, dec); err != nil {
			return nil, err
		}
		if open, err := c.extend(rows, next, each); err != nil || open == 0 || n == limit {
			return nil, err
		}
		err = dec.Next(ctx, next) // rows that have ended go on unseen
	}
}

// start checks c and the prompts.
func (c GenerationConfig) start(prompts [][]int) (rows []*generatedRow, ids [][]int32, err error) {
	if err := c.Validate(); err != nil {
		return nil, nil, err
	}
	if c.Seeds != nil && len(c.Seeds) != len(prompts) {
		return nil, nil, fmt.Errorf("GenerationConfig.Seeds has %d values for %d prompts, want one for each", len(c.Seeds), len(prompts))
	}
	if len(prompts) == 0 {
		return nil, nil, errors.New("generate: there are no prompts")
	}
	for i, p := range prompts {
		if len(p) == 0 {
			return nil, nil, fmt.Errorf("generate: prompt %d has no tokens", i)
		}
		seed := c.Seed
		if c.Seeds != nil {
			seed = c.Seeds[i]
		}
		rows = append(rows, &generatedRow{ids: slices.Clone(p), prompt: len(p), random: rand.New(rand.NewPCG(seed, 0))})
		var narrow []int32
		for _, id := range p {
			narrow = append(narrow, int32(id))
		}
		ids = append(ids, narrow)
	}
	return rows, ids, nil
}

// chooseEach returns the token that follows each row. Greedy ones are chosen on the device.
func (c GenerationConfig) chooseEach(rows []*generatedRow, dec *layerwise.Decoder) ([]int32, error) {
	if c.plain() {
		if ids, ok, err := dec.Likeliest(); ok || err != nil {
			return ids, err
		}
	}
	logits, err := dec.Logits()
	if err != nil {
		return nil, err
	}
	ids := make([]int32, len(rows))
	for i, r := range rows {
		if r.done {
			continue
		}
		if err := checkLogits(logits[i]); err != nil {
			return nil, fmt.Errorf("generate: prompt %d, after %d new tokens: %w", i, len(r.ids)-r.prompt, err)
		}
		ids[i] = int32(c.choose(logits[i], r.ids, r.random))
	}
	return ids, nil
}

// extend gives each open row its token of next and returns how many rows are open then.
func (c GenerationConfig) extend(rows []*generatedRow, next []int32, each func(row, id int) (bool, error)) (open int, err error) {
	for i, r := range rows {
		if r.done {
			continue
		}
		id := int(next[i])
		r.ids = append(r.ids, id)
		r.done = slices.Contains(c.EOSTokenIDs, id)
		if each != nil {
			end, err := each(i, id)
			if err != nil {
				return 0, err
			}
			r.done = r.done || end
		}
		if !r.done {
			open++
		}
	}
	return open, nil
}

// checkLogits refuses what no token can be chosen from.
func checkLogits(logits []float32) error {
	for id, v := range logits {
		if v != v || v > math.MaxFloat32 {
			return fmt.Errorf("the model's logit of token %d is %v; its weights or adapters are damaged, or too large for the dtype that it computes in", id, v)
		}
	}
	return nil
}
