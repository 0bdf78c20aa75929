package kernels

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/seam"
)

// CrossEntropy scores rows of logits [n, vocab] against labels [n], int32:
//
//	loss [n]           = log Σ exp(logits) − logits[label], the cross entropy
//	entropy [n]        = −Σ p·log p, of p = softmax(logits), in nats
//	first [n]          = 1 if no logit is larger than the label's, else 0
//	dLogits [n, vocab] = p − onehot(label), the gradient of the summed loss, of logits' dtype
//
// the first three in float32; everything is computed in it. All four are zero where the label is ignore; a label that is no column
// picks nothing, as if its logit were 0. Without gradient dLogits is nil.
//
// The kernel takes bfloat16, and a vocab that is a multiple of 8. dLogits takes the memory of logits, where the program may have it.
func CrossEntropy(logits, labels *Node, ignore int32, gradient bool) (loss, entropy, first, dLogits *Node) {
	const op = "CrossEntropy"
	rows, vocab := checkMatrix(op, "logits", logits)
	if vocab == 0 {
		panic(fmt.Errorf("kernels: %s: logits have no columns", op))
	}
	check(op, "labels", labels, dtypes.Int32, rows)
	if k := crossEntropyLaunch(logits.DType(), rows, vocab, ignore, gradient).use(logits.Graph()); k != nil {
		out := k.call(logits, labels)
		if !gradient {
			return out[0], out[1], out[2], nil
		}
		return out[0], out[1], out[2], out[3]
	}
	return crossEntropyTwin(logits, labels, ignore, gradient)
}

func crossEntropyTwin(logits, labels *Node, ignore int32, gradient bool) (loss, entropy, first, dLogits *Node) {
	g, dtype := logits.Graph(), logits.DType()
	logits = wide(logits)
	n, vocab := logits.Shape().Dim(0), logits.Shape().Dim(1)
	labels = Reshape(labels, n, 1)
	scored := ConvertDType(NotEqual(labels, Const(g, ignore)), dtypes.Float32) // [n, 1]
	hit := Equal(Iota(g, shapes.Make(dtypes.Int32, n, vocab), 1), labels)
	top := ReduceAndKeep(logits, ReduceMax, -1)
	e := Exp(Sub(logits, top))
	z := ReduceAndKeep(e, ReduceSum, -1)
	logSum := Add(top, Log(z))
	picked := ReduceAndKeep(Where(hit, logits, ZerosLike(logits)), ReduceSum, -1)
	// Σ p log p needs no pass of its own: Σ p·logits is Σ e·logits over z.
	entropy = Sub(logSum, Div(ReduceAndKeep(Mul(e, logits), ReduceSum, -1), z))
	first = ConvertDType(GreaterOrEqual(picked, top), dtypes.Float32)
	score := func(v *Node) *Node { return Reshape(Mul(v, scored), n) }
	loss, entropy, first = score(Sub(logSum, picked)), score(entropy), score(first)
	if gradient {
		dLogits = ConvertDType(Mul(Sub(Div(e, z), ConvertDType(hit, dtypes.Float32)), scored), dtype)
	}
	return loss, entropy, first, dLogits
}

// What cross_entropy.cu has.
const (
	crossEntropyThreads = 512                     // of a block; two of them are at work on a multiprocessor
	crossEntropyStep    = 4 * crossEntropyThreads // chunks that a block reads at once, of which it keeps whole ones

	// So many steps of a row are kept in shared memory between the sums and the gradient: 64 KiB, for which compute capabilities
	// 8.0 and 9.0 have room twice.
	crossEntropyKept = 2
)

func crossEntropyLaunch(dtype dtypes.DType, rows, vocab int, ignore int32, gradient bool) *launch {
	if dtype != dtypes.BFloat16 || vocab%chunk != 0 || vocab == 0 || rows == 0 || rows > maxRows {
		return nil
	}
	scores := shapes.Make(dtypes.Float32, rows)
	k := &launch{
		kernel: "cross_entropy", grid: [3]int{rows}, threads: crossEntropyThreads,
		sizes: []int32{int32(vocab / chunk), ignore, flag(gradient), 0},
		out:   []shapes.Shape{scores, scores, scores, shapes.Make(dtype, rows, vocab)},
	}
	if gradient {
		k.aliases = []seam.Alias{{Result: 3, Operand: 0}}
		kept := min(crossEntropyKept, ceilDiv(vocab/chunk, crossEntropyStep)) * crossEntropyStep
		k.sizes[3], k.shared = int32(kept), kept*2*chunk
	} else {
		k.out[3] = shapes.Make(dtype, 1) // never written
	}
	return k
}
