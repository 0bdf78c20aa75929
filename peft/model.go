package peft

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

// PeftModel is a base model with adapters on some of its linears: one set of them, named "default", or several sets of
// which some are active. The base is frozen and may be shared by several PeftModels; each has its own adapters. Close it
// before the base.
//
// A PeftModel may be used by several goroutines as long as none of them changes its adapters: methods that add, choose or
// delete are for one goroutine, with nothing else running.
type PeftModel struct {
	base     *models.CausalLM
	sets     map[string]*adapterSet
	names    []string             // of sets, in the order in which they were added
	active   []string             // names of those that programs see; several add up
	sum      models.Adapters      // of the active ones if they are several; else nil
	mixed    *mixture             // of all sets; nil until ForRows is called
	disabled int                  // calls of DisableAdapters that are not undone
	merged   []string             // names of those that are in the base's weights
	factors  map[string][]float32 // see mergedFactors
	hot      *hotswap             // nil unless PrepareHotswap was called
	opts     options
}

// DefaultAdapter is the name of the adapters that a PeftModel begins with.
const DefaultAdapter = "default"

// Option changes how a PeftModel is made.
type Option func(*options)

type options struct {
	seed   int64
	logger *slog.Logger
}

// Seed says which random numbers new adapters start from; 0 without it.
func Seed(seed int64) Option { return func(o *options) { o.seed = seed } }

// Logger gets PEFT's warnings; without it they go to slog.Default().
func Logger(l *slog.Logger) Option { return func(o *options) { o.logger = l } }

func settings(opts []Option) options {
	o := options{logger: slog.Default()}
	for _, f := range opts {
		f(&o)
	}
	return o
}

// GetPeftModel attaches new adapters to the linears of model that cfg targets. With the default initial values the
// model computes what it did before.
//
// [InitPiSSA], [InitPiSSANiter], [InitOLoRA] and [InitLoftQ] put other weights into the base, as PEFT does: for the first
// three the adapters are a part of the weight that the base then lacks, so that both together still compute the same. The base
// is then of use with these adapters alone, and no second set can start so; [FromPretrained] makes the same weights again from
// a base that is freshly loaded. [PeftModel.SaveConverted] saves adapters that need no such base. After an error that came
// after the first weight was replaced, [models.CausalLM.Altered] says so: load the base anew.
func GetPeftModel(model *models.CausalLM, cfg Config, opts ...Option) (*PeftModel, error) {
	p := newPeftModel(model, opts)
	if err := p.AddAdapter(DefaultAdapter, cfg); err != nil {
		return nil, err
	}
	return p, nil
}

// FromPretrained attaches the adapters of a folder that PEFT or SavePretrained wrote. They can be trained further.
func FromPretrained(model *models.CausalLM, dir string, opts ...Option) (*PeftModel, error) {
	p := newPeftModel(model, opts)
	if err := p.LoadAdapter(DefaultAdapter, dir); err != nil {
		return nil, err
	}
	return p, nil
}

// Base is the model under the adapters.
func (p *PeftModel) Base() *models.CausalLM { return p.base }

// Config is the active adapters' configuration with its defaults filled in, of the first if several are active: of the type
// that they were made with.
func (p *PeftModel) Config() Config { return p.first().config() }

// Targets are the modules that the active adapters are on, in the model's order; of the first if several are active.
func (p *PeftModel) Targets() []Target { return p.first().targeted() }

// first is the first active set.
func (p *PeftModel) first() *adapterSet { return p.sets[p.active[0]] }

// Close frees the adapters; the base stays.
func (p *PeftModel) Close() error {
	errs := []error{p.sum.Close(), p.mixed.Close()}
	for _, s := range p.sets {
		errs = append(errs, s.weights.Close())
	}
	p.sum, p.sets = nil, nil
	return errors.Join(errs...)
}

// TrainableParameters returns the line that PEFT's print_trainable_parameters prints: the active adapters' parameters, and
// those of all adapters and the base.
func (p *PeftModel) TrainableParameters() string {
	var trainable, all int64
	for name, set := range p.sets {
		n := set.parameters()
		all += n
		if slices.Contains(p.active, name) {
			trainable += n
		}
	}
	return FormatTrainableParameters(trainable, all+p.base.NumParameters())
}

// Logits returns the next-token scores [batch][seq][vocab] with the adapters applied; see [models.CausalLM.Logits].
func (p *PeftModel) Logits(ctx context.Context, ids, mask [][]int) ([][][]float32, error) {
	return p.base.LogitsWith(ctx, p.seen(), ids, mask)
}

// LogProbs returns the log-probability of every token but the first of each row, with the adapters applied; see
// [models.CausalLM.LogProbs].
func (p *PeftModel) LogProbs(ctx context.Context, ids [][]int) ([][]float64, error) {
	return p.base.LogProbsWith(ctx, p.seen(), ids)
}

// Perplexity returns the perplexity of ids with the adapters applied; see [models.CausalLM.Perplexity].
func (p *PeftModel) Perplexity(ctx context.Context, ids []int, c models.PerplexityConfig) (float64, error) {
	return p.base.PerplexityWith(ctx, p.seen(), ids, c)
}

// Generate continues the prompt with the adapters applied; see [models.CausalLM.Generate].
func (p *PeftModel) Generate(ctx context.Context, tok models.Tokenizer, prompt string, c models.GenerationConfig) (string, error) {
	return p.base.GenerateWith(ctx, p.seen(), tok, prompt, c)
}

// GenerateBatch continues several prompts at once with the adapters applied; see [models.CausalLM.GenerateBatch].
func (p *PeftModel) GenerateBatch(ctx context.Context, tok models.Tokenizer, prompts []string, c models.GenerationConfig) ([]string, error) {
	return p.base.GenerateBatchWith(ctx, p.seen(), tok, prompts, c)
}

// GenerateBatchIDs continues prompts of token ids; see [models.CausalLM.GenerateBatchIDs].
func (p *PeftModel) GenerateBatchIDs(ctx context.Context, ids [][]int, c models.GenerationConfig) ([][]int, error) {
	return p.base.GenerateBatchIDs(ctx, p.seen(), ids, c)
}

// Stream continues the prompt piece by piece with the adapters applied; see [models.CausalLM.Stream].
func (p *PeftModel) Stream(ctx context.Context, tok models.Tokenizer, prompt string, c models.GenerationConfig) iter.Seq2[string, error] {
	return p.base.StreamWith(ctx, p.seen(), tok, prompt, c)
}

// NewSession starts training the active adapters; package sft calls it.
func (p *PeftModel) NewSession(o training.SessionOptions) (training.Session, error) {
	switch {
	case len(p.active) > 1:
		return nil, fmt.Errorf("adapters %q are active together: choose the one to train with SetAdapter", p.active)
	case p.disabled > 0:
		return nil, errors.New("adapters are disabled: train outside of DisableAdapters")
	case p.hot != nil:
		return nil, errors.New("PrepareHotswap has given the adapters a form that is not for training; load them into a PeftModel of their own")
	case len(p.merged) > 0:
		return nil, fmt.Errorf("adapters %q are merged into the base: call UnmergeAdapter before training", p.merged)
	}
	if s, ok := p.first().tuner.(*promptSet); ok && s.frozen != "" {
		return nil, errors.New(s.frozen)
	}
	start := func(o training.SessionOptions) (training.Session, error) {
		return p.base.SessionWith(p.first().weights, o)
	}
	if s, ok := p.first().tuner.(*methodSet); ok {
		if c, ok := s.cfg.(trainedMethod); ok {
			return c.session(s, start, o)
		}
	}
	return start(o)
}

// SavePretrained writes adapter_config.json, adapter_model.safetensors and README.md as PEFT does: of the adapters named
// "default" into dir, of others into a folder of their name in it.
func (p *PeftModel) SavePretrained(dir string) error {
	for _, name := range p.names {
		at := dir
		if name != DefaultAdapter {
			at = filepath.Join(dir, name)
		}
		if err := p.sets[name].write(at); err != nil {
			return err
		}
	}
	return nil
}
