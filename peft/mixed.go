package peft

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/models"
)

// BaseAdapter is the name that means no adapter in [PeftModel.ForRows], as in PEFT.
const BaseAdapter = baseAdapter

// Mixed computes batches of which each row sees adapters of its own, in one program: what PEFT does with adapter_names. It is
// for one goroutine, and closed before its PeftModel changes.
type Mixed struct {
	p     *PeftModel
	names []string
	rows  *models.RowSelection
}

// mixture are all adapters of a PeftModel side by side.
type mixture struct {
	adapters *models.RowAdapters
	first    map[string]int // column of the first rank of each set
	ranks    map[string]int
	total    int
	of       []*tensors.Tensor // what they were made of
}

// ForRows returns what computes batches whose row i sees the adapters names[i], or none where that is [BaseAdapter]. The
// first call puts all adapters side by side on the device, which takes their memory once more; later ones, whatever their
// names, upload a few numbers and compile nothing for a number of rows that they have seen. Adapters are as they are at the
// call; DoRA and trained biases cannot be mixed.
func (p *PeftModel) ForRows(names ...string) (*Mixed, error) {
	if err := p.mix(names); err != nil {
		return nil, fmt.Errorf("ForRows: %w", err)
	}
	factors := make([][]float32, len(names))
	for i, n := range names {
		factors[i] = make([]float32, p.mixed.total)
		if n != BaseAdapter {
			for j := range p.mixed.ranks[n] {
				factors[i][p.mixed.first[n]+j] = 1
			}
		}
	}
	rows, err := p.mixed.adapters.Select(factors)
	if err != nil {
		return nil, fmt.Errorf("ForRows: %w", err)
	}
	return &Mixed{p, slices.Clone(names), rows}, nil
}

// mix makes the mixture, unless there is one of the adapters as they are.
func (p *PeftModel) mix(names []string) error {
	switch {
	case len(names) == 0:
		return errors.New("name the adapters of each row")
	case len(p.merged) > 0:
		return fmt.Errorf("adapters %q are merged into the base: call UnmergeAdapter first", p.merged)
	}
	for i, n := range names {
		if err := p.known(n); n != BaseAdapter && err != nil {
			return fmt.Errorf("row %d: %w", i, err)
		}
	}
	var of []*tensors.Tensor
	for _, n := range p.names {
		for _, w := range p.sets[n].weights {
			of = append(of, w.Tensors...)
		}
	}
	if p.mixed != nil && slices.Equal(p.mixed.of, of) {
		return nil
	}
	fresh, err := p.newMixture()
	if err != nil {
		return err
	}
	old := p.mixed
	p.mixed = fresh
	p.mixed.of = of
	return old.Close()
}

// Close frees the mixture.
func (x *mixture) Close() error {
	if x == nil {
		return nil
	}
	return x.adapters.Close()
}

func (p *PeftModel) newMixture() (*mixture, error) {
	x := &mixture{first: map[string]int{}, ranks: map[string]int{}}
	sizes, loras := map[string]Target{}, map[string]map[string]models.LoRA{}
	for _, n := range p.names {
		s := p.sets[n]
		if err := s.refuseBeyondLoRA(fmt.Sprintf("adapter %q cannot be one row's among others", n)); err != nil {
			return nil, err
		}
		if err := s.refuseEnds(fmt.Sprintf("what adapter %q has at the model's ends cannot be one row's among others", n)); err != nil {
			return nil, err
		}
		set, err := s.lora("its rows")
		if err != nil {
			return nil, err
		}
		values, err := s.loras()
		if err != nil {
			return nil, err
		}
		loras[n] = map[string]models.LoRA{}
		for _, l := range values {
			loras[n][l.Path] = l
		}
		for _, t := range set.targets {
			sizes[t.Path] = t
		}
		x.first[n], x.ranks[n] = x.total, set.maxRank()
		x.total += set.maxRank()
	}
	var all []models.LoRA
	for _, lin := range p.base.Linears() {
		t, ok := sizes[lin.Path]
		if !ok {
			continue
		}
		joined := models.LoRA{A: []float32{}, B: []float32{}}
		for _, n := range p.names {
			t.R = x.ranks[n]
			l, ok := loras[n][lin.Path]
			if !ok {
				l = models.LoRA{R: t.R, A: make([]float32, t.R*t.In), B: make([]float32, t.Out*t.R)}
			}
			for i := range l.B {
				l.B[i] *= float32(l.Scaling)
			}
			l = widened(l, t)
			if joined.R == 0 {
				joined = l
			} else {
				joined = beside(joined, l)
			}
		}
		all = append(all, models.LoRA{Path: lin.Path, R: x.total, Scaling: 1, A: joined.A, B: joined.B})
	}
	var err error
	x.adapters, err = p.base.NewRowAdapters(all)
	return x, err
}

// Close frees what the rows' choice takes on the device, which is little.
func (x *Mixed) Close() error { return x.rows.Close() }

// check refuses batches of another number of rows.
func (x *Mixed) check(rows int) error {
	if rows != len(x.names) {
		return fmt.Errorf("the batch has %d rows, adapters were named for %d", rows, len(x.names))
	}
	return nil
}

// Logits returns the next-token scores [batch][seq][vocab], each row with its adapters; see [models.CausalLM.Logits].
func (x *Mixed) Logits(ctx context.Context, ids, mask [][]int) ([][][]float32, error) {
	if err := x.check(len(ids)); err != nil {
		return nil, err
	}
	return x.p.base.LogitsWith(ctx, x.rows.Adapters, ids, mask)
}

// LogProbs returns the log-probability of every token but the first of each row, with the row's adapters; see
// [models.CausalLM.LogProbs].
func (x *Mixed) LogProbs(ctx context.Context, ids [][]int) ([][]float64, error) {
	if err := x.check(len(ids)); err != nil {
		return nil, err
	}
	return x.p.base.LogProbsWith(ctx, x.rows.Adapters, ids)
}

// GenerateBatch continues prompts, each with its adapters; see [models.CausalLM.GenerateBatch].
func (x *Mixed) GenerateBatch(ctx context.Context, tok models.Tokenizer, prompts []string, c models.GenerationConfig) ([]string, error) {
	if err := x.check(len(prompts)); err != nil {
		return nil, err
	}
	return x.p.base.GenerateBatchWith(ctx, x.rows.Adapters, tok, prompts, c)
}

// GenerateBatchIDs continues prompts of token ids, each with its adapters; see [models.CausalLM.GenerateBatchIDs].
func (x *Mixed) GenerateBatchIDs(ctx context.Context, ids [][]int, c models.GenerationConfig) ([][]int, error) {
	if err := x.check(len(ids)); err != nil {
		return nil, err
	}
	return x.p.base.GenerateBatchIDs(ctx, x.rows.Adapters, ids, c)
}
