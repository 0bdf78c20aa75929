package training

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// Loss is what training minimizes and evaluation reports: a number per label, made of its logits. It is summed over the
// labels and, by the optimizer step, divided by how many there are. nil stands for the cross entropy.
//
// A loss sees one label at a time. One that compares whole sequences, as preference losses do, would be another field
// beside PerLabel.
type Loss struct {
	// Name tells losses apart: programs are shared between sessions whose losses have one name.
	Name string
	// PerLabel builds the loss float32 [n] of logits, float32 [n, vocab], where labels, int32 [n], should follow. It is
	// called while a program is built, and may panic. Where a label is -100, what it returns is ignored, but must be finite.
	// Gradients are taken through it.
	PerLabel func(logits, labels *Node) *Node
}

// DFT is the loss of dynamic fine-tuning (arXiv:2508.05629): the cross entropy of each label times the probability that
// the model gives it, through which no gradient flows.
func DFT() *Loss {
	return &Loss{"dft", func(logits, labels *Node) *Node {
		p := LabelLogProbs(logits, labels)
		return Neg(Mul(StopGradient(Exp(p)), p))
	}}
}

// Smoothed is the cross entropy mixed with its mean over all of the vocabulary (arXiv:1512.00567), as
// transformers.LabelSmoother has it: (1-f)·nll + f·mean, 0 < f < 1.
func Smoothed(f float64) *Loss {
	return &Loss{fmt.Sprint("smoothed ", f), func(logits, labels *Node) *Node {
		nll := Neg(LabelLogProbs(logits, labels))
		mean := Sub(logSumExp(logits), ReduceMean(logits, -1))
		return Add(MulScalar(nll, 1-f), MulScalar(mean, f))
	}}
}

// LabelLogProbs are the log-probabilities float32 [n] that logits [n, vocab] give to labels int32 [n]; -100 counts as 0.
func LabelLogProbs(logits, labels *Node) *Node {
	n, vocab := logits.Shape().Dim(0), logits.Shape().Dim(1)
	g := logits.Graph()
	labels = Reshape(MaxScalar(labels, 0), n, 1)
	hit := Equal(Iota(g, shapes.Make(dtypes.Int32, n, vocab), 1), labels)
	return Sub(ReduceSum(Where(hit, logits, ZerosLike(logits)), -1), logSumExp(logits))
}

// logSumExp is log Σ exp over the last axis.
func logSumExp(x *Node) *Node {
	top := StopGradient(ReduceAndKeep(x, ReduceMax, -1))
	return Add(Log(ReduceSum(Exp(Sub(x, top)), -1)), Squeeze(top, -1))
}
