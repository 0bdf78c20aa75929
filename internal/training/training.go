// Package training holds what a trainer and the programs that it drives say to each other: batches in, sums and
// gradient norms out. It keeps package sft free of devices and the layer-wise runner free of data sets.
package training

import (
	"context"

	"github.com/gomlx/gomlx/core/graph"
)

// IgnoreIndex marks a position without a label.
const IgnoreIndex = -100

// CountLabels is how many of labels are such.
func CountLabels(labels []int32) (n int) {
	for _, l := range labels {
		if l != IgnoreIndex {
			n++
		}
	}
	return n
}

// Batch is Rows sequences of Length tokens, row after row.
type Batch struct {
	Rows, Length int
	IDs          []int32  // token ids [Rows·Length]
	Labels       []int32  // the token that should follow each position, within its document; -100: none
	Positions    []int32  // position in the document; nil: counted from the start of the row
	Segments     []int32  // document within the row, from 1; 0: padding; nil: one document per row, no padding
	FirstLabels  []int32  // [Rows] the label of each row's first token, for virtual tokens before it to predict; -100: none; nil: none at all
	RowSeeds     []uint64 // [Rows] what the random streams of a row are keyed by; nil: its index
	NumLabels    int      // of Labels, those that are not -100
	NumTokens    int      // tokens that are not padding
	Joined       []int    // rows of each of the micro-batches that it was made of, if it was of several: see Joiner
}

// Stats are sums over a batch's labels.
type Stats struct {
	LossSum    float64 // cross entropy in nats, or SessionOptions.Loss
	EntropySum float64 // entropy of the predictions in nats
	Correct    int     // labels ranked first
	Labels     int     // labels scored
	Joined     []Stats // of each of the batch's micro-batches, if it was made of several
}

// SessionOptions configure a session. AdamW's defaults are the caller's to set.
type SessionOptions struct {
	// ResidualBudget is how many bytes of activations may be kept for the backward pass ("auto", "0", "12GiB").
	ResidualBudget string
	// Optim and OptimArgs are what [ParseOptimizer] knows. Lion takes AdamBeta1 and AdamBeta2 for its betas, as transformers
	// has it, and no AdamEpsilon.
	Optim, OptimArgs                               string
	AdamBeta1, AdamBeta2, AdamEpsilon, WeightDecay float64
	// LoRAPlusLRRatio is the learning rate of the B of a LoRA over that of its A; 0 is 1.
	LoRAPlusLRRatio float64
	// LoRAPlusEmbedding is, where that is set, the learning rate of a LoRA at the embedding over that of the others' A.
	LoRAPlusEmbedding float64
	Loss              *Loss // nil: cross entropy
	// NEFTuneNoiseAlpha is the amount of noise that is added to embeddings while training; 0: none.
	NEFTuneNoiseAlpha float64
	Seed              int64 // of dropout and noise
	// Accumulates tells that several micro-steps may add up before an Apply, so that memory is planned for their sums.
	Accumulates bool
	// Triplets has the session weigh the triplets of AdaLoRA. nil: it does not.
	Triplets *Triplets
	// Constraint is what some trained tensors are made to satisfy before each optimizer step. nil: nothing.
	Constraint *Constraint
}

// Constraint projects trained tensors of layers.
type Constraint struct {
	Name    string                              // tells constraints apart: programs are shared between sessions whose constraints have one name
	Applies func(tensor string) bool            // to a tensor of that name: "3.self_attn.q_proj.oft_R.weight"
	Project func(value *graph.Node) *graph.Node // builds the tensor, float32, that takes the place of value
}

// Triplets are AdaLoRA's settings (arXiv:2303.10512).
type Triplets struct {
	Beta1, Beta2 float64 // how much of the last step's importance and uncertainty stays
	// Orthogonal is the weight of the regularization that is added to the mean loss of each optimizer step: the sum of ‖A Aᵀ - I‖
	// and ‖Bᵀ B - I‖ over all A and B. Losses that are reported are without it.
	Orthogonal float64
	Allocator  Allocator // nil: all triplets stay
}

// Allocator decides in each optimizer step which triplets stay. They go by the number of the layer and the name of the linear that
// they are on: "3.self_attn.q_proj".
type Allocator interface {
	// Allocate tells which triplets stay in the step that so many steps came before; E of the others becomes zero. Linears that are not
	// in keep stay as they are. scores tells what each triplet is worth, before the step or after its update.
	Allocate(steps int, scores func(updated bool) (map[string][]float32, error)) (keep map[string][]bool, err error)
	// TakeBack tells, when something failed, how many steps stand: what was decided in others is void.
	TakeBack(steps int)
}

// ApplyOptions configure one optimizer step.
type ApplyOptions struct {
	LearningRate float64
	NumItems     float64 // what the summed gradients are divided by: the number of labels
	MaxGradNorm  float64 // 0: no clipping
}

// Prefetcher is a Session that can move a batch to the device while that works on what came before, for the next
// MicroStep, over the same b. Until then b must stay as it is.
type Prefetcher interface{ Prefetch(b *Batch) error }

// Joiner is a Session that may run micro-batches of a step as one larger batch, which decodes weights less often: FitsWhole
// tells whether one of that shape can keep all that its backward pass needs on the device, so that it costs no recomputation.
type Joiner interface{ FitsWhole(rows, length int) bool }

// LossScaler is a Session that may scale the loss: LossScale tells by how much, and whether the last Apply left values as
// they were because gradients were not finite; its norm then is not either.
type LossScaler interface {
	LossScale() (scale float64, skipped bool)
}

// Session trains one model. It is used by one goroutine.
type Session interface {
	// MicroStep runs forward and backward and adds the gradients of the summed loss to the sums.
	MicroStep(ctx context.Context, b *Batch) (Stats, error)
	// Apply updates with the summed gradients, clears them and returns their norm before clipping.
	Apply(ctx context.Context, o ApplyOptions) (gradNorm float64, err error)
	// Evaluate scores a batch without training.
	Evaluate(ctx context.Context, b *Batch) (Stats, error)
	// SaveState writes trainable values, moments and step count into dir; LoadState puts them back.
	SaveState(dir string) error
	LoadState(dir string) error
	MemoryInUse() (bytes int64, ok bool)
	Close() error
}
