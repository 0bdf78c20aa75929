package peft

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/loris-ml/loris/internal/safetensors"
	"github.com/loris-ml/loris/models"
)

const peftTypeLN = "LN_TUNING"

// LNTuningConfig configures LN tuning (arXiv:2312.11420): the gains of norms are trained, each adapter's own copies, and nothing
// else. Fields, JSON and defaults are those of PEFT 0.21's LNTuningConfig; as there, linears that are targeted are trained in
// full, too.
type LNTuningConfig struct {
	// TargetModules are trained, ExcludeModules are not even if targeted. Nil targets are those that PEFT's table has for the model
	// type: all norms of most, none for types that are not in it.
	TargetModules  TargetModules `json:"target_modules"`
	ExcludeModules TargetModules `json:"exclude_modules"`
	Origin
}

// Type is "LN_TUNING".
func (c LNTuningConfig) Type() string { return peftTypeLN }

// Validate reports the first field with a value that PEFT rejects or that is not supported here, under its PEFT name.
func (c LNTuningConfig) Validate() error {
	if err := c.Origin.validate(); err != nil {
		return err
	}
	return LoraConfig{TargetModules: c.TargetModules, ExcludeModules: c.ExcludeModules}.Validate()
}

func (c LNTuningConfig) of(base string) Config {
	c.Origin = c.Origin.of(base)
	return c
}

func (c *LNTuningConfig) origin() *Origin { return &c.Origin }

func (c *LNTuningConfig) settings() []setting {
	return targetSettings(&c.TargetModules, &c.ExcludeModules)
}

func (c LNTuningConfig) fields() object { return settingsObject(&c) }

// MarshalJSON returns the config with PEFT's keys and the values that an adapter folder would hold.
func (c LNTuningConfig) MarshalJSON() ([]byte, error) {
	return appendPythonJSON(nil, c.fields(), compact), c.Validate()
}

// UnmarshalJSON reads a config with PEFT's keys; missing ones are PEFT's defaults, unknown ones errors. It does not validate.
func (c *LNTuningConfig) UnmarshalJSON(data []byte) error { return unmarshalSettings(c, data) }

// lnTargets is what PEFT tunes in a model of that type if target_modules is None, nil where it asks for them:
// TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING of peft/utils/constants.py.
func lnTargets(modelType string) TargetModules {
	switch modelType {
	case "llama", "mistral", "gemma":
		return Modules("input_layernorm", "norm", "post_attention_layernorm")
	case "gemma2", "gemma3_text":
		return Modules("input_layernorm", "norm", "post_attention_layernorm", "post_feedforward_layernorm", "pre_feedforward_layernorm")
	case "qwen2", "qwen3":
		return Modules("post_attention_layernorm")
	}
	return nil
}

// lnSet are the copies of an LNTuningConfig on a base.
type lnSet struct {
	cfg     LNTuningConfig
	targets []Target
	tuned   []moduleCopy // of the targets
	saved   []moduleCopy // of modules_to_save
}

func (c LNTuningConfig) attach(p *PeftModel, from *weightsFile) (tuner, []models.LoRA, error) {
	modelType := p.base.Config().ModelType()
	t := targeting{TargetModules: c.TargetModules, ExcludeModules: c.ExcludeModules, ModulesToSave: c.ModulesToSave, R: 1, Alpha: 1}
	if t.TargetModules == nil {
		if t.TargetModules = lnTargets(modelType); t.TargetModules == nil {
			return nil, nil, fmt.Errorf("target_modules: PEFT has no default of LN tuning for model_type %q; name the norms", modelType)
		}
	}
	all := p.copyable()
	var modules []Module
	for _, m := range all {
		modules = append(modules, Module{Path: m.path, In: max(1, m.in), Out: m.out, IsHead: m.path == models.HeadPath, IsEmbed: m.path == models.EmbeddingPath})
	}
	r, err := t.resolve(modelType, modules)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range r.warnings {
		p.opts.logger.Warn(w)
	}
	c.TargetModules = r.as
	s := &lnSet{cfg: c, targets: r.targets}
	for _, m := range all {
		if slices.ContainsFunc(r.targets, func(t Target) bool { return t.Path == m.path }) {
			s.tuned = append(s.tuned, m)
		}
	}
	if s.saved, err = p.saved(c.ModulesToSave); err != nil {
		return nil, nil, err
	}
	loras, err := p.copies(append(slices.Clone(s.tuned), s.saved...), func(m moduleCopy) (weight, bias []float32, err error) {
		if from == nil {
			return p.ofBase(m)
		}
		return from.readCopy(m, s.infix(m))
	})
	return s, loras, err
}

// infix is what keys have between the path of a module and the name of its tensor.
func (s *lnSet) infix(m moduleCopy) string {
	if slices.ContainsFunc(s.tuned, func(t moduleCopy) bool { return t.path == m.path }) {
		return ".ln_tuning_layers"
	}
	return ""
}

func (s *lnSet) config() Config     { return s.cfg }
func (s *lnSet) targeted() []Target { return s.targets }

func (s *lnSet) parameters() (n int64) {
	for _, m := range append(slices.Clone(s.tuned), s.saved...) {
		n += m.parameters()
	}
	return n
}

func (s *lnSet) state(values map[string]models.LoRA) (all []models.LoRA) {
	for _, m := range append(slices.Clone(s.tuned), s.saved...) {
		all = append(all, m.lora(values[m.path].Full, values[m.path].FullBias))
	}
	return all
}

func (s *lnSet) save(dir string, values map[string]models.LoRA) error {
	var tensors []safetensors.Tensor
	for _, m := range append(slices.Clone(s.tuned), s.saved...) {
		tensors = append(tensors, m.tensors(s.infix(m), values[m.path])...)
	}
	return saveFields(dir, peftTypeLN, s.cfg.fields(), tensors)
}

// copyKey takes the key of a copy apart: the module's path, and the tensor's name. An adapter's name may be in it.
var copyKey = regexp.MustCompile(`^(?:_orig_mod\.)?(?:base_model\.model\.)?(?:_orig_mod\.)?(.+?)(\.ln_tuning_layers(?:\.[^.]+)?|\.modules_to_save\.[^.]+)?\.(weight|bias)$`)
