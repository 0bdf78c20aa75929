package layerwise_test

import (
	"context"
	"testing"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/models"
)

func TestGenerationCompilesOncePerBucket(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		m, a := trainee(t, models.Options{Backend: backend, DType: models.Float32}, 0)
		s := session(t, m, a, settings)
		compiled := 0
		for _, step := range []struct {
			what     string
			lengths  []int
			tokens   int
			compiles bool
		}{
			{"a first batch", []int{5, 9, 2}, 12, true},
			{"other lengths and another number of tokens", []int{31, 1, 7}, 20, false},
			{"four rows instead of three", []int{4, 6, 8, 10}, 12, false},
			{"two rows", []int{5, 9}, 12, true},
			{"a longer prompt", []int{40, 9}, 12, true},
			{"one as long", []int{64, 33}, 12, false},
		} {
			var prompts [][]int
			for _, n := range step.lengths {
				var p []int
				for i := range n {
					p = append(p, (7*n+5*i)%tiny.VocabSize)
				}
				prompts = append(prompts, p)
			}
			out, err := m.GenerateBatchIDs(context.Background(), a, prompts, models.GenerationConfig{MaxNewTokens: step.tokens})
			if err != nil {
				t.Fatal(err)
			}
			for i, row := range out {
				if len(row) != step.tokens {
					t.Errorf("%s: row %d has %d tokens, want %d", step.what, i, len(row), step.tokens)
				}
			}
			now := layerwise.Compiled(s)
			if compiles := now > compiled; compiles != step.compiles {
				t.Errorf("%s: %d programs, %d before", step.what, now, compiled)
			}
			compiled = now
		}
	})
}
