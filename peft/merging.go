package peft

import (
	"errors"
	"fmt"
	"slices"

	"github.com/loris-ml/loris/models"
)

// MergeAdapter puts the active adapters into the base's weights, W + Scaling·B·A or what a DoRA makes of it, so that the model computes the same without
// them: PEFT's merge_adapter. Sums are formed in float32 and rounded once to the format that the weights have on the device.
// Everyone who uses the base gets the new weights. Unlike [PeftModel.SaveMerged], which writes a folder and changes nothing,
// it quantizes the weights of a quantized base anew, which loses most of a small adapter.
//
// With safe, weights that have NaN or infinite values are an error before anything is changed, at the price of computing the
// sums twice.
func (p *PeftModel) MergeAdapter(safe bool) error {
	if len(p.merged) > 0 {
		return fmt.Errorf("merge: adapters %q are merged already", p.merged)
	}
	loras, err := p.activeLoras()
	if err != nil {
		return fmt.Errorf("merge: %w", err)
	}
	for _, n := range p.active {
		if err := p.sets[n].refuseEnds("the model's ends are not merged in place; use SaveMerged"); err != nil {
			return fmt.Errorf("merge: %w", err)
		}
	}
	if err := p.checkBiases(loras); err != nil {
		return fmt.Errorf("merge: %w", err)
	}
	if safe {
		for _, l := range loras {
			if l.R == 0 && l.Tuned == nil {
				continue
			}
			if w, err := p.base.SumOf(l); err != nil {
				return fmt.Errorf("merge: %w", err)
			} else if slices.ContainsFunc(w, notFinite) {
				return fmt.Errorf("merge: the merged weight of %q has NaN or infinite values; the adapters %q seem to be broken", l.Path, p.active)
			}
		}
	}
	if p.factors, err = p.mergedFactors(loras); err != nil {
		return fmt.Errorf("merge: %w", err)
	}
	if err := p.replaceInBase(loras, 1, p.base.SumOf); err != nil {
		return fmt.Errorf("merge: %w", err)
	}
	p.merged = slices.Clone(p.active)
	return nil
}

// UnmergeAdapter takes the adapters that MergeAdapter added out of the base's weights again. In formats of 16 bits, and much
// more so in quantized ones, rounding leaves traces; load the base anew to be rid of them.
func (p *PeftModel) UnmergeAdapter() error {
	if len(p.merged) == 0 {
		return errors.New("unmerge: no adapters are merged")
	}
	loras, err := p.activeLoras()
	if err == nil {
		err = p.replaceInBase(loras, -1, p.without)
	}
	if err != nil {
		return fmt.Errorf("unmerge: %w", err)
	}
	p.merged, p.factors = nil, nil
	return nil
}

// MergedAdapters are the names of the adapters that are in the base's weights.
func (p *PeftModel) MergedAdapters() []string { return slices.Clone(p.merged) }

// without is the weight of a linear less an adapter that is merged into it.
func (p *PeftModel) without(l models.LoRA) ([]float32, error) {
	w, err := p.base.Tensor(l.Path + ".weight")
	if err != nil {
		return nil, err
	}
	if l.Tuned != nil {
		l.Tuned.Unmerge.Weight(w)
		return w, nil
	}
	if f := p.factors[l.Path]; f != nil {
		in := len(w) / len(f)
		for i := range w {
			w[i] /= f[i/in]
		}
	}
	subtract(w, l.Scaling, l.A, l.B, l.R)
	return w, nil
}

// checkBiases refuses what is added to outputs of linears that have no bias for it.
func (p *PeftModel) checkBiases(loras []models.LoRA) error {
	has := map[string]bool{}
	for _, l := range p.base.Linears() {
		has[l.Path] = l.Bias
	}
	for _, l := range loras {
		bias := l.Shift != nil || l.Tuned != nil && l.Tuned.Merge.Bias != nil && has[l.Path]
		if q := p.base.Options().Quantization; bias && q != nil && (q.LoadIn4Bit || q.LoadIn8Bit) {
			return errors.New("biases cannot be replaced on a quantized base; use SaveMerged")
		}
		if l.Shift != nil && !has[l.Path] {
			return fmt.Errorf("module %q has no bias that lora_bias could be merged into", l.Path)
		}
	}
	return nil
}

// replaceInBase replaces weights layer by layer, so that memory holds those of one; biases by what is added to them, times
// sign.
func (p *PeftModel) replaceInBase(loras []models.LoRA, sign float32, weight func(models.LoRA) ([]float32, error)) error {
	by := p.base.Altered()
	if by == "" {
		by = fmt.Sprintf("merged adapters %q", p.active)
	}
	b := &rewriter{model: p.base, by: by}
	biases := map[string][]float32{}
	for _, l := range loras {
		if l.Shift != nil {
			own, err := p.base.Tensor(l.Path + ".bias")
			if err != nil {
				return err
			}
			for i, v := range l.Shift {
				own[i] += sign * float32(l.ShiftScale) * v
			}
			biases[l.Path] = own
		}
		if l.Tuned != nil {
			if err := p.changeBias(l, sign, biases); err != nil {
				return err
			}
		}
		if l.R == 0 && l.Tuned == nil {
			continue
		}
		w, err := weight(l)
		if err == nil {
			err = b.put(l.Path, w)
		}
		if err != nil {
			return fmt.Errorf("module %q: %w", l.Path, err)
		}
	}
	if err := b.flush(); err != nil {
		return err
	}
	return p.base.ReplaceBiases(by, biases)
}

// changeBias puts what an adapter makes of a bias into biases, or with a negative sign takes it out.
func (p *PeftModel) changeBias(l models.LoRA, sign float32, biases map[string][]float32) error {
	change := l.Tuned.Merge.Bias
	if sign < 0 {
		change = l.Tuned.Unmerge.Bias
	}
	if change == nil || !slices.ContainsFunc(p.base.Linears(), func(m models.Linear) bool { return m.Path == l.Path && m.Bias }) {
		return nil
	}
	own, err := p.base.Tensor(l.Path + ".bias")
	if err == nil {
		change(own)
		biases[l.Path] = own
	}
	return err
}

// activeLoras are the active adapters, at most one per linear, with their current values.
func (p *PeftModel) activeLoras() ([]models.LoRA, error) {
	if len(p.active) > 1 {
		return p.join(p.active)
	}
	return p.first().loras()
}
