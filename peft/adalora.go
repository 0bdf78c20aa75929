package peft

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"maps"
	"slices"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

const peftTypeAdaLoRA = "ADALORA"

// PEFT's defaults of [AdaLoraConfig].
const (
	DefaultTargetR       = 8
	DefaultInitR         = 12
	DefaultAdaLoraBeta   = 0.85
	DefaultOrthRegWeight = 0.5
)

// AdaLoraConfig configures AdaLoRA (arXiv:2303.10512): y = W x + b + s · B (E ∘ A x) with s = LoraAlpha / (InitR + 1e-5), and a schedule
// that takes ranks away where they matter least, from InitR on average to TargetR. Fields, JSON and defaults are those of PEFT
// 0.21's AdaLoraConfig, which ignores LoRA's r.
//
// A training session runs the schedule by itself: after each optimizer step it does what PEFT's update_and_allocate does, with steps
// counted from 0. The regularization is part of the objective once in each optimizer step, and not of the losses that are
// reported.
type AdaLoraConfig struct {
	TargetR     int     `json:"target_r"`     // 0: 8
	InitR       int     `json:"init_r"`       // 0: 12
	LoraAlpha   float64 `json:"lora_alpha"`   // 0: 8
	LoraDropout float64 `json:"lora_dropout"` // probability of dropping an input of A while training, in [0, 1)
	TInit       int     `json:"tinit"`        // steps before ranks are taken away
	TFinal      int     `json:"tfinal"`       // last steps, in which ranks stay
	DeltaT      int     `json:"deltaT"`       // steps between two allocations; 0: 1
	Beta1       float64 `json:"beta1"`        // smoothing of importances; 0: 0.85
	Beta2       float64 `json:"beta2"`        // and of their uncertainty; 0: 0.85
	// OrthRegWeight is the weight of the regularization that keeps A and B orthogonal; nil: 0.5.
	OrthRegWeight *float64 `json:"orth_reg_weight"`
	TotalStep     int      `json:"total_step"` // optimizer steps of the training; it must be given
	// RankPattern is what the schedule has kept so far of each linear's ranks, by "PATH.lora_E". It is the result of a training, not a
	// setting.
	RankPattern     map[string][]bool `json:"rank_pattern"`
	InitLoraWeights *bool             `json:"init_lora_weights"` // nil: true: E zero, A and B normal with deviation 0.02; false: all normal, for tests

	TargetModules     TargetModules `json:"target_modules"` // and the three below as LoraConfig's
	ExcludeModules    TargetModules `json:"exclude_modules"`
	LayersToTransform []int         `json:"layers_to_transform"`
	LayersPattern     []string      `json:"layers_pattern"`
	Origin
}

// Type is "ADALORA".
func (AdaLoraConfig) Type() string { return peftTypeAdaLoRA }

// Validate implements [Config].
func (c AdaLoraConfig) Validate() error {
	c = c.withDefaults()
	switch {
	case c.InitR < 0 || c.TargetR < 0:
		return fmt.Errorf("init_r %d, target_r %d: must be positive", c.InitR, c.TargetR)
	case c.TInit < 0 || c.TFinal < 0 || c.DeltaT < 0:
		return fmt.Errorf("tinit %d, tfinal %d, deltaT %d: must not be negative", c.TInit, c.TFinal, c.DeltaT)
	case c.TotalStep <= 0:
		return fmt.Errorf("total_step %d: AdaLoRA needs the number of the training's optimizer steps", c.TotalStep)
	case c.TInit >= c.TotalStep-c.TFinal:
		return fmt.Errorf("tinit %d, tfinal %d, total_step %d: no step is left in which ranks could be taken away; decrease tinit or tfinal, or increase total_step", c.TInit, c.TFinal, c.TotalStep)
	case !(c.Beta1 > 0 && c.Beta1 < 1 && c.Beta2 > 0 && c.Beta2 < 1):
		return fmt.Errorf("beta1 %v, beta2 %v: must be more than 0 and less than 1", c.Beta1, c.Beta2)
	case !(*c.OrthRegWeight >= 0):
		return fmt.Errorf("orth_reg_weight %v: must be 0 or more", *c.OrthRegWeight)
	}
	return errors.Join(c.Origin.validate(), c.targeting().validateRanked("lora_alpha", c.LoraDropout))
}

// MarshalJSON returns the config with PEFT's keys and the values that an adapter folder would hold.
func (c AdaLoraConfig) MarshalJSON() ([]byte, error) {
	return appendPythonJSON(nil, c.fields(), compact), c.Validate()
}

// UnmarshalJSON reads a config with PEFT's keys; missing ones are PEFT's defaults, unknown ones errors. It does not validate.
func (c *AdaLoraConfig) UnmarshalJSON(data []byte) error { return unmarshalSettings(c, data) }

func (c *AdaLoraConfig) origin() *Origin { return &c.Origin }

func (c *AdaLoraConfig) settings() []setting {
	all := append(targetSettings(&c.TargetModules, &c.ExcludeModules), layerSettings(&c.LayersToTransform, &c.LayersPattern)...)
	all = append(all, intSetting("target_r", &c.TargetR), intSetting("init_r", &c.InitR), numberSetting("lora_alpha", &c.LoraAlpha),
		floatSetting("lora_dropout", &c.LoraDropout), intSetting("tinit", &c.TInit), intSetting("tfinal", &c.TFinal), intSetting("deltaT", &c.DeltaT),
		floatSetting("beta1", &c.Beta1), floatSetting("beta2", &c.Beta2), intSetting("total_step", &c.TotalStep), yesSetting("init_lora_weights", &c.InitLoraWeights),
		setting{"orth_reg_weight", func(v jsontext.Value) error {
			c.OrthRegWeight = new(float64)
			return decodeNumber(v, c.OrthRegWeight)
		}, func() any { return *c.OrthRegWeight }},
		setting{"rank_pattern", func(v jsontext.Value) error {
			if off(v) {
				return nil
			}
			return json.Unmarshal(v, &c.RankPattern)
		}, func() any { return rankObject(c.RankPattern) }},
		idleSetting("r", DefaultR), idleSetting("alpha_pattern", object{}), idleSetting("fan_in_fan_out", false),
		refusedSetting("bias", BiasNone))
	for _, key := range slices.Concat(refusedKeys, []string{"ensure_weight_tying", "use_dora", "lora_bias", "target_parameters", "trainable_token_indices", "loftq_config"}) {
		s := refusedSetting(key, nil)
		s.value = nil
		all = append(all, s)
	}
	for _, key := range slices.Concat(initKeys, []string{"use_rslora", "eva_config", "runtime_config"}) { // of LoRA alone
		all = append(all, setting{key, func(jsontext.Value) error { return nil }, nil})
	}
	return all
}

func rankObject(pattern map[string][]bool) any {
	if pattern == nil {
		return nil
	}
	var o object
	for _, key := range slices.Sorted(maps.Keys(pattern)) {
		o = append(o, member{key, pattern[key]})
	}
	return o
}

func (c AdaLoraConfig) withDefaults() AdaLoraConfig {
	c.TargetR, c.InitR, c.DeltaT = orDefault(c.TargetR, DefaultTargetR), orDefault(c.InitR, DefaultInitR), orDefault(c.DeltaT, 1)
	c.LoraAlpha = orDefault(c.LoraAlpha, DefaultLoraAlpha)
	c.Beta1, c.Beta2 = orDefault(c.Beta1, DefaultAdaLoraBeta), orDefault(c.Beta2, DefaultAdaLoraBeta)
	if c.OrthRegWeight == nil {
		weight := DefaultOrthRegWeight
		c.OrthRegWeight = &weight
	}
	return c
}

func (c AdaLoraConfig) fields() object { c = c.withDefaults(); return settingsObject(&c) }

func (c AdaLoraConfig) of(base string) Config { c.Origin = c.Origin.of(base); return c }

func (c AdaLoraConfig) attach(p *PeftModel, from *weightsFile) (tuner, []models.LoRA, error) {
	return attachMethod(p, c, from)
}

func (c AdaLoraConfig) targeting() targeting {
	c = c.withDefaults()
	return targeting{TargetModules: c.TargetModules, ExcludeModules: c.ExcludeModules, LayersToTransform: c.LayersToTransform, LayersPattern: c.LayersPattern,
		R: c.InitR, Alpha: c.LoraAlpha, defaults: defaultTargets}
}

func (c AdaLoraConfig) resolved(_ string, targets TargetModules) (method, error) {
	c = c.withDefaults()
	c.TargetModules = targets
	return c, nil
}

const suffixE = ".lora_E"

// kept is how many ranks of a module are left, -1 if the schedule has not decided.
func kept(pattern map[string][]bool, path string) int {
	mask, ok := pattern[path+suffixE]
	if !ok {
		return -1
	}
	n := 0
	for _, k := range mask {
		if k {
			n++
		}
	}
	return n
}

func (c AdaLoraConfig) plan(targets []Target, seed int64) (p plan, err error) {
	scaling := c.LoraAlpha / (float64(c.InitR) + 1e-5)
	if c.LoraAlpha <= 0 {
		scaling = float64(c.InitR) / (float64(c.InitR) + 1e-5)
	}
	for _, t := range targets {
		r := c.InitR
		if n := kept(c.RankPattern, t.Path); n >= 0 {
			r = n
		}
		f := form{tuner: adalora{scaling}, dropout: c.LoraDropout, tensors: []formTensor{
			{name: "lora_A", shape: []int{r, t.In}}, {name: "lora_B", shape: []int{t.Out, r}}, {name: "lora_E", shape: []int{r, 1}}}}
		for i := range f.tensors {
			n := &f.tensors[i]
			deviation := 1.0
			if yes(c.InitLoraWeights) {
				deviation = 0.02
			}
			if n.values = make([]float32, n.size()); i < 2 || !yes(c.InitLoraWeights) {
				newStream(seed, t.Path+"."+n.name).normal(n.values, deviation)
			}
		}
		if r == 0 {
			f.tuner = nil
		}
		f.merge, f.unmerge = deltas(t, func(v [][]float32) func(o int, dst []float32) {
			return func(o int, dst []float32) {
				for k := range r {
					for i := range dst {
						dst[i] += v[1][o*r+k] * (v[0][k*t.In+i] * v[2][k])
					}
				}
				for i := range dst {
					dst[i] *= float32(scaling)
				}
			}
		})
		p.forms = append(p.forms, f)
	}
	return p, nil
}

// forFile leaves the ranks out that the schedule has taken away, as PEFT's files do.
func (c AdaLoraConfig) forFile(targets []Target, forms []form, values [][][]float32) ([]form, [][][]float32) {
	forms, values = slices.Clone(forms), slices.Clone(values)
	for i, t := range targets {
		mask, n := c.RankPattern[t.Path+suffixE], kept(c.RankPattern, t.Path)
		if n < 0 || len(mask) != forms[i].tensors[2].shape[0] {
			continue // all of them, or as it was read
		}
		var a, b, e []float32
		for k, keep := range mask {
			if keep {
				a, e = append(a, values[i][0][k*t.In:(k+1)*t.In]...), append(e, values[i][2][k])
			}
		}
		for o := range t.Out {
			for k, keep := range mask {
				if keep {
					b = append(b, values[i][1][o*len(mask)+k])
				}
			}
		}
		tensors := slices.Clone(forms[i].tensors)
		tensors[0].shape, tensors[1].shape, tensors[2].shape = []int{n, t.In}, []int{t.Out, n}, []int{n, 1}
		forms[i].tensors, values[i] = tensors, [][]float32{a, b, e}
	}
	return forms, values
}

// adalora is the tuner of singular values between A and B.
type adalora struct{ scaling float64 }

func (t adalora) Key() string { return fmt.Sprint("adalora ", t.scaling) }

// Apply implements [nn.Tuner].
func (t adalora) Apply(o nn.Operands) *Node {
	a, b, e := o.Tensors[0], o.Tensors[1], o.Tensors[2]
	dtype := o.X.DType()
	low := nn.Dense(o.Dropped(), ConvertDType(Mul(a, e), dtype))
	return Add(o.Plain(o.X), nn.Dense(MulScalar(low, t.scaling), ConvertDType(b, dtype)))
}

// session has the schedule run in a training session.
func (c AdaLoraConfig) session(s *methodSet, start func(training.SessionOptions) (training.Session, error), o training.SessionOptions) (training.Session, error) {
	ranks := newRankSchedule(s)
	o.Triplets = &training.Triplets{Beta1: c.Beta1, Beta2: c.Beta2, Orthogonal: *c.OrthRegWeight / float64(2*len(s.forms)), Allocator: ranks} // their mean
	inner, err := start(o)
	if err != nil {
		return nil, err
	}
	session, ok := inner.(*layerwise.Session)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%T does not weigh ranks", inner), inner.Close())
	}
	return &adaloraSession{session, ranks}, nil
}
