package peft

import (
	"errors"
	"fmt"

	"github.com/loris-ml/loris/models"
)

// MergeOptions says how a merged model is saved. The zero value is the common case.
type MergeOptions struct {
	// DType of the weights. Zero: that of the base's weights on the device, or bfloat16 where the base is quantized.
	DType models.DType
	// Requantize writes the linears of a quantized base quantized again, in a folder that transformers loads with
	// bitsandbytes. That is lossy: the adapter's changes are mostly smaller than a step between two 4-bit numbers, so much
	// of what was learned is rounded away, and what stays is no longer what was trained and evaluated. To serve the
	// adapter on a quantized base, save it with SavePretrained instead.
	Requantize bool
	// SkipCheck merges unchecked, where the device has no memory for the merged weights beside the base.
	SkipCheck bool
}

// SaveMerged writes the base with the adapters in its weights, W + Scaling·B·A, as a model folder that needs no PEFT:
// config.json and model.safetensors as transformers reads them, the equal of PEFT's merge_and_unload and save_pretrained.
// Sums are formed in float32 and rounded once. The tokenizer is not written; neither base nor adapters change.
//
// First the merged weights are loaded beside the base, and where their logits are not those that the adapters give, nothing is
// written and the error is a [*models.MergeError]; see [models.SaveOptions.Merge].
//
// A quantized base is decoded first, so that the folder holds the model that was trained, in 16 bits; see
// [MergeOptions.Requantize].
func (p *PeftModel) SaveMerged(dir string, o MergeOptions) error {
	if len(p.merged) > 0 {
		return fmt.Errorf("save merged: adapters %q are merged into the base already: save that with Base().SavePretrained, or call UnmergeAdapter", p.merged)
	}
	q := p.base.Options().Quantization
	quantized := q != nil && (q.LoadIn4Bit || q.LoadIn8Bit)
	if o.Requantize && !quantized {
		return errors.New("save merged: Requantize, but the base is not quantized; leave it out, and quantize when the merged folder is loaded")
	}
	if o.DType == models.DefaultDType && quantized && !o.Requantize {
		o.DType = models.BFloat16
	}
	merge, err := p.activeLoras()
	if err != nil {
		return fmt.Errorf("save merged: %w", err)
	}
	return p.base.SaveWith(dir, models.SaveOptions{DType: o.DType, Dequantize: !o.Requantize, Merge: merge, SkipCheck: o.SkipCheck})
}
