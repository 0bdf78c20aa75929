package peft

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/matmul"
	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/models"
)

const peftTypeLoKr = "LOKR"

// How new LoKr adapters start: PEFT's init_weights.
const (
	LoKrInitTrue    Init = "true"    // PEFT's True, also the zero value: the first factor zero
	LoKrInitFalse   Init = "false"   // PEFT's False: the model starts changed; for tests
	LoKrInitLycoris Init = "lycoris" // as LyCORIS: the second factor zero
)

// LoKrConfig configures LoKr (arXiv:2309.14859): W + Alpha/R · W₁ ⊗ W₂, a Kronecker product of W₁ [a, c] and W₂ [b, d] with
// a·b = Out and c·d = In, of which the second, and with DecomposeBoth the first, is a product of rank R where that is less than
// half of its larger side. Fields, JSON and defaults are those of PEFT 0.21's LoKrConfig.
type LoKrConfig struct {
	R     int     `json:"r"`     // 0: 8
	Alpha float64 `json:"alpha"` // 0: 8
	// DecomposeFactor is what a and c are to be near to; 0: -1, near to the square roots of Out and In.
	DecomposeFactor int  `json:"decompose_factor"`
	DecomposeBoth   bool `json:"decompose_both"`
	// RankDropout drops rows of the change, RankDropoutScale scales the others up for it, and ModuleDropout drops the adapter, while
	// training.
	RankDropout      float64 `json:"rank_dropout"`
	RankDropoutScale bool    `json:"rank_dropout_scale"`
	ModuleDropout    float64 `json:"module_dropout"`
	InitWeights      Init    `json:"init_weights"` // "": LoKrInitTrue

	TargetModules     TargetModules `json:"target_modules"` // and the four below as LoraConfig's
	ExcludeModules    TargetModules `json:"exclude_modules"`
	LayersToTransform []int         `json:"layers_to_transform"`
	LayersPattern     []string      `json:"layers_pattern"`
	RankPattern       Ranks         `json:"rank_pattern"`
	AlphaPattern      Alphas        `json:"alpha_pattern"`
	Origin
}

// Type is "LOKR".
func (LoKrConfig) Type() string { return peftTypeLoKr }

// Validate implements [Config].
func (c LoKrConfig) Validate() error {
	c = c.withDefaults()
	if err := c.Origin.validate(); err != nil {
		return err
	}
	if c.InitWeights != LoKrInitTrue && c.InitWeights != LoKrInitFalse && c.InitWeights != LoKrInitLycoris {
		return fmt.Errorf("init_weights %q is unknown; use true, false or %q", string(c.InitWeights), string(LoKrInitLycoris))
	}
	if c.DecomposeFactor < -1 {
		return fmt.Errorf("decompose_factor %d: must be positive, or -1 for square roots", c.DecomposeFactor)
	}
	return c.targeting().validateRanked("alpha", c.RankDropout, c.ModuleDropout)
}

// MarshalJSON returns the config with PEFT's keys and the values that an adapter folder would hold.
func (c LoKrConfig) MarshalJSON() ([]byte, error) {
	return appendPythonJSON(nil, c.fields(), compact), c.Validate()
}

// UnmarshalJSON reads a config with PEFT's keys; missing ones are PEFT's defaults, unknown ones errors. It does not validate.
func (c *LoKrConfig) UnmarshalJSON(data []byte) error { return unmarshalSettings(c, data) }

func (c *LoKrConfig) origin() *Origin { return &c.Origin }

func (c *LoKrConfig) settings() []setting {
	all := append(targetSettings(&c.TargetModules, &c.ExcludeModules), layerSettings(&c.LayersToTransform, &c.LayersPattern)...)
	all = append(all, patternSettings(&c.RankPattern, &c.AlphaPattern)...)
	begin := setting{"init_weights", func(v jsontext.Value) error {
		switch v.Kind() {
		case 't':
			c.InitWeights = LoKrInitTrue
		case 'f', 'n':
			c.InitWeights = LoKrInitFalse
		case '"':
			return json.Unmarshal(v, &c.InitWeights)
		default:
			return errors.New("must be true, false or a string")
		}
		return nil
	}, func() any { return c.InitWeights.json() }}
	return append(all, intSetting("r", &c.R), numberSetting("alpha", &c.Alpha), intSetting("decompose_factor", &c.DecomposeFactor),
		flagSetting("decompose_both", &c.DecomposeBoth), floatSetting("rank_dropout", &c.RankDropout), flagSetting("rank_dropout_scale", &c.RankDropoutScale),
		floatSetting("module_dropout", &c.ModuleDropout), begin, idleSetting("use_effective_conv2d", false))
}

func (c LoKrConfig) withDefaults() LoKrConfig {
	c.R, c.Alpha = orDefault(c.R, DefaultR), orDefault(c.Alpha, DefaultLoraAlpha)
	c.DecomposeFactor, c.InitWeights = orDefault(c.DecomposeFactor, -1), orDefault(c.InitWeights, LoKrInitTrue)
	return c
}

func (c LoKrConfig) fields() object { c = c.withDefaults(); return settingsObject(&c) }

func (c LoKrConfig) of(base string) Config { c.Origin = c.Origin.of(base); return c }

func (c LoKrConfig) attach(p *PeftModel, from *weightsFile) (tuner, []models.LoRA, error) {
	return attachMethod(p, c, from)
}

func (c LoKrConfig) targeting() targeting {
	c = c.withDefaults()
	return targeting{TargetModules: c.TargetModules, ExcludeModules: c.ExcludeModules, LayersToTransform: c.LayersToTransform, LayersPattern: c.LayersPattern,
		R: c.R, Alpha: c.Alpha, RankPattern: c.RankPattern, AlphaPattern: c.AlphaPattern, defaults: defaultTargets}
}

func (c LoKrConfig) resolved(_ string, targets TargetModules) (method, error) {
	c = c.withDefaults()
	c.TargetModules = targets
	return c, nil
}

// factorization splits a dimension into m ≤ n: factor and the rest where it divides, else the pair whose sum is least with m up to
// factor (any, where that is -1). Source: factorization of peft/tuners/lokr/layer.py.
func factorization(dimension, factor int) (m, n int) {
	if factor > 0 && dimension%factor == 0 {
		return factor, dimension / factor
	}
	if factor == -1 {
		factor = dimension
	}
	m, n = 1, dimension
	for length := m + n; m < n; {
		next := m + 1
		for dimension%next != 0 {
			next++
		}
		if next+dimension/next > length || next > factor {
			break
		}
		m, n = next, dimension/next
	}
	return min(m, n), max(m, n)
}

func (c LoKrConfig) plan(targets []Target, seed int64) (p plan, err error) {
	for _, t := range targets {
		k := kronecker{scaling: t.Scaling, dropout: lycorisDropout{c.RankDropout, c.ModuleDropout, c.RankDropoutScale}}
		k.c, k.d = factorization(t.In, c.DecomposeFactor)
		k.a, k.b = factorization(t.Out, c.DecomposeFactor)
		k.low1 = c.DecomposeBoth && 2*t.R < max(k.a, k.c)
		k.low2 = 2*t.R < max(k.b, k.d)
		var f form
		f.tensors = append(factorTensors(seed, t, "lokr_w1", k.low1, k.a, k.c), factorTensors(seed, t, "lokr_w2", k.low2, k.b, k.d)...)
		switch second := f.tensors[len(f.tensors)-1]; {
		case c.InitWeights == LoKrInitTrue:
			clear(f.tensors[0].values) // W₁, or the first of its factors
		case c.InitWeights == LoKrInitLycoris:
			clear(second.values)
		}
		f.tuner, f.dropout = k, k.dropout.probability()
		f.merge, f.unmerge = deltas(t, k.row)
		p.forms = append(p.forms, f)
	}
	return p, nil
}

// factorTensors are those of a factor [rows, columns] of the Kronecker product, whole or as a product of low rank.
func factorTensors(seed int64, t Target, name string, low bool, rows, columns int) []formTensor {
	if !low {
		return []formTensor{kaiming(seed, t.Path, name, rows, columns)}
	}
	return []formTensor{kaiming(seed, t.Path, name+"_a", rows, t.R), kaiming(seed, t.Path, name+"_b", t.R, columns)}
}

// kronecker is the tuner of a change s · W₁ ⊗ W₂, W₁ [a, c], W₂ [b, d].
type kronecker struct {
	scaling    float64
	a, b, c, d int
	low1, low2 bool // the factor is a product of low rank
	dropout    lycorisDropout
}

func (k kronecker) Key() string {
	return fmt.Sprint("lokr ", k.scaling, k.a, k.b, k.c, k.d, k.low1, k.low2, " ", k.dropout.Key())
}

// Apply implements [nn.Tuner]: with x as [c, d], the change makes s · W₁ x W₂ᵀ of it, [a, b], without the matrix [Out, In].
func (k kronecker) Apply(o nn.Operands) *Node {
	rest := o.Tensors
	factor := func(low bool) (w *Node) {
		if w, rest = rest[0], rest[1:]; low {
			w, rest = nn.Dense(w, Transpose(rest[0], 0, 1)), rest[1:]
		}
		return w
	}
	w1, w2 := factor(k.low1), factor(k.low2)
	w1 = ConvertDType(MulScalar(w1, k.scaling), o.X.DType())
	batch, seq := o.X.Shape().Dim(0), o.X.Shape().Dim(1)
	x := Reshape(o.X, batch*seq, k.c, k.d)
	x = nn.Dense(x, ConvertDType(w2, o.X.DType()))              // [n, c, b]
	x = TransposeAllAxes(matmul.Contract(x, 1, w1, 1), 0, 2, 1) // [n, b, a]
	return Add(o.Plain(o.X), k.dropout.apply(o, Reshape(x, batch, seq, k.a*k.b)))
}

// row makes row o of the change.
func (k kronecker) row(v [][]float32) func(o int, dst []float32) {
	factor := func(low bool, rows, columns int) (w []float32) {
		if w, v = v[0], v[1:]; low {
			w, v = productOf(w, v[0], rows, columns), v[1:]
		}
		return w
	}
	w1 := factor(k.low1, k.a, k.c)
	w2 := factor(k.low2, k.b, k.d)
	return func(o int, dst []float32) {
		i, j := o/k.b, o%k.b
		for c := range k.c {
			f := w1[i*k.c+c]
			for d := range k.d {
				dst[c*k.d+d] = f * w2[j*k.d+d] * float32(k.scaling)
			}
		}
	}
}
