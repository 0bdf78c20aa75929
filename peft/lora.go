package peft

import (
	"fmt"
	"maps"
	"slices"

	"github.com/loris-ml/loris/models"
)

// loraSet are LoRA adapters on a base.
type loraSet struct {
	cfg     LoraConfig // defaults filled in
	targets []Target   // in the model's order
	biases  []trainedBias
	embed   models.Linear // the base's embedding
	saved   []moduleCopy  // of modules_to_save
	tie     bool          // the head has the embedding's copy
}

// Type is "LORA".
func (c LoraConfig) Type() string { return peftTypeLora }

func (c LoraConfig) of(base string) Config {
	if c.BaseModelNameOrPath == "" {
		c.BaseModelNameOrPath = base
	}
	return c
}

func (c LoraConfig) base() string { return c.BaseModelNameOrPath }

func (c LoraConfig) attach(p *PeftModel, from *weightsFile) (tuner, []models.LoRA, error) {
	if from == nil {
		return asTuner(p.makeLora(c, nil))
	}
	weights, warnings, err := from.readLora(c)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range warnings {
		p.opts.logger.Warn(w)
	}
	stored := map[string]AdapterWeight{}
	for _, w := range weights {
		stored[w.Path] = w
	}
	return asTuner(p.makeLora(c, stored))
}

func asTuner(s *loraSet, loras []models.LoRA, err error) (tuner, []models.LoRA, error) {
	return s, loras, err
}

func (s *loraSet) config() Config     { return s.cfg }
func (s *loraSet) targeted() []Target { return s.targets }

// makeLora resolves cfg on the base and returns its adapters with the values that they begin with.
func (p *PeftModel) makeLora(cfg LoraConfig, stored map[string]AdapterWeight) (*loraSet, []models.LoRA, error) {
	cfg, tie := p.tied(cfg)
	r, err := ResolveTargets(cfg, p.base.Config().ModelType(), p.modules())
	if err != nil {
		return nil, nil, err
	}
	for _, w := range r.Warnings {
		p.opts.logger.Warn(w)
	}
	if err := r.Config.checkEndTargets(r.Targets, p.base.Tied()); err != nil {
		return nil, nil, err
	}
	if stored != nil {
		if err := p.checkStored(r.Targets, stored); err != nil {
			return nil, nil, err
		}
	}
	s := &loraSet{cfg: r.Config, targets: r.Targets, embed: p.base.Embedding(), tie: tie}
	base, err := p.startFromBase(s, stored != nil)
	if err != nil {
		return nil, nil, err
	}
	loras, err := s.begin(base, p.opts.seed, stored)
	if err != nil {
		return nil, nil, err
	}
	if base != nil {
		if err := base.flush(); err != nil {
			return nil, nil, err
		}
	}
	if s.cfg.UseDora && stored == nil {
		if err := p.addMagnitudes(loras); err != nil {
			return nil, nil, err
		}
	}
	if loras, err = p.addShifts(s, loras, stored); err != nil {
		return nil, nil, err
	}
	loras, err = p.addEnds(s, loras, stored)
	return s, loras, err
}

// begin are the As and Bs of the targets: those that are stored, a part of the base's weights, or random numbers.
func (s *loraSet) begin(base *baseInit, seed int64, stored map[string]AdapterWeight) (loras []models.LoRA, err error) {
	for _, t := range s.targets {
		l := models.LoRA{Path: t.Path, R: t.R, Scaling: t.Scaling, Dropout: s.cfg.LoraDropout, Magnitude: stored[t.Path].Magnitude}
		w, ok := stored[t.Path]
		switch {
		case base != nil:
			l.A, l.B, err = base.values(t)
		case !ok:
			l.A, l.B, err = InitAdapter(seed, t.Path, s.cfg.InitLoraWeights, t.R, t.In, t.Out)
		}
		if err != nil {
			return nil, err
		}
		if ok {
			l.A, l.B = w.A, w.B
		}
		loras = append(loras, l)
	}
	return loras, nil
}

// startFromBase returns what takes first values out of the base's weights, nil where adapters start otherwise; it may change
// the set's config: see LoftQConfig.
func (p *PeftModel) startFromBase(s *loraSet, stored bool) (base *baseInit, err error) {
	if !s.cfg.InitLoraWeights.changesBase() {
		p.warnAltered()
		return nil, nil
	}
	if _, randomized := s.cfg.InitLoraWeights.niter(); randomized && stored {
		p.opts.logger.Warn("the base's weights are made again by random numbers, which must be those of the training: with the same peft.Seed, they are; adapters that PEFT trained fit only after conversion (path_initial_model_for_weight_conversion)",
			"init_lora_weights", s.cfg.InitLoraWeights)
	}
	base, s.cfg, err = newBaseInit(p.base, s.cfg, s.targets, p.opts.seed, stored)
	return base, err
}

// checkStored refuses stored weights that do not fit the targets, and warns of those that nothing targets.
func (p *PeftModel) checkStored(targets []Target, stored map[string]AdapterWeight) error {
	unused := maps.Clone(stored)
	for _, t := range targets {
		w, ok := stored[t.Path]
		if !ok {
			return fmt.Errorf("adapter_model.safetensors has no weights for module %q, which adapter_config.json targets", t.Path)
		}
		if w.R != t.R || w.In != t.In || w.Out != t.Out {
			return fmt.Errorf("module %q: the adapter is of rank %d for a linear of %d inputs and %d outputs; config and model want rank %d, %d and %d",
				t.Path, w.R, w.In, w.Out, t.R, t.In, t.Out)
		}
		delete(unused, t.Path)
	}
	for _, path := range slices.Sorted(maps.Keys(unused)) {
		if unused[path].Full != nil || unused[path].Rows != nil {
			continue // see addEnds
		}
		if unused[path].R == 0 && slices.ContainsFunc(p.base.Linears(), func(l models.Linear) bool { return l.Path == path && l.Bias }) {
			continue // a bias alone
		}
		p.opts.logger.Warn("the adapter has weights for a module that its config does not target; they are not used", "module", path)
	}
	return nil
}

func (s *loraSet) parameters() (n int64) {
	for _, t := range s.targets {
		n += int64(t.R) * int64(t.In+t.Out)
		if s.cfg.UseDora {
			n += int64(t.Out)
		}
		if s.cfg.LoraBias {
			n += int64(t.Out)
		}
	}
	for _, b := range s.biases {
		n += int64(b.Out)
	}
	for _, m := range s.saved {
		n += m.parameters()
	}
	return n + int64(len(s.cfg.TrainableTokenIndices))*int64(s.embed.Out)
}

func (s *loraSet) save(dir string, values map[string]models.LoRA) error {
	return SaveAdapter(dir, s.cfg, s.fileWeights(values))
}

// fileWeights are the current values of the adapters in the order of targets.
func (s *loraSet) fileWeights(values map[string]models.LoRA) (all []AdapterWeight) {
	for _, t := range s.targets {
		v := values[t.Path]
		a, b := unpadded(v, t)
		all = append(all, AdapterWeight{Path: t.Path, A: a, B: b, Magnitude: v.Magnitude, R: t.R, In: t.In, Out: t.Out})
	}
	all = append(s.addBiases(all, values), s.endWeights(values)...)
	if s.tie { // files have it twice, as PEFT's
		i := slices.IndexFunc(all, func(w AdapterWeight) bool { return w.Path == models.EmbeddingPath })
		head := all[i]
		head.Path = models.HeadPath
		all = append(all, head)
	}
	return all
}

// loraWeights are the current values of a set of LoRA adapters.
func (s *adapterSet) loraWeights() ([]AdapterWeight, error) {
	l, err := s.lora("it has no A and B")
	if err != nil {
		return nil, err
	}
	values, err := s.weights.Values()
	if err != nil {
		return nil, err
	}
	return l.fileWeights(values), nil
}

// unpadded are the values of an adapter without the zeros that PrepareHotswap has put beside them.
func unpadded(v models.LoRA, t Target) (a, b []float32) {
	if v.R == t.R {
		return v.A, v.B
	}
	for o := range t.Out {
		b = append(b, v.B[o*v.R:o*v.R+t.R]...)
	}
	return v.A[:t.R*t.In], b
}

// state is what the model takes: behind the adapters of the targets the biases that are trained alone, and the model's ends.
func (s *loraSet) state(values map[string]models.LoRA) (all []models.LoRA) {
	alone := map[string]bool{}
	for _, b := range s.biases {
		alone[b.Path] = true
	}
	for _, t := range s.targets {
		v := values[t.Path]
		l := models.LoRA{Path: t.Path, R: t.R, Scaling: t.Scaling, Dropout: s.cfg.LoraDropout, Magnitude: v.Magnitude, Shift: v.Shift, ShiftScale: 1}
		if l.A, l.B = unpadded(v, t); s.cfg.LoraBias {
			l.ShiftScale = t.Scaling
		}
		all = append(all, l)
		delete(alone, t.Path)
	}
	for _, b := range s.biases {
		if alone[b.Path] {
			all = append(all, models.LoRA{Path: b.Path, Shift: values[b.Path].Shift, ShiftScale: 1})
		}
	}
	return append(all, s.endLoras(values)...)
}
