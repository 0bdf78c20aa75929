package peft

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/models"
)

const peftTypeLoHa = "LOHA"

// LoHaConfig configures LoHa (arXiv:2108.06098): W + Alpha/R · (A₁ B₁) ∘ (A₂ B₂), with A [Out, R] and B [R, In]. Fields, JSON and
// defaults are those of PEFT 0.21's LoHaConfig.
type LoHaConfig struct {
	R     int     `json:"r"`     // 0: 8
	Alpha float64 `json:"alpha"` // 0: 8
	// RankDropout drops rows of the change, and scales the others up for it, ModuleDropout drops the adapter, each with this
	// probability, while training.
	RankDropout   float64 `json:"rank_dropout"`
	ModuleDropout float64 `json:"module_dropout"`
	InitWeights   *bool   `json:"init_weights"` // nil: true: the model starts unchanged; false: for tests

	TargetModules     TargetModules `json:"target_modules"` // and the four below as LoraConfig's
	ExcludeModules    TargetModules `json:"exclude_modules"`
	LayersToTransform []int         `json:"layers_to_transform"`
	LayersPattern     []string      `json:"layers_pattern"`
	RankPattern       Ranks         `json:"rank_pattern"`
	AlphaPattern      Alphas        `json:"alpha_pattern"`
	Origin
}

// Type is "LOHA".
func (LoHaConfig) Type() string { return peftTypeLoHa }

// Validate implements [Config].
func (c LoHaConfig) Validate() error {
	if err := c.Origin.validate(); err != nil {
		return err
	}
	return c.targeting().validateRanked("alpha", c.RankDropout, c.ModuleDropout)
}

// MarshalJSON returns the config with PEFT's keys and the values that an adapter folder would hold.
func (c LoHaConfig) MarshalJSON() ([]byte, error) {
	return appendPythonJSON(nil, c.fields(), compact), c.Validate()
}

// UnmarshalJSON reads a config with PEFT's keys; missing ones are PEFT's defaults, unknown ones errors. It does not validate.
func (c *LoHaConfig) UnmarshalJSON(data []byte) error { return unmarshalSettings(c, data) }

func (c *LoHaConfig) origin() *Origin { return &c.Origin }

func (c *LoHaConfig) settings() []setting {
	all := append(targetSettings(&c.TargetModules, &c.ExcludeModules), layerSettings(&c.LayersToTransform, &c.LayersPattern)...)
	all = append(all, patternSettings(&c.RankPattern, &c.AlphaPattern)...)
	return append(all, intSetting("r", &c.R), numberSetting("alpha", &c.Alpha), floatSetting("rank_dropout", &c.RankDropout),
		floatSetting("module_dropout", &c.ModuleDropout), yesSetting("init_weights", &c.InitWeights),
		idleSetting("use_effective_conv2d", false))
}

func (c LoHaConfig) withDefaults() LoHaConfig {
	c.R, c.Alpha = orDefault(c.R, DefaultR), orDefault(c.Alpha, DefaultLoraAlpha)
	return c
}

// orDefault is v, or the default that its zero value stands for.
func orDefault[T comparable](v, standard T) T {
	var zero T
	if v == zero {
		return standard
	}
	return v
}

func (c LoHaConfig) fields() object { c = c.withDefaults(); return settingsObject(&c) }

func (c LoHaConfig) of(base string) Config { c.Origin = c.Origin.of(base); return c }

func (c LoHaConfig) attach(p *PeftModel, from *weightsFile) (tuner, []models.LoRA, error) {
	return attachMethod(p, c, from)
}

func (c LoHaConfig) targeting() targeting {
	c = c.withDefaults()
	return targeting{TargetModules: c.TargetModules, ExcludeModules: c.ExcludeModules, LayersToTransform: c.LayersToTransform, LayersPattern: c.LayersPattern,
		R: c.R, Alpha: c.Alpha, RankPattern: c.RankPattern, AlphaPattern: c.AlphaPattern, defaults: defaultTargets}
}

func (c LoHaConfig) resolved(_ string, targets TargetModules) (method, error) {
	c = c.withDefaults()
	c.TargetModules = targets
	return c, nil
}

func (c LoHaConfig) plan(targets []Target, seed int64) (p plan, err error) {
	for _, t := range targets {
		drop := lycorisDropout{c.RankDropout, c.ModuleDropout, true}
		f := form{tuner: loha{t.Scaling, drop}, dropout: drop.probability(), tensors: []formTensor{
			kaiming(seed, t.Path, "hada_w1_a", t.Out, t.R), kaiming(seed, t.Path, "hada_w1_b", t.R, t.In),
			kaiming(seed, t.Path, "hada_w2_a", t.Out, t.R), kaiming(seed, t.Path, "hada_w2_b", t.R, t.In),
		}}
		if yes(c.InitWeights) {
			clear(f.tensors[3].values)
		}
		f.merge, f.unmerge = deltas(t, func(v [][]float32) func(o int, dst []float32) {
			return func(o int, dst []float32) {
				second := make([]float32, len(dst))
				addProductRow(dst, o, v[0], v[1])
				addProductRow(second, o, v[2], v[3])
				for i, s := range second {
					dst[i] *= s * float32(t.Scaling)
				}
			}
		})
		p.forms = append(p.forms, f)
	}
	return p, nil
}

// loha is the tuner of a product of two low ranks, element by element.
type loha struct {
	scaling float64
	dropout lycorisDropout
}

func (t loha) Key() string { return fmt.Sprint("loha ", t.scaling, " ", t.dropout.Key()) }

// Apply implements [nn.Tuner]. The change is made in float32 and rounded once.
func (t loha) Apply(o nn.Operands) *Node {
	v := o.Tensors
	delta := MulScalar(Mul(nn.Dense(v[0], Transpose(v[1], 0, 1)), nn.Dense(v[2], Transpose(v[3], 0, 1))), t.scaling)
	return Add(o.Plain(o.X), t.dropout.apply(o, nn.Dense(o.X, ConvertDType(delta, o.X.DType()))))
}

func inFloat32(x *Node) *Node { return ConvertDType(x, dtypes.Float32) }
