package peft

import (
	"fmt"
	"strings"

	"gonum.org/v1/gonum/mat"

	"github.com/gomlx/compute/dtypes"

	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/quant"
)

// baseInit takes adapters' first values out of the base's weights, and puts what is left into the base.
type baseInit struct {
	cfg  LoraConfig // with defaults
	seed int64
	rewriter
}

// layersPrefix begins the paths of linears whose weights can be replaced.
const layersPrefix = "model.layers."

// newBaseInit refuses what PEFT refuses, and a base that another such adapter has changed already. The config may come back
// changed: see LoftQConfig.
func newBaseInit(model *models.CausalLM, cfg LoraConfig, targets []Target, seed int64, stored bool) (*baseInit, LoraConfig, error) {
	how, q := cfg.InitLoraWeights, model.Options().Quantization
	fail := func(text string) (*baseInit, LoraConfig, error) {
		return nil, cfg, fmt.Errorf("init_lora_weights %q: %s", string(how), text)
	}
	quantized := q != nil && (q.LoadIn4Bit || q.LoadIn8Bit)
	switch by := model.Altered(); {
	case by != "":
		return fail(fmt.Sprintf("the base's weights have been replaced already, for %s; load it anew", by))
	case quantized && how == InitLoftQ && stored:
		return fail("the adapters were trained on an unquantized base, of which they replaced the weights; load that")
	case quantized && how == InitLoftQ && cfg.LoftQConfig.withDefaults().LoftQIter != 1:
		return fail("on a quantized base, loftq_iter must be 1: its weights stay as they are")
	case quantized && how != InitLoftQ && how != InitOLoRA:
		return fail(`the base is quantized, and PEFT has it for float32, float16 and bfloat16 only; use "olora", or save the base that it leaves (Base().SavePretrained) and quantize that`)
	}
	for _, t := range targets { // all of them before the first weight changes
		if !strings.HasPrefix(t.Path, layersPrefix) {
			return fail(fmt.Sprintf("module %q is not in a layer of the model", t.Path))
		}
		if err := checkRank(how, t.R, t.In, t.Out); err != nil {
			return nil, cfg, fmt.Errorf("module %q: %w", t.Path, err)
		}
		if how != InitOLoRA && how != InitLoftQ && !(t.Scaling > 0) {
			return fail(fmt.Sprintf("module %q has scaling %v; it needs a positive one (lora_alpha)", t.Path, t.Scaling))
		}
	}
	by := fmt.Sprintf("adapters that start with init_lora_weights %q", string(how))
	b := &baseInit{cfg: cfg, seed: seed, rewriter: rewriter{model: model, by: by}}
	if quantized && how == InitLoftQ {
		cfg.InitLoraWeights, cfg.LoftQConfig = InitTrue, nil
	}
	return b, cfg, nil
}

// values are A and B of a new adapter.
func (b *baseInit) values(t Target) (a, bs []float32, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("module %q: %w", t.Path, err)
		}
	}()
	w, err := b.model.Tensor(t.Path + ".weight")
	if err != nil {
		return nil, nil, err
	}
	if b.cfg.InitLoraWeights == InitLoftQ {
		return b.loftQ(t, w)
	}
	wide := matrix(w, t.Out, t.In)
	var wideA, wideB *mat.Dense
	if b.cfg.InitLoraWeights == InitOLoRA {
		q, r := thinQR(wide)
		wideA, wideB = mat.DenseCopyOf(r.Slice(0, t.R, 0, t.In)), mat.DenseCopyOf(q.Slice(0, t.Out, 0, t.R))
	} else {
		s, err := b.pissa(t, wide)
		if err != nil {
			return nil, nil, err
		}
		wideA, wideB = s.balanced(t.Scaling)
	}
	a, bs = narrow(wideA), narrow(wideB)
	subtract(w, t.Scaling, a, bs, t.R)
	return a, bs, b.put(t.Path, w)
}

func (b *baseInit) pissa(t Target, w *mat.Dense) (singular, error) {
	if n, ok := b.cfg.InitLoraWeights.niter(); ok {
		return randomSVD(w, t.R, n, newStream(b.seed, t.Path+".pissa"))
	}
	return topSingular(w, t.R)
}

// loftQ is loftq_init of peft/utils/loftq_utils.py, which leaves the adapter's scaling out of account; on a quantized base
// _loftq_init_new, with w what the quantized weight stands for.
func (b *baseInit) loftQ(t Target, w []float32) (a, bs []float32, err error) {
	if q := b.model.Options().Quantization; q != nil && (q.LoadIn4Bit || q.LoadIn8Bit) {
		original, err := b.model.OriginalLinear(t.Path)
		if err != nil {
			return nil, nil, err
		}
		return lowRank(original, w, t)
	}
	c := b.cfg.LoftQConfig.withDefaults()
	rest, decoded := append([]float32{}, w...), w
	for i := range c.LoftQIter {
		if i > 0 {
			copy(rest, w)
			subtract(rest, 1, a, bs, t.R)
		}
		if decoded, err = throughQuantization(rest, c.LoftQBits, t.Out, t.In); err != nil {
			return nil, nil, err
		}
		if a, bs, err = lowRank(w, decoded, t); err != nil {
			return nil, nil, err
		}
	}
	return a, bs, b.put(t.Path, decoded)
}

// lowRank are the factors of rank t.R of what decoded lacks of w.
func lowRank(w, decoded []float32, t Target) (a, b []float32, err error) {
	diff := make([]float32, len(w))
	for i := range diff {
		diff[i] = w[i] - decoded[i]
	}
	s, err := topSingular(matrix(diff, t.Out, t.In), t.R)
	if err != nil {
		return nil, nil, err
	}
	wideA, wideB := s.balanced(1)
	return narrow(wideA), narrow(wideB), nil
}

// throughQuantization are values as bitsandbytes' NF4 or int8 has them.
func throughQuantization(values []float32, bits, out, in int) ([]float32, error) {
	if bits == 8 {
		w, err := quant.QuantizeInt8(values, []int{out, in})
		if err != nil {
			return nil, err
		}
		return w.Dequantize(dtypes.Float32)
	}
	codes, state, err := quant.Quantize4Bit(values, quant.NF4, quant.DefaultBlocksize, false)
	if err != nil {
		return nil, err
	}
	return quant.Dequantize4Bit(codes, state)
}

// rewriter puts new weights into a base, those of a layer together.
type rewriter struct {
	model *models.CausalLM
	by    string // see models.CausalLM.Altered
	layer string // whose new weights are collected
	left  map[string][]float32
}

// put takes the new weight of the linear at path.
func (r *rewriter) put(path string, w []float32) error {
	layer := path[:strings.Index(path[len(layersPrefix):], ".")+len(layersPrefix)] // model.layers.7
	if layer != r.layer {
		if err := r.flush(); err != nil {
			return err
		}
		r.layer, r.left = layer, map[string][]float32{}
	}
	r.left[path] = w
	return nil
}

// flush replaces the weights that have been collected.
func (r *rewriter) flush() error {
	if r == nil || len(r.left) == 0 {
		return nil
	}
	err := r.model.ReplaceLinears(r.by, r.left)
	r.left = nil
	return err
}
