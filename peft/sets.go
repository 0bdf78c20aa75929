package peft

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/loris-ml/loris/models"
)

// baseAdapter is the name by which PEFT means no adapter at all.
const baseAdapter = "__base__"

func newPeftModel(model *models.CausalLM, opts []Option) *PeftModel {
	return &PeftModel{base: model, sets: map[string]*adapterSet{}, opts: settings(opts)}
}

// AdapterNames are the names of all adapters, in the order in which they were added.
func (p *PeftModel) AdapterNames() []string { return slices.Clone(p.names) }

// ActiveAdapters are the names of the adapters that the model computes with.
func (p *PeftModel) ActiveAdapters() []string { return slices.Clone(p.active) }

// AdapterConfig is the configuration of the adapters of a name with its defaults filled in; false if there are none.
func (p *PeftModel) AdapterConfig(name string) (LoraConfig, bool) {
	s, ok := p.sets[name]
	if !ok {
		return LoraConfig{}, false
	}
	return s.cfg, true
}

// AddAdapter adds new adapters under another name, as [GetPeftModel] makes them. Those that were active stay so.
func (p *PeftModel) AddAdapter(name string, cfg LoraConfig) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("LoraConfig: %w", err)
	}
	if cfg.BaseModelNameOrPath == "" {
		cfg.BaseModelNameOrPath = p.base.Path()
	}
	return p.attach(name, cfg, nil)
}

// LoadAdapter adds the adapters of a folder that PEFT or SavePretrained wrote under another name, as [FromPretrained] loads
// them. Those that were active stay so.
func (p *PeftModel) LoadAdapter(name, dir string) error {
	cfg, stored, err := p.read(dir)
	if err == nil {
		err = p.attach(name, cfg, stored)
	}
	if err != nil {
		return fmt.Errorf("adapter %s: %w", dir, err)
	}
	return nil
}

// read loads a folder; the weights by path.
func (p *PeftModel) read(dir string) (LoraConfig, map[string]AdapterWeight, error) {
	cfg, weights, warnings, err := LoadAdapter(dir)
	if err != nil {
		return cfg, nil, err
	}
	for _, w := range warnings {
		p.opts.logger.Warn(w, "adapter", dir)
	}
	stored := map[string]AdapterWeight{}
	for _, w := range weights {
		stored[w.Path] = w
	}
	return cfg, stored, nil
}

// attach adds adapters for cfg: new ones, or those that are stored.
func (p *PeftModel) attach(name string, cfg LoraConfig, stored map[string]AdapterWeight) error {
	if err := p.checkName(name); err != nil {
		return err
	}
	s, loras, err := p.make(cfg, stored)
	if err != nil {
		return err
	}
	return p.add(name, s, loras)
}

// add puts adapters onto the device under a name that is free.
func (p *PeftModel) add(name string, s *adapterSet, loras []models.LoRA) (err error) {
	if loras, err = p.hot.lay(s.cfg, loras); err != nil {
		return err
	}
	if s.weights, err = p.base.NewAdapters(loras); err != nil {
		return err
	}
	p.sets[name], p.names = s, append(p.names, name)
	if len(p.active) == 0 {
		p.active = []string{name}
	}
	return nil
}

// checkName refuses names that are taken, or that cannot be part of a key or the name of a folder.
func (p *PeftModel) checkName(name string) error {
	switch {
	case p.sets[name] != nil:
		return fmt.Errorf("adapter name %q is taken; delete those adapters first, or choose another name", name)
	case name == "" || name == baseAdapter || strings.ContainsAny(name, `./\`):
		return fmt.Errorf("adapter name %q: it must be no path, hold no dots and be none of \"\" and %q", name, baseAdapter)
	case len(p.merged) > 0:
		return fmt.Errorf("adapters %q are merged into the base: call UnmergeAdapter before adding others", p.merged)
	}
	return nil
}

// make resolves cfg on the base and returns its adapters with the values that they begin with.
func (p *PeftModel) make(cfg LoraConfig, stored map[string]AdapterWeight) (*adapterSet, []models.LoRA, error) {
	r, err := ResolveTargets(cfg, p.base.Config().ModelType(), p.modules())
	if err != nil {
		return nil, nil, err
	}
	for _, w := range r.Warnings {
		p.opts.logger.Warn(w)
	}
	if err := r.Config.checkEndTargets(r.Targets); err != nil {
		return nil, nil, err
	}
	if stored != nil {
		if err := p.checkStored(r.Targets, stored); err != nil {
			return nil, nil, err
		}
	}
	s := &adapterSet{cfg: r.Config, targets: r.Targets}
	base, err := p.startFromBase(s, stored != nil)
	if err != nil {
		return nil, nil, err
	}
	var loras []models.LoRA
	for _, t := range s.targets {
		l := models.LoRA{Path: t.Path, R: t.R, Scaling: t.Scaling, Dropout: s.cfg.LoraDropout, Magnitude: stored[t.Path].Magnitude}
		w, ok := stored[t.Path]
		switch {
		case base != nil:
			l.A, l.B, err = base.values(t)
		case !ok:
			l.A, l.B, err = InitAdapter(p.opts.seed, t.Path, s.cfg.InitLoraWeights, t.R, t.In, t.Out)
		}
		if err != nil {
			return nil, nil, err
		}
		if ok {
			l.A, l.B = w.A, w.B
		}
		loras = append(loras, l)
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

// startFromBase returns what takes first values out of the base's weights, nil where adapters start otherwise; it may change
// the set's config: see LoftQConfig.
func (p *PeftModel) startFromBase(s *adapterSet, stored bool) (base *baseInit, err error) {
	if !s.cfg.InitLoraWeights.changesBase() {
		if by := p.base.Altered(); by != "" {
			p.opts.logger.Warn("the base's weights are no longer those that it was loaded with; adapters that were trained on those do not fit", "replaced for", by)
		}
		return nil, nil
	}
	if _, randomized := s.cfg.InitLoraWeights.niter(); randomized && stored {
		p.opts.logger.Warn("the base's weights are made again by random numbers, which must be those of the training: with the same peft.Seed, they are; adapters that PEFT trained fit only after conversion (path_initial_model_for_weight_conversion)",
			"init_lora_weights", s.cfg.InitLoraWeights)
	}
	base, s.cfg, err = newBaseInit(p.base, s.cfg, s.targets, p.opts.seed, stored)
	return base, err
}

// modules are those of the base that may be targeted.
func (p *PeftModel) modules() (all []Module) {
	e := p.base.Embedding()
	all = append(all, Module{Path: e.Path, In: e.In, Out: e.Out, IsEmbed: true})
	for _, l := range p.base.Linears() {
		all = append(all, Module{Path: l.Path, In: l.In, Out: l.Out, IsHead: l.Head})
	}
	return all
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

// SetAdapter makes the adapters of these names the active ones, and no others. Of several, the contributions add up; they
// can be used together, but not trained, and are joined as they are now.
//
// Choosing adapters of the same ranks, scaling and targets as those before compiles nothing and copies nothing; others have
// programs of their own, which are compiled when they are first used: see [PeftModel.PrepareHotswap].
func (p *PeftModel) SetAdapter(names ...string) error {
	if len(names) == 0 {
		return errors.New("SetAdapter: name the adapters; DisableAdapters is to use none")
	}
	if len(p.merged) > 0 {
		return fmt.Errorf("SetAdapter: adapters %q are merged into the base: call UnmergeAdapter first", p.merged)
	}
	for i, n := range names {
		if err := p.known(n); err != nil {
			return fmt.Errorf("SetAdapter: %w", err)
		}
		if slices.Contains(names[:i], n) {
			return fmt.Errorf("SetAdapter: adapter %q is named twice", n)
		}
	}
	var sum models.Adapters
	if len(names) > 1 {
		joined, err := p.join(names)
		if err == nil {
			sum, err = p.base.NewAdapters(joined)
		}
		if err != nil {
			return fmt.Errorf("SetAdapter: %w", err)
		}
	}
	old := p.sum
	p.active, p.sum = slices.Clone(names), sum
	return old.Close()
}

func (p *PeftModel) known(name string) error {
	if p.sets[name] == nil {
		return fmt.Errorf("there are no adapters %q; there are %q", name, p.names)
	}
	return nil
}

// join are adapters that contribute what those of all names do: their ranks side by side, their scaling in B.
func (p *PeftModel) join(names []string) ([]models.LoRA, error) {
	var order []string
	by := map[string]models.LoRA{}
	for _, n := range names {
		if err := p.sets[n].cfg.refuseBeyondLoRA(fmt.Sprintf("what adapter %q does is no sum with others", n)); err != nil {
			return nil, err
		}
		loras, err := p.sets[n].loras()
		if err != nil {
			return nil, err
		}
		for _, l := range loras {
			l.Dropout = 0
			for i := range l.B {
				l.B[i] *= float32(l.Scaling)
			}
			l.Scaling = 1
			if before, ok := by[l.Path]; ok {
				l = beside(before, l)
			} else {
				order = append(order, l.Path)
			}
			by[l.Path] = l
		}
	}
	var all []models.LoRA
	for _, path := range order {
		all = append(all, by[path])
	}
	return all, nil
}

// beside is one adapter that contributes x and y, which have one scaling: [A; A'] and [B, B'].
func beside(x, y models.LoRA) models.LoRA {
	out, r := len(x.B)/x.R, x.R+y.R
	b := make([]float32, 0, out*r)
	for o := range out {
		b = append(append(b, x.B[o*x.R:(o+1)*x.R]...), y.B[o*y.R:(o+1)*y.R]...)
	}
	x.A, x.B, x.R = slices.Concat(x.A, y.A), b, r
	return x
}

// DeleteAdapter frees the adapters of a name. If they were active alone, the first of those that remain are active then; the
// last ones cannot be deleted.
func (p *PeftModel) DeleteAdapter(name string) error {
	if err := p.known(name); err != nil {
		return fmt.Errorf("DeleteAdapter: %w", err)
	}
	if len(p.names) == 1 {
		return fmt.Errorf("DeleteAdapter: %q are the only adapters; close the PeftModel to be rid of them, or use DisableAdapters", name)
	}
	if slices.Contains(p.merged, name) {
		return fmt.Errorf("DeleteAdapter: adapters %q are merged into the base: call UnmergeAdapter first", name)
	}
	without := func(names []string) []string {
		return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
	}
	if slices.Contains(p.active, name) && len(p.merged) == 0 {
		rest := without(p.active)
		if len(rest) == 0 {
			rest = without(p.names)[:1]
		}
		if err := p.SetAdapter(rest...); err != nil {
			return err
		}
	}
	s := p.sets[name]
	delete(p.sets, name)
	p.names = without(p.names)
	return s.weights.Close()
}

// DisableAdapters runs f while the model computes what its base does, and enables the adapters again, whatever f does.
func (p *PeftModel) DisableAdapters(f func() error) error {
	if len(p.merged) > 0 {
		return fmt.Errorf("DisableAdapters: adapters %q are merged into the base: call UnmergeAdapter first", p.merged)
	}
	p.disabled++
	defer func() { p.disabled-- }()
	return f()
}

// seen are the adapters that programs get.
func (p *PeftModel) seen() models.Adapters {
	switch {
	case p.disabled > 0 || len(p.merged) > 0:
		return nil
	case p.sum != nil:
		return p.sum
	}
	return p.first().weights
}
