package models

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
)

// batches are the prompts of different length that transformers continued, by fixture.
func batches(t *testing.T) (all map[string]batchOfPrompts, depends []string) {
	t.Helper()
	var file struct {
		Cases   map[string]batchOfPrompts
		Depends []string
	}
	data, err := os.ReadFile("testdata/families/batch.json")
	if err == nil {
		err = json.Unmarshal(data, &file)
	}
	if err != nil || len(file.Cases) == 0 {
		t.Fatalf("%d batches (%v)", len(file.Cases), err)
	}
	return file.Cases, file.Depends
}

type batchOfPrompts struct{ Prompts, Alone, Batched [][]int }

func equalRows(a, b [][]int) bool { return slices.EqualFunc(a, b, slices.Equal) }

// A row's RoPE is that of its own length, so that it never depends on the batch; transformers' dynamic and longrope do.
func TestBatchesOfPromptsContinueAsTransformers(t *testing.T) {
	all, depends := batches(t)
	reference.OnBackends(t, func(t *testing.T, backend string) {
		eachFamily(t, backend, oneOfEach, func(t *testing.T, f *family) {
			b, ok := all[f.name]
			if !ok {
				t.Skip("has no batch")
			}
			want := b.Batched
			if slices.Contains(depends, f.name) {
				want = b.Alone
			}
			ctx, m := context.Background(), mustLoad(t, f.dir, Options{Backend: backend, DType: Float32})
			c := GenerationConfig{MaxNewTokens: len(want[0])}
			got, err := m.GenerateBatchIDs(ctx, nil, b.Prompts, c)
			if err != nil || !equalRows(got, want) {
				t.Errorf("generated %v (%v), want %v", got, err, want)
			}
		})
	})
}

func TestRowsOfABatchAreWhatTheyAreAlone(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		eachFamily(t, backend, farApart, func(t *testing.T, f *family) {
			if !slices.Contains(farApart, f.name) {
				t.Skip("one of each kind will do")
			}
			ctx := context.Background()
			m, a := f.load(t, Options{Backend: backend, DType: Float32})
			prompts := [][]int{f.Prompt[:7], f.Prompt[:1], f.Prompt[3:], f.Prompt[:7], f.Prompt[5:9]}
			for name, c := range map[string]GenerationConfig{
				"greedy":     {},
				"sampled":    {DoSample: true, Temperature: 1.3, TopK: 20, Seed: 5},
				"own seeds":  {DoSample: true, TopP: 0.95, RepetitionPenalty: 1.1, Seeds: []uint64{4, 3, 2, 1, 0}},
				"with stops": {EOSTokenIDs: []int{5, 6, 7, 8, 9, 10, 11, 12}},
			} {
				c.MaxNewTokens = 12
				got, err := m.GenerateBatchIDs(ctx, a, prompts, c)
				if err != nil {
					t.Fatal(err)
				}
				for i, p := range prompts {
					alone := c
					if c.Seeds != nil {
						alone.Seed, alone.Seeds = c.Seeds[i], nil
					}
					want, err := m.GenerateIDs(ctx, a, p, alone)
					if err != nil || !slices.Equal(got[i], want) {
						t.Errorf("%s: row %d is %v, alone %v (%v)", name, i, got[i], want, err)
					}
				}
				if name == "own seeds" && slices.Equal(got[0], got[3]) {
					t.Errorf("two seeds drew the same %v", got[0])
				}
			}
		})
	})
}

func TestGenerateRefusesWhatItCannotContinue(t *testing.T) {
	ctx, m := context.Background(), mustLoad(t, "testdata/families/qwen3_yarn", Options{})
	for want, try := range map[string]struct {
		prompts [][]int
		c       GenerationConfig
	}{
		"generate: there are no prompts":   {},
		"generate: prompt 1 has no tokens": {prompts: [][]int{{3}, {}}},
		"generate: prompt 1: token id 67 at position 1 of row 0 is outside the model's vocabulary of 67": {prompts: [][]int{{3}, {3, 67}}},
		"GenerationConfig.Seeds has 1 values for 2 prompts, want one for each":                           {prompts: [][]int{{3}, {4}}, c: GenerationConfig{Seeds: []uint64{1}}},
	} {
		if _, err := m.GenerateBatchIDs(ctx, nil, try.prompts, try.c); err == nil || err.Error() != want {
			t.Errorf("got error %v, want %s", err, want)
		}
	}
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	if out, err := m.GenerateIDs(stopped, nil, []int{3, 4}, GenerationConfig{}); !errors.Is(err, context.Canceled) || len(out) != 0 {
		t.Errorf("a canceled context gave %v, %v", out, err)
	}
}

func TestLogitsThatAreNotNumbersEndInAnError(t *testing.T) {
	eachFamily(t, "", nil, func(t *testing.T, g *family) {
		if g.name == "qwen3_yarn" {
			m := mustLoad(t, g.dir, Options{DType: Float32})
			loras := g.loras(t)
			loras[0].Scaling = math.Inf(1)
			a, err := m.NewAdapters(loras)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			for _, c := range []GenerationConfig{{}, {DoSample: true, TopK: 3, TopP: 0.5, MinP: 0.1}} {
				_, err := m.GenerateIDs(context.Background(), a, g.Prompt, c)
				if err == nil || !strings.Contains(err.Error(), "prompt 0, after 0 new tokens: the model's logit of token 0 is NaN") {
					t.Errorf("%+v gave %v", c, err)
				}
			}
		}
	})
}
