package peft

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/loris-ml/loris/models"
)

// hotswap is the one form in which all adapters lie on the device.
type hotswap struct {
	rank  int
	dora  bool
	sizes map[string]Target    // In and Out of the linears that have an adapter, by path
	norms map[string][]float32 // of DoRA: the magnitudes of linears that an adapter leaves alone
}

// PrepareHotswap gives all adapters one form on the device: the same rank, padded by zeros, the scaling beside it, and the
// same linears, so that they share their programs. Then choosing among adapters of any ranks up to targetRank, and replacing
// them by [PeftModel.Hotswap], compiles nothing. It mirrors PEFT's prepare_model_for_compiled_hotswap.
//
// targetRank 0 is the largest rank that there is. The linears are those that any adapter is on now; adapters that are added
// later may be on some of them, but on no others. The adapters can no longer be trained; they are saved as they were.
func (p *PeftModel) PrepareHotswap(targetRank int) error {
	first, err := p.first().lora(onlyLoraSwaps)
	if err != nil {
		return fmt.Errorf("PrepareHotswap: %w", err)
	}
	h := &hotswap{rank: targetRank, dora: first.cfg.UseDora, sizes: map[string]Target{}}
	for _, s := range p.sets {
		for _, t := range s.targeted() {
			h.sizes[t.Path] = t
			if targetRank == 0 {
				h.rank = max(h.rank, t.R)
			}
		}
	}
	if h.dora {
		if h.norms, err = p.base.RowNorms(slices.Collect(maps.Keys(h.sizes))); err != nil {
			return fmt.Errorf("PrepareHotswap: %w", err)
		}
	}
	fresh := map[string]models.Adapters{}
	fail := func(err error) error {
		for _, a := range fresh {
			err = errors.Join(err, a.Close())
		}
		return fmt.Errorf("PrepareHotswap: %w", err)
	}
	for _, name := range p.names {
		loras, err := p.sets[name].loras()
		if err == nil {
			loras, err = h.lay(p.sets[name], loras)
		}
		if err == nil {
			fresh[name], err = p.base.NewAdapters(loras)
		}
		if err != nil {
			return fail(fmt.Errorf("adapter %q: %w", name, err))
		}
	}
	p.hot = h
	var errs []error
	for name, a := range fresh {
		errs = append(errs, p.sets[name].weights.Close())
		p.sets[name].weights = a
	}
	return errors.Join(errs...)
}

const onlyLoraSwaps = "LoRA adapters alone take turns in one form"

// lay gives adapters the form; it leaves them alone where h is nil.
func (h *hotswap) lay(s *adapterSet, loras []models.LoRA) ([]models.LoRA, error) {
	if h == nil {
		return loras, nil
	}
	set, err := s.lora(onlyLoraSwaps)
	if err != nil {
		return nil, err
	}
	cfg := set.cfg
	if cfg.LoraBias || cfg.Bias != BiasNone {
		return nil, fmt.Errorf("bias %q, lora_bias %v: adapters that take turns train no biases", cfg.Bias, cfg.LoraBias)
	}
	if slices.ContainsFunc(loras, func(l models.LoRA) bool { return atEnd(l.Path) }) {
		return nil, errors.New("adapters that take turns have nothing at the model's ends: embed_tokens, lm_head")
	}
	if cfg.UseDora != h.dora {
		return nil, fmt.Errorf("use_dora is %v, that of others %v: adapters that take turns must agree", cfg.UseDora, h.dora)
	}
	rest := maps.Clone(h.sizes)
	for i := range loras {
		l := &loras[i]
		if _, ok := rest[l.Path]; !ok {
			return nil, fmt.Errorf("module %q had no adapter when PrepareHotswap was called; call it again with these adapters there, or leave the module out", l.Path)
		}
		if l.R > h.rank {
			return nil, fmt.Errorf("module %q: rank %d is more than the %d of PrepareHotswap", l.Path, l.R, h.rank)
		}
		delete(rest, l.Path)
		l.PadTo, l.Dropout = h.rank, 0
	}
	for _, path := range slices.Sorted(maps.Keys(rest)) {
		t := rest[path]
		loras = append(loras, models.LoRA{Path: path, R: h.rank, PadTo: h.rank, A: make([]float32, h.rank*t.In), B: make([]float32, t.Out*h.rank), Magnitude: h.norms[path]})
	}
	return loras, nil
}

// Hotswap replaces the adapters of a name by those of a folder, as PEFT's hotswap_adapter does. They must be of the same form
// on the device, so that nothing has to be compiled: of the same ranks, scaling, dropout and linears, or prepared by
// [PeftModel.PrepareHotswap]. After an error the adapters are as before.
func (p *PeftModel) Hotswap(name, dir string) error {
	if err := p.hotswap(name, dir); err != nil {
		return fmt.Errorf("hotswap %q by %s: %w", name, dir, err)
	}
	return nil
}

func (p *PeftModel) hotswap(name, dir string) error {
	if err := p.known(name); err != nil {
		return err
	}
	switch {
	case len(p.merged) > 0:
		return fmt.Errorf("adapters %q are merged into the base: call UnmergeAdapter first", p.merged)
	case p.sum != nil && slices.Contains(p.active, name):
		return errors.New("they are active together with others: choose with SetAdapter first")
	}
	return p.read(dir, func(cfg Config, from *weightsFile) error { return p.swap(name, cfg, from) })
}

func (p *PeftModel) swap(name string, cfg Config, from *weightsFile) error {
	if c, ok := cfg.(LoraConfig); ok {
		if how := c.WithDefaults().InitLoraWeights; how.changesBase() {
			return fmt.Errorf("its base has other weights (init_lora_weights %q); convert it with SaveConverted", string(how))
		}
	}
	made, loras, err := cfg.attach(p, from)
	s := &adapterSet{tuner: made}
	if err == nil {
		loras, err = p.hot.lay(s, loras)
	}
	if err != nil {
		return err
	}
	if s.weights, err = p.base.NewAdapters(loras); err != nil {
		return err
	}
	old := p.sets[name]
	if !s.weights.SharePrograms(old.weights) {
		return errors.Join(errors.New("its ranks, scaling, dropout or modules differ; call PrepareHotswap first"), s.weights.Close())
	}
	p.sets[name] = s
	return old.weights.Close()
}
