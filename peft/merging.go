package peft

import (
	"errors"
	"fmt"
	"slices"

	"github.com/loris-ml/loris/models"
)

// MergeAdapter adds the active adapters to the base's weights, W + Scaling·B·A, so that the model computes the same without
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
	if safe {
		for _, l := range loras {
			if w, err := p.base.SumOf(l); err != nil {
				return fmt.Errorf("merge: %w", err)
			} else if slices.ContainsFunc(w, notFinite) {
				return fmt.Errorf("merge: the merged weight of %q has NaN or infinite values; the adapters %q seem to be broken", l.Path, p.active)
			}
		}
	}
	if err := p.addToBase(loras); err != nil {
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
		for i := range loras {
			loras[i].Scaling = -loras[i].Scaling
		}
		err = p.addToBase(loras)
	}
	if err != nil {
		return fmt.Errorf("unmerge: %w", err)
	}
	p.merged = nil
	return nil
}

// MergedAdapters are the names of the adapters that are in the base's weights.
func (p *PeftModel) MergedAdapters() []string { return slices.Clone(p.merged) }

// addToBase replaces weights layer by layer, so that memory holds the sums of one.
func (p *PeftModel) addToBase(loras []models.LoRA) error {
	by := p.base.Altered()
	if by == "" {
		by = fmt.Sprintf("merged adapters %q", p.active)
	}
	b := &rewriter{model: p.base, by: by}
	for _, l := range loras {
		w, err := p.base.SumOf(l)
		if err == nil {
			err = b.put(l.Path, w)
		}
		if err != nil {
			return fmt.Errorf("module %q: %w", l.Path, err)
		}
	}
	return b.flush()
}

// activeLoras are the active adapters, at most one per linear, with their current values.
func (p *PeftModel) activeLoras() ([]models.LoRA, error) {
	if len(p.active) > 1 {
		return p.join(p.active)
	}
	return p.first().loras()
}
