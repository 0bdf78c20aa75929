package peft

import (
	"errors"
	"fmt"
	"math"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/pyrandom"
	"github.com/loris-ml/loris/models"
)

const peftTypeVeRA = "VERA"

// PEFT's defaults of [VeraConfig].
const (
	DefaultVeraR        = 256
	DefaultVeraDInitial = 0.1
)

// VeraConfig configures VeRA (arXiv:2310.11454): y = W x + b + λ_b ∘ B (λ_d ∘ A x) with random A [R, In] and B [Out, R] that all
// linears share, as far as they are large, and vectors that are trained. Fields, JSON and defaults are those of PEFT 0.21's
// VeraConfig.
type VeraConfig struct {
	R int `json:"r"` // 0: 256
	// ProjectionPRNGKey seeds A and B, which are those that torch's generator draws in PEFT.
	ProjectionPRNGKey int     `json:"projection_prng_key"`
	SaveProjection    *bool   `json:"save_projection"` // nil: true: files hold A and B
	VeraDropout       float64 `json:"vera_dropout"`    // probability of dropping an input of A while training, in [0, 1)
	DInitial          float64 `json:"d_initial"`       // first value of λ_d; 0: 0.1
	InitWeights       *bool   `json:"init_weights"`    // nil: true: the model starts unchanged, λ_b zero; false: λ_b ones, λ_d normal numbers, for tests

	TargetModules     TargetModules `json:"target_modules"` // and the three below as LoraConfig's
	ExcludeModules    TargetModules `json:"exclude_modules"`
	LayersToTransform []int         `json:"layers_to_transform"`
	LayersPattern     []string      `json:"layers_pattern"`
	Origin
}

// Type is "VERA".
func (VeraConfig) Type() string { return peftTypeVeRA }

// Validate implements [Config].
func (c VeraConfig) Validate() error {
	c = c.withDefaults()
	switch {
	case !(c.VeraDropout >= 0 && c.VeraDropout < 1):
		return fmt.Errorf("vera_dropout %v: must be a probability, 0 or more and less than 1", c.VeraDropout)
	case c.ProjectionPRNGKey < 0:
		return fmt.Errorf("projection_prng_key %d: must not be negative", c.ProjectionPRNGKey)
	case !finite(c.DInitial):
		return fmt.Errorf("d_initial %v: must be a finite number", c.DInitial)
	}
	return errors.Join(c.Origin.validate(), c.targeting().validateRanked("", 0, 0))
}

// MarshalJSON returns the config with PEFT's keys and the values that an adapter folder would hold.
func (c VeraConfig) MarshalJSON() ([]byte, error) {
	return appendPythonJSON(nil, c.fields(), compact), c.Validate()
}

// UnmarshalJSON reads a config with PEFT's keys; missing ones are PEFT's defaults, unknown ones errors. It does not validate.
func (c *VeraConfig) UnmarshalJSON(data []byte) error { return unmarshalSettings(c, data) }

func (c *VeraConfig) origin() *Origin { return &c.Origin }

func (c *VeraConfig) settings() []setting {
	targets := targetSettings(&c.TargetModules, &c.ExcludeModules)
	targets[1].value = nil // PEFT's VeraConfig has no exclude_modules
	if c.ExcludeModules != nil {
		targets[1].value = func() any { return c.ExcludeModules.json() }
	}
	all := append(targets, layerSettings(&c.LayersToTransform, &c.LayersPattern)...)
	return append(all, intSetting("r", &c.R), intSetting("projection_prng_key", &c.ProjectionPRNGKey), yesSetting("save_projection", &c.SaveProjection),
		floatSetting("vera_dropout", &c.VeraDropout), floatSetting("d_initial", &c.DInitial), yesSetting("init_weights", &c.InitWeights),
		idleSetting("fan_in_fan_out", false), refusedSetting("bias", "none"))
}

func (c VeraConfig) withDefaults() VeraConfig {
	c.R, c.DInitial = orDefault(c.R, DefaultVeraR), orDefault(c.DInitial, DefaultVeraDInitial)
	return c
}

func (c VeraConfig) fields() object { c = c.withDefaults(); return settingsObject(&c) }

func (c VeraConfig) of(base string) Config { c.Origin = c.Origin.of(base); return c }

func (c VeraConfig) attach(p *PeftModel, from *weightsFile) (tuner, []models.LoRA, error) {
	return attachMethod(p, c, from)
}

func (c VeraConfig) targeting() targeting {
	c = c.withDefaults()
	return targeting{TargetModules: c.TargetModules, ExcludeModules: c.ExcludeModules, LayersToTransform: c.LayersToTransform, LayersPattern: c.LayersPattern,
		R: c.R, Alpha: float64(c.R), defaults: defaultTargets}
}

func (c VeraConfig) resolved(_ string, targets TargetModules) (method, error) {
	c = c.withDefaults()
	c.TargetModules = targets
	return c, nil
}

// projections are A [R, in] and B [out, R] for the largest of the targets, uniform in ±√(6/columns): _kaiming_init of
// peft/tuners/vera/model.py with torch's generator.
func (c VeraConfig) projections(targets []Target) (a, b sharedTensor) {
	in, out := 0, 0
	for _, t := range targets {
		in, out = max(in, t.In), max(out, t.Out)
	}
	g := pyrandom.NewUniform(int64(c.ProjectionPRNGKey))
	draw := func(key string, rows, columns int) sharedTensor {
		values := make([]float32, rows*columns)
		bound := math.Sqrt(3) * (math.Sqrt(2) / math.Sqrt(float64(columns)))
		g.Fill(values, -bound, bound)
		if !yes(c.SaveProjection) {
			key = ""
		}
		return sharedTensor{key, []int{rows, columns}, values}
	}
	a = draw("base_model.vera_A", c.R, in)
	return a, draw("base_model.vera_B", out, c.R)
}

func (c VeraConfig) plan(targets []Target, seed int64) (p plan, err error) {
	a, b := c.projections(targets)
	p.shared = []sharedTensor{a, b}
	for _, t := range targets {
		lambdaB, lambdaD := make([]float32, t.Out), make([]float32, c.R)
		if yes(c.InitWeights) {
			for i := range lambdaD {
				lambdaD[i] = float32(c.DInitial)
			}
		} else {
			newStream(seed, t.Path+".vera_lambda_d").normal(lambdaD, 1)
			for i := range lambdaB {
				lambdaB[i] = 1
			}
		}
		f := form{tuner: vera{}, dropout: c.VeraDropout, tensors: []formTensor{
			{name: "vera_lambda_b", shape: []int{t.Out}, values: lambdaB}, {name: "vera_lambda_d", shape: []int{c.R}, values: lambdaD},
			{name: "vera_A", shape: a.shape, shared: &p.shared[0]}, {name: "vera_B", shape: b.shape, shared: &p.shared[1]},
		}}
		f.merge, f.unmerge = deltas(t, func(v [][]float32) func(o int, dst []float32) {
			most := a.shape[1]
			return func(o int, dst []float32) {
				for k := range c.R {
					factor := v[0][o] * v[3][o*c.R+k]
					for i := range dst {
						dst[i] += factor * (v[1][k] * v[2][k*most+i])
					}
				}
			}
		})
		p.forms = append(p.forms, f)
	}
	return p, nil
}

// vera is the tuner of vectors beside shared projections.
type vera struct{}

func (vera) Key() string { return "vera" }

// Apply implements [nn.Tuner].
func (vera) Apply(o nn.Operands) *Node {
	b, d, shared, sharedB := o.Tensors[0], o.Tensors[1], o.Tensors[2], o.Tensors[3]
	dtype := o.X.DType()
	down := ConvertDType(SliceAxis(shared, 1, AxisRange(0, o.X.Shape().Dim(2))), dtype)
	up := ConvertDType(SliceAxis(sharedB, 0, AxisRange(0, b.Shape().Dim(0))), dtype)
	low := rescaled(nn.Dense(o.Dropped(), down), d)
	return Add(o.Plain(o.X), rescaled(nn.Dense(low, up), b))
}
