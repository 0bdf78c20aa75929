package peft

import (
	"fmt"
	"math"
	"slices"

	"github.com/loris-ml/loris/models"
)

// SaveConverted writes the active adapters as plain LoRA, which needs no changed base: PEFT's
// save_pretrained(path_initial_model_for_weight_conversion=initial). initial is the folder that SavePretrained wrote before
// training. Adapters that started as a part of the weights (InitPiSSA, InitPiSSANiter, InitOLoRA) are then the difference
// to that, B·A − B₀·A₀ = [B, −B₀]·[A; A₀], of twice the rank and the same scaling.
//
// On a base that was quantized after its weights had changed, quantizing the original ones loses something else: there the
// converted adapters are near to those that were trained, but not their equal.
func (p *PeftModel) SaveConverted(dir, initial string) error {
	if err := p.saveConverted(dir, initial); err != nil {
		return fmt.Errorf("save converted adapters: %w", err)
	}
	return nil
}

func (p *PeftModel) saveConverted(dir, initial string) error {
	s, err := p.first().lora("A and B alone can be converted")
	if err != nil {
		return err
	}
	switch how := s.cfg.InitLoraWeights; {
	case len(p.active) > 1:
		return fmt.Errorf("adapters %q are active together: choose those to convert with SetAdapter", p.active)
	case !how.changesBase() || how == InitLoftQ:
		return fmt.Errorf(`init_lora_weights %q: adapters that started as a part of the weights are converted ("pissa", "olora"), others are saved as they are`, string(how))
	case s.cfg.UseRSLora && len(s.cfg.RankPattern)+len(s.cfg.AlphaPattern) > 0:
		return fmt.Errorf("use_rslora with rank_pattern or alpha_pattern: twice the rank would have another scaling")
	}
	if err := s.cfg.refuseBeyondLoRA("A and B alone can be converted"); err != nil {
		return err
	}
	first, err := initialWeights(initial)
	if err != nil {
		return err
	}
	values, err := p.first().loraWeights()
	if err != nil {
		return err
	}
	for i, w := range values {
		before, ok := first[w.Path]
		if !ok || before.R != w.R || before.In != w.In || before.Out != w.Out {
			return fmt.Errorf("%s: it has no adapter of rank %d on module %q: give the folder that was saved before this training", initial, w.R, w.Path)
		}
		for j := range before.B {
			before.B[j] = -before.B[j]
		}
		joined := beside(models.LoRA{R: w.R, A: w.A, B: w.B}, models.LoRA{R: before.R, A: before.A, B: before.B})
		values[i].A, values[i].B, values[i].R = joined.A, joined.B, joined.R
	}
	return SaveAdapter(dir, s.cfg.doubled(), values)
}

func initialWeights(dir string) (map[string]AdapterWeight, error) {
	_, weights, _, err := LoadAdapter(dir)
	by := map[string]AdapterWeight{}
	for _, w := range weights {
		by[w.Path] = w
	}
	return by, err
}

// doubled is the config of adapters of twice the rank that scale as before.
func (c LoraConfig) doubled() LoraConfig {
	c.InitLoraWeights = InitTrue
	c.R *= 2
	if c.UseRSLora {
		c.LoraAlpha *= math.Sqrt2
	} else {
		c.LoraAlpha *= 2
	}
	c.RankPattern, c.AlphaPattern = slices.Clone(c.RankPattern), slices.Clone(c.AlphaPattern)
	for i := range c.RankPattern {
		c.RankPattern[i].Value *= 2
	}
	for i := range c.AlphaPattern {
		c.AlphaPattern[i].Value *= 2
	}
	return c
}
