package peft

import (
	"encoding/json/jsontext"
	"fmt"
	"slices"
	"strings"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/models"
)

const peftTypeIA3 = "IA3"

// IA3Config configures (IA)³ (arXiv:2205.05638): a learned vector l multiplies what the targeted linears put out, y = l ∘ (W x + b),
// or what goes into those of FeedforwardModules, y = W (l ∘ x) + b. Fields, JSON and defaults are those of PEFT 0.21's IA3Config.
type IA3Config struct {
	// TargetModules, ExcludeModules and FeedforwardModules are as LoraConfig's targets. Nil targets and feedforward modules are
	// those that PEFT's tables have for the model type: k_proj, v_proj and down_proj of Llama, the last a feedforward module.
	// Feedforward modules that are no targets have no effect; a list of both must have them among the targets.
	TargetModules      TargetModules `json:"target_modules"`
	ExcludeModules     TargetModules `json:"exclude_modules"`
	FeedforwardModules TargetModules `json:"feedforward_modules"`
	InitIA3Weights     *bool         `json:"init_ia3_weights"` // nil: true: vectors of ones; false: normal numbers, for tests
	Origin
}

// Type is "IA3".
func (IA3Config) Type() string { return peftTypeIA3 }

// Validate implements [Config].
func (c IA3Config) Validate() error {
	if err := c.Origin.validate(); err != nil {
		return err
	}
	_, err := c.targeting().matcher()
	if err != nil {
		return err
	}
	if c.FeedforwardModules == nil {
		return nil
	}
	all, given := c.TargetModules.(moduleNames)
	feed, list := c.FeedforwardModules.(moduleNames)
	for _, name := range feed {
		if given && list && !slices.Contains(all, name) {
			return fmt.Errorf("feedforward_modules %v must be a subset of target_modules %v: %q is not among them", feed, all, name)
		}
	}
	if list {
		return nil // also an empty one
	}
	if _, err = c.FeedforwardModules.selector(); err != nil {
		return fmt.Errorf("feedforward_modules %w", err)
	}
	return nil
}

// MarshalJSON returns the config with PEFT's keys and the values that an adapter folder would hold.
func (c IA3Config) MarshalJSON() ([]byte, error) {
	return appendPythonJSON(nil, c.fields(), compact), c.Validate()
}

// UnmarshalJSON reads a config with PEFT's keys; missing ones are PEFT's defaults, unknown ones errors. It does not validate.
func (c *IA3Config) UnmarshalJSON(data []byte) error { return unmarshalSettings(c, data) }

func (c *IA3Config) origin() *Origin { return &c.Origin }

func (c *IA3Config) settings() []setting {
	feed := setting{"feedforward_modules", func(v jsontext.Value) error { return decodeTargets(v, &c.FeedforwardModules) },
		func() any { return targetsOrNull(c.FeedforwardModules) }}
	return append(targetSettings(&c.TargetModules, &c.ExcludeModules), feed, yesSetting("init_ia3_weights", &c.InitIA3Weights),
		idleSetting("fan_in_fan_out", false))
}

func (c IA3Config) fields() object { return settingsObject(&c) }

func (c IA3Config) of(base string) Config { c.Origin = c.Origin.of(base); return c }

func (c IA3Config) attach(p *PeftModel, from *weightsFile) (tuner, []models.LoRA, error) {
	return attachMethod(p, c, from)
}

func (c IA3Config) targeting() targeting {
	return targeting{TargetModules: c.TargetModules, ExcludeModules: c.ExcludeModules, defaults: ia3Targets, whole: true, R: 1, Alpha: 1}
}

func (c IA3Config) resolved(modelType string, targets TargetModules) (method, error) {
	c.TargetModules = targets
	if c.FeedforwardModules == nil {
		if ia3Targets(modelType) == nil {
			return nil, fmt.Errorf("feedforward_modules: PEFT has no default for model_type %q; name those of target_modules whose input is to be multiplied, or give an empty list", modelType)
		}
		c.FeedforwardModules = Modules("down_proj")
	}
	return c, nil
}

// ia3Targets is TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING of peft/utils/constants.py, for the families of package
// models; their feedforward module is down_proj.
func ia3Targets(modelType string) TargetModules {
	switch modelType {
	case "llama", "mistral":
		return Modules("k_proj", "v_proj", "down_proj")
	case "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3":
		return Modules("q_proj", "v_proj", "down_proj")
	}
	return nil
}

// feedsForward tells whether the input of a module is multiplied. Of names, the end of the path alone decides, as in PEFT.
func (c IA3Config) feedsForward(path string) (bool, error) {
	if names, ok := c.FeedforwardModules.(moduleNames); ok {
		return slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(path, n) }), nil
	}
	s, err := c.FeedforwardModules.selector()
	if err != nil {
		return false, err
	}
	return s.selects(path)
}

func (c IA3Config) plan(targets []Target, seed int64) (p plan, err error) {
	for _, t := range targets {
		feed, err := c.feedsForward(t.Path)
		if err != nil {
			return p, fmt.Errorf("feedforward_modules: %w", err)
		}
		shape := []int{t.Out, 1}
		if feed {
			shape = []int{1, t.In}
		}
		l := make([]float32, max(shape[0], shape[1]))
		if yes(c.InitIA3Weights) {
			for i := range l {
				l[i] = 1
			}
		} else {
			newStream(seed, t.Path+".ia3_l").normal(l, 1)
		}
		p.forms = append(p.forms, form{tuner: ia3{feed}, tensors: []formTensor{{name: "ia3_l", shape: shape, values: l}},
			merge: func(v [][]float32) models.LinearChange {
				return ia3Change(feed, t, func(i int) float32 { return v[0][i] })
			},
			unmerge: func(v [][]float32) models.LinearChange { // PEFT's tolerance, so that a zero divides
				return ia3Change(feed, t, func(i int) float32 { return 1 / (v[0][i] + 1e-8) })
			}})
	}
	return p, nil
}

// ia3 is the tuner of vectors that multiply inputs, or else outputs.
type ia3 struct{ input bool }

func (t ia3) Key() string { return fmt.Sprint("ia3 ", t.input) }

// Apply implements [nn.Tuner]. Products with l are in float32.
func (t ia3) Apply(o nn.Operands) *Node {
	l := o.Tensors[0]
	if t.input {
		return o.Plain(rescaled(o.X, Reshape(l, -1)))
	}
	return rescaled(o.Plain(o.X), Reshape(l, -1))
}

// rescaled is x times a float32 vector of its last axis, in x's dtype.
func rescaled(x, by *Node) *Node {
	return ConvertDType(Mul(ConvertDType(x, dtypes.Float32), ExpandLeftToRank(by, x.Rank())), x.DType())
}

// ia3Change multiplies columns of the weight, or its rows and the bias.
func ia3Change(input bool, t Target, by func(i int) float32) models.LinearChange {
	change := models.LinearChange{Weight: func(w []float32) {
		for i := range w {
			if input {
				w[i] *= by(i % t.In)
			} else {
				w[i] *= by(i / t.In)
			}
		}
	}}
	if !input {
		change.Bias = func(b []float32) {
			for i := range b {
				b[i] *= by(i)
			}
		}
	}
	return change
}
