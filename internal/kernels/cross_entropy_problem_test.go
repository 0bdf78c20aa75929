package kernels

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
)

const testIgnore = -100

// crossEntropyForm is f, the operation or its twin, on logits and labels.
func crossEntropyForm(f func(logits, labels *Node, ignore int32, gradient bool) (loss, entropy, first, dLogits *Node), gradient bool) func(in []*Node) []*Node {
	return func(in []*Node) []*Node {
		loss, entropy, first, dLogits := f(in[0], in[1], testIgnore, gradient)
		if !gradient {
			return []*Node{loss, entropy, first}
		}
		return []*Node{loss, entropy, first, dLogits}
	}
}

// crossEntropyProblem scores logits of that deviation; labels are, in turn, what may be special.
func crossEntropyProblem(dtype dtypes.DType, rows, vocab int, deviation float64, gradient bool) problem {
	r := rand.New(rand.NewPCG(uint64(rows), uint64(vocab)))
	logits, labels := normal(r, dtype, deviation, rows, vocab), make([]int, rows)
	want := [][]float64{make([]float64, rows), make([]float64, rows), make([]float64, rows), make([]float64, rows*vocab)}
	for t := range rows {
		row := logits.floats[t*vocab : (t+1)*vocab]
		top := slices.Max(row)
		switch (t + vocab/8) % 9 {
		case 1:
			labels[t] = vocab - 1
		case 2:
			labels[t] = testIgnore
		case 3:
			labels[t] = slices.Index(row, top)
		case 4: // two rank first
			labels[t] = vocab / 2
			row[vocab/2] = top
		case 5: // as if its logit were 0, which is first
			labels[t] = -1
			for i := range row {
				row[i] = -float32(math.Abs(float64(row[i])))
			}
		case 6:
			labels[t] = vocab
		case 7: // all but certain
			labels[t] = r.IntN(vocab)
			row[labels[t]] = bf16(top + 12)
		case 8:
			labels[t] = r.IntN(vocab)
		}
		if labels[t] == testIgnore {
			continue
		}
		picked, largest, sum := 0.0, float64(slices.Max(row)), 0.0
		for _, x := range row {
			sum += math.Exp(float64(x) - largest)
		}
		logSum := largest + math.Log(sum)
		for i, x := range row {
			p := math.Exp(float64(x) - logSum)
			want[1][t] += p * (logSum - float64(x))
			if i == labels[t] {
				picked = float64(x)
				p = -(sum - math.Exp(picked-largest)) / sum
			}
			want[3][t*vocab+i] = p
		}
		want[0][t] = logSum - picked
		if picked >= largest {
			want[2][t] = 1
		}
	}
	p := problem{
		inputs: []array{logits, ints(labels...)}, want: want, precise: 3, launch: crossEntropyLaunch(dtype, rows, vocab, testIgnore, gradient),
		op: crossEntropyForm(CrossEntropy, gradient), twin: crossEntropyForm(crossEntropyTwin, gradient),
	}
	if deviation > 10 {
		p.rounding = 1e-5 // of the twin's entropy, which is a difference of numbers as large as the logits
	}
	if !gradient {
		p.want = want[:3]
		p.finish = func(out []array) []array { return out[:3] }
	}
	return p.named("CrossEntropy %s %dx%d, deviation %g, gradient %v", dtype, rows, vocab, deviation, gradient)
}
