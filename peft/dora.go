package peft

import (
	"fmt"
	"math"
	"slices"

	"github.com/loris-ml/loris/models"
)

// keyMagnitude ends the key of a DoRA's magnitude in files, as PEFT has it: without ".weight".
const keyMagnitude = ".lora_magnitude_vector"

// addMagnitudes makes new adapters DoRAs that change nothing yet: the magnitudes are the norms of the rows of
// W + Scaling·B·A. The base has the weights that it is to keep.
func (p *PeftModel) addMagnitudes(loras []models.LoRA) error {
	var paths []string
	for _, l := range loras {
		paths = append(paths, l.Path)
	}
	norms, err := p.base.RowNorms(paths)
	if err != nil {
		return err
	}
	for i, l := range loras {
		loras[i].Magnitude = norms[l.Path]
		if !slices.ContainsFunc(l.B, func(v float32) bool { return v != 0 }) {
			continue
		}
		if loras[i].Magnitude, err = p.sumNorms(l); err != nil {
			return err
		}
	}
	return nil
}

// sumNorms are the norms [Out] of the rows of W + Scaling·B·A.
func (p *PeftModel) sumNorms(l models.LoRA) ([]float32, error) {
	l.Magnitude = nil
	w, err := p.base.SumOf(l)
	if err != nil {
		return nil, err
	}
	out := len(l.B) / l.R
	in := len(w) / out
	norms := make([]float32, out)
	for o := range norms {
		square := 0.0
		for _, v := range w[o*in : (o+1)*in] {
			square += float64(v) * float64(v)
		}
		norms[o] = float32(math.Sqrt(square))
	}
	return norms, nil
}

// mergedFactors are by what merging DoRAs multiplies the rows of their weights, by path: what unmerging divides by.
func (p *PeftModel) mergedFactors(loras []models.LoRA) (map[string][]float32, error) {
	factors := map[string][]float32{}
	for _, l := range loras {
		if l.Magnitude == nil {
			continue
		}
		norms, err := p.sumNorms(l)
		if err != nil {
			return nil, err
		}
		for i, n := range norms {
			if norms[i] = l.Magnitude[i] / n; n == 0 {
				norms[i] = 1
			}
			if norms[i] == 0 {
				return nil, fmt.Errorf("module %q: the magnitude of row %d is zero: the merged weight could not be unmerged", l.Path, i)
			}
		}
		factors[l.Path] = norms
	}
	return factors, nil
}
