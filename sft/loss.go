package sft

import (
	"github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/training"
)

// Loss is what training minimizes and evaluation reports, as a function of logits and labels: a value for SFTConfig.Loss.
type Loss = training.Loss

// LabelLogProbs are the log-probabilities float32 [n] that logits float32 [n, vocab] give to labels int32 [n], for a
// Loss.PerLabel; the label -100, which a Loss may be given, counts as 0. The cross entropy is their negative.
func LabelLogProbs(logits, labels *graph.Node) *graph.Node {
	return training.LabelLogProbs(logits, labels)
}

// loss is what the session minimizes; nil: the cross entropy.
func (c SFTConfig) loss() *Loss {
	switch {
	case c.Loss != nil:
		return c.Loss
	case c.LossType == "dft":
		return training.DFT()
	case c.LabelSmoothingFactor > 0:
		return training.Smoothed(c.LabelSmoothingFactor)
	}
	return nil
}
