package layerwise

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/quant"
)

// What bitsandbytes' 8-bit optimizers have: values that share a scale, and the size from which a tensor's moments are
// 8-bit (min_8bit_size).
const (
	momentBlock  = 256
	min8BitSize  = 4096
	absmaxSuffix = ".absmax"
)

// optimizer is an update rule with its hyper-parameters, and how moments are kept.
type optimizer struct {
	training.Optimizer
	beta1, beta2, epsilon, weightDecay float64
	loraPlus                           float64      // learning rate of a LoRA's B over that of its A
	loraPlusEmbedding                  float64      // that of a LoRA at the embedding over the others' A
	rankBeta1, rankBeta2               float64      // of AdaLoRA's importances; 0: they are not kept
	search                             quant.Search // of 8-bit codes
}

func newOptimizer(o training.SessionOptions, d *backend.Device) (optimizer, error) {
	kind, err := training.ParseOptimizer(o.Optim, o.OptimArgs)
	if err != nil {
		return optimizer{}, err
	}
	search := quant.ByTable // each kind of device has the codes of bitsandbytes' kernels for that kind
	if d.Kind == backend.CUDA {
		search = quant.Nearest
	}
	ratio, embedding := o.LoRAPlusLRRatio, o.LoRAPlusEmbedding
	if ratio == 0 {
		ratio, embedding = 1, 1
	}
	made := optimizer{kind, o.AdamBeta1, o.AdamBeta2, o.AdamEpsilon, o.WeightDecay, ratio, embedding, 0, 0, search}
	if o.Triplets != nil {
		made.rankBeta1, made.rankBeta2 = o.Triplets.Beta1, o.Triplets.Beta2
	}
	return made, nil
}

// form is what the program that updates a parameter depends on, beside the parameter's shape.
type form struct {
	rule  training.Rule // Muon's is AdamW for what is no matrix of a layer
	eight bool          // moments in 8 bits
	decay float64       // weight decay
	rate  float64       // factor on the learning rate
	rows  string        // of the tensors joined in it, where the rule takes each by itself
	ranks bool          // its importance is kept: see ranks.go
	bound string        // the name of the constraint on it, "" if there is none
}

func (o optimizer) form(p param) form {
	f := form{rule: o.Rule, rate: 1, ranks: o.rankBeta1 > 0 && inTriplet(p.name)}
	f.eight = o.EightBit && !p.fullMoments && (*p.at).Size() >= min8BitSize
	if p.decay {
		f.decay = o.weightDecay
	}
	if p.plus {
		f.rate = o.loraPlus
	}
	if p.embedding {
		f.rate = o.loraPlusEmbedding
	}
	matrix := (*p.at).Rank() == 2
	if o.Rule == training.Muon && !(matrix && p.hidden) {
		f.rule = training.AdamW
	}
	if f.rule == training.Muon || f.rule == training.Adafactor {
		f.rows = fmt.Sprint(p.joined())
	}
	return f
}

// key is what the program that updates parameters of these forms depends on. Every field is in it: the name that String gives does
// not tell betas or momentum apart, and sessions of one model share their programs.
func (o optimizer) key(forms []form) string { return fmt.Sprintf("%#v %v", o, forms) }

// moment is one moment of a parameter as the rule has it.
type moment struct {
	name   string
	shape  []int
	signed bool // its 8-bit codes are those of signed numbers
}

// moments are those of p, by its rule.
func (o optimizer) moments(p param) []moment {
	dims := (*p.at).Shape().Dimensions
	m, v := moment{"m", dims, true}, moment{"v", dims, false}
	switch o.form(p).rule {
	case training.Lion, training.Muon:
		return []moment{m}
	case training.SGD:
		if o.Momentum == 0 {
			return nil
		}
		return []moment{m}
	case training.Adafactor:
		if len(dims) == 2 { // of each joined tensor: means over its columns, and over its rows
			return []moment{{"row", []int{dims[0]}, false}, {"col", []int{len(p.joined()), dims[1]}, false}}
		}
		return []moment{v}
	}
	return []moment{m, v}
}

// held is a tensor of a parameter's state.
type held struct {
	name  string // "m", "m.absmax"
	shape shapes.Shape
}

// state are the tensors that hold the moments of p: float32, or uint8 codes [n] and float32 scales [ceil(n/256)]
// (bitsandbytes' state and absmax).
func (o optimizer) state(p param) (ts []held) {
	n := (*p.at).Size()
	for _, m := range o.moments(p) {
		if !o.form(p).eight {
			ts = append(ts, held{m.name, shapes.Make(dtypes.Float32, m.shape...)})
			continue
		}
		ts = append(ts, held{m.name, shapes.Make(dtypes.Uint8, n)},
			held{m.name + absmaxSuffix, shapes.Make(dtypes.Float32, (n+momentBlock-1)/momentBlock)})
	}
	if o.form(p).ranks {
		dims := (*p.at).Shape().Dimensions
		ts = append(ts, held{"importance", shapes.Make(dtypes.Float32, dims...)}, held{"uncertainty", shapes.Make(dtypes.Float32, dims...)})
	}
	return ts
}

// start gives the group moments of zero. Codes and scales of 0 stand for it in bitsandbytes too.
func (o optimizer) start(g *group, d *backend.Device) error {
	for _, p := range g.params {
		for _, s := range o.state(p) {
			t, err := d.Upload(s.shape, make([]byte, s.shape.ByteSize()))
			if err != nil {
				return fmt.Errorf("moments of the optimizer: %w", err)
			}
			g.state = append(g.state, t)
		}
	}
	return nil
}

// decode turns the tensors of a parameter's state into its moments, float32 in the parameter's shape dims where they are
// in 8 bits. It returns the tensors behind them, too.
func decode(ms []moment, eight bool, dims []int, in []*Node) (values, rest []*Node) {
	for _, m := range ms {
		if !eight {
			values, in = append(values, in[0]), in[1:]
			continue
		}
		x := quant.DequantizeBlockwiseNode(in[0], in[1], quant.DynamicMap(m.signed), momentBlock)
		values, in = append(values, Reshape(x, dims...)), in[2:]
	}
	return values, in
}

// encode is the inverse of decode.
func (o optimizer) encode(ms []moment, eight bool, values []*Node) (out []*Node) {
	if !eight {
		return values
	}
	for i, m := range ms {
		codes, absmax := quant.QuantizeBlockwiseNode(values[i], quant.DynamicMap(m.signed), momentBlock, o.search)
		out = append(out, codes, absmax)
	}
	return out
}
