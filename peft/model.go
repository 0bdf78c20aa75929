package peft

import (
	"context"
	"fmt"
	"iter"
	"log/slog"

	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

// PeftModel is a base model with LoRA adapters on some of its linears. The base is frozen and may be shared by several
// PeftModels; each has its own adapters. Close it before the base.
type PeftModel struct {
	base     *models.CausalLM
	cfg      LoraConfig
	targets  []Target
	adapters models.Adapters
}

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
func GetPeftModel(model *models.CausalLM, cfg LoraConfig, opts ...Option) (*PeftModel, error) {
	o := settings(opts)
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("LoraConfig: %w", err)
	}
	if cfg.BaseModelNameOrPath == "" {
		cfg.BaseModelNameOrPath = model.Path()
	}
	return attach(model, cfg, o, func(t Target, cfg LoraConfig) (a, b []float32, err error) {
		return InitAdapter(o.seed, t.Path, cfg.InitLoraWeights, t.R, t.In, t.Out)
	})
}

// FromPretrained attaches the adapters of a folder that PEFT or SavePretrained wrote. They can be trained further.
func FromPretrained(model *models.CausalLM, dir string, opts ...Option) (*PeftModel, error) {
	o := settings(opts)
	cfg, weights, warnings, err := LoadAdapter(dir)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		o.logger.Warn(w, "adapter", dir)
	}
	byPath := map[string]AdapterWeight{}
	for _, w := range weights {
		byPath[w.Path] = w
	}
	p, err := attach(model, cfg, o, func(t Target, _ LoraConfig) (a, b []float32, err error) {
		w, ok := byPath[t.Path]
		if !ok {
			return nil, nil, fmt.Errorf("adapter_model.safetensors has no weights for module %q, which adapter_config.json targets", t.Path)
		}
		if w.R != t.R || w.In != t.In || w.Out != t.Out {
			return nil, nil, fmt.Errorf("module %q: the adapter is of rank %d for a linear of %d inputs and %d outputs; config and model want rank %d, %d and %d",
				t.Path, w.R, w.In, w.Out, t.R, t.In, t.Out)
		}
		delete(byPath, t.Path)
		return w.A, w.B, nil
	})
	if err != nil {
		return nil, fmt.Errorf("adapter %s: %w", dir, err)
	}
	for path := range byPath {
		o.logger.Warn("the adapter has weights for a module that its config does not target; they are not used", "adapter", dir, "module", path)
	}
	return p, nil
}

// attach resolves cfg on the model and uploads the values that initial gives for each target.
func attach(model *models.CausalLM, cfg LoraConfig, o options, initial func(Target, LoraConfig) (a, b []float32, err error)) (*PeftModel, error) {
	var modules []Module
	for _, l := range model.Linears() {
		modules = append(modules, Module{Path: l.Path, In: l.In, Out: l.Out, IsHead: l.Head})
	}
	r, err := ResolveTargets(cfg, model.Config().ModelType(), modules)
	if err != nil {
		return nil, err
	}
	for _, w := range r.Warnings {
		o.logger.Warn(w)
	}
	var loras []models.LoRA
	for _, t := range r.Targets {
		a, b, err := initial(t, r.Config)
		if err != nil {
			return nil, err
		}
		loras = append(loras, models.LoRA{Path: t.Path, R: t.R, Scaling: t.Scaling, Dropout: r.Config.LoraDropout, A: a, B: b})
	}
	adapters, err := model.NewAdapters(loras)
	if err != nil {
		return nil, err
	}
	return &PeftModel{base: model, cfg: r.Config, targets: r.Targets, adapters: adapters}, nil
}

// Base is the model under the adapters.
func (p *PeftModel) Base() *models.CausalLM { return p.base }

// Config is the adapters' configuration with its defaults filled in.
func (p *PeftModel) Config() LoraConfig { return p.cfg }

// Targets are the adapted modules in the model's order.
func (p *PeftModel) Targets() []Target { return p.targets }

// Close frees the adapters; the base stays.
func (p *PeftModel) Close() error { return p.adapters.Close() }

// TrainableParameters returns the line that PEFT's print_trainable_parameters prints.
func (p *PeftModel) TrainableParameters() string {
	var trainable int64
	for _, t := range p.targets {
		trainable += int64(t.R) * int64(t.In+t.Out)
	}
	return FormatTrainableParameters(trainable, trainable+p.base.NumParameters())
}

// Logits returns the next-token scores [batch][seq][vocab] with the adapters applied; see [models.CausalLM.Logits].
func (p *PeftModel) Logits(ctx context.Context, ids, mask [][]int) ([][][]float32, error) {
	return p.base.LogitsWith(ctx, p.adapters, ids, mask)
}

// LogProbs returns the log-probability of every token but the first of each row, with the adapters applied; see
// [models.CausalLM.LogProbs].
func (p *PeftModel) LogProbs(ctx context.Context, ids [][]int) ([][]float64, error) {
	return p.base.LogProbsWith(ctx, p.adapters, ids)
}

// Perplexity returns the perplexity of ids with the adapters applied; see [models.CausalLM.Perplexity].
func (p *PeftModel) Perplexity(ctx context.Context, ids []int, c models.PerplexityConfig) (float64, error) {
	return p.base.PerplexityWith(ctx, p.adapters, ids, c)
}

// Generate continues the prompt with the adapters applied; see [models.CausalLM.Generate].
func (p *PeftModel) Generate(ctx context.Context, tok models.Tokenizer, prompt string, c models.GenerationConfig) (string, error) {
	return p.base.GenerateWith(ctx, p.adapters, tok, prompt, c)
}

// GenerateBatch continues several prompts at once with the adapters applied; see [models.CausalLM.GenerateBatch].
func (p *PeftModel) GenerateBatch(ctx context.Context, tok models.Tokenizer, prompts []string, c models.GenerationConfig) ([]string, error) {
	return p.base.GenerateBatchWith(ctx, p.adapters, tok, prompts, c)
}

// Stream continues the prompt piece by piece with the adapters applied; see [models.CausalLM.Stream].
func (p *PeftModel) Stream(ctx context.Context, tok models.Tokenizer, prompt string, c models.GenerationConfig) iter.Seq2[string, error] {
	return p.base.StreamWith(ctx, p.adapters, tok, prompt, c)
}

// NewSession starts training the adapters; package sft calls it.
func (p *PeftModel) NewSession(o training.SessionOptions) (training.Session, error) {
	return p.base.SessionWith(p.adapters, o)
}

// SavePretrained writes adapter_config.json, adapter_model.safetensors and README.md as PEFT does.
func (p *PeftModel) SavePretrained(dir string) error {
	values, err := p.adapters.Values()
	if err != nil {
		return fmt.Errorf("save adapter: %w", err)
	}
	var weights []AdapterWeight
	for _, t := range p.targets {
		v := values[t.Path]
		weights = append(weights, AdapterWeight{Path: t.Path, A: v.A, B: v.B, R: t.R, In: t.In, Out: t.Out})
	}
	return SaveAdapter(dir, p.cfg, weights)
}
