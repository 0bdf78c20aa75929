package peft

import (
	"errors"
	"fmt"
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
func (p *PeftModel) AdapterConfig(name string) (Config, bool) {
	s, ok := p.sets[name]
	if !ok {
		return nil, false
	}
	return s.config(), true
}

// AddAdapter adds new adapters under another name, as [GetPeftModel] makes them. Those that were active stay so.
func (p *PeftModel) AddAdapter(name string, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("%s: %w", strings.TrimPrefix(fmt.Sprintf("%T", cfg), "peft."), err)
	}
	return p.attach(name, cfg.of(p.base.Path()), nil)
}

// LoadAdapter adds the adapters of a folder that PEFT or SavePretrained wrote under another name, as [FromPretrained] loads
// them. Those that were active stay so.
func (p *PeftModel) LoadAdapter(name, dir string) error {
	err := p.read(dir, func(cfg Config, from *weightsFile) error { return p.attach(name, cfg, from) })
	if err != nil {
		return fmt.Errorf("adapter %s: %w", dir, err)
	}
	return nil
}

// read opens a folder for as long as use works on it.
func (p *PeftModel) read(dir string, use func(Config, *weightsFile) error) error {
	cfg, warnings, err := ReadConfig(dir)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		p.opts.logger.Warn(w, "adapter", dir)
	}
	from, err := openWeights(dir)
	if err != nil {
		return err
	}
	defer from.Close()
	return use(cfg, from)
}

// attach adds adapters for cfg: new ones, or those of a file.
func (p *PeftModel) attach(name string, cfg Config, from *weightsFile) error {
	if err := p.checkName(name); err != nil {
		return err
	}
	made, loras, err := cfg.attach(p, from)
	if err != nil {
		return err
	}
	return p.add(name, &adapterSet{tuner: made}, loras)
}

// add puts adapters onto the device under a name that is free.
func (p *PeftModel) add(name string, s *adapterSet, loras []models.LoRA) (err error) {
	if loras, err = p.hot.lay(s, loras); err != nil {
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

// warnAltered warns that the base is not what adapters were trained on.
func (p *PeftModel) warnAltered() {
	if by := p.base.Altered(); by != "" {
		p.opts.logger.Warn("the base's weights are no longer those that it was loaded with; adapters that were trained on those do not fit", "replaced for", by)
	}
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
		if err := p.sets[n].refuseBeyondLoRA(fmt.Sprintf("what adapter %q does is no sum with others", n)); err != nil {
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
