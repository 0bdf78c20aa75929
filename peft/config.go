package peft

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// PEFT's defaults, which the zero values of [LoraConfig] stand for.
const (
	DefaultR         = 8
	DefaultLoraAlpha = 8.0
)

// Init says how the A and B of new adapters start: PEFT's init_lora_weights. Case does not matter.
type Init string

// The initial values; [InitAdapter] has the distributions. Those of the second group change the base: see [GetPeftModel].
const (
	InitTrue       Init = "true"       // PEFT's True, also the zero value: A uniform, B zero: the model starts unchanged
	InitGaussian   Init = "gaussian"   // A normal with standard deviation 1/r, B zero
	InitFalse      Init = "false"      // PEFT's False: A and B uniform: the model starts changed; for tests
	InitOrthogonal Init = "orthogonal" // A and B normal and of orthogonal ranks: B·A is zero though neither is; r must be even
	// InitEVA starts as InitTrue until [PeftModel.InitializeEVA] makes A the principal components of each linear's input
	// (arXiv:2410.07170).
	InitEVA Init = "eva"

	InitPiSSA Init = "pissa" // the largest singular values of the weight, which keeps the rest (arXiv:2404.02948); see also [InitPiSSANiter]
	InitOLoRA Init = "olora" // the first columns of the weight's QR decomposition; the weight keeps the rest (arXiv:2406.01775)
	// InitLoftQ makes up for the error of quantization (arXiv:2310.08659): see [LoftQConfig].
	InitLoftQ Init = "loftq"
)

// InitPiSSANiter is PEFT's "pissa_niter_N": [InitPiSSA] by randomized decomposition, the more exact the larger n (4 to 16).
// The random numbers follow from [Seed], which must be the same where an adapter is loaded again.
func InitPiSSANiter(n int) Init { return Init(pissaNiter + strconv.Itoa(n)) }

// Other names of PEFT, as they stand in adapter_config.json.
const (
	TaskCausalLM = "CAUSAL_LM"
	peftTypeLora = "LORA"
)

// LoraConfig configures LoRA (arXiv:2106.09685): y = W x + Scaling · B(A(dropout(x))) on the targeted linears. Fields, JSON
// and defaults are those of PEFT 0.21's LoraConfig; a zero field is PEFT's default. The fields under "refused" are there
// to be named in an error: what they ask for is not implemented.
type LoraConfig struct {
	R           int     `json:"r"`            // rank of A [R, in] and B [out, R]; 0: 8
	LoraAlpha   float64 `json:"lora_alpha"`   // 0: 8; Scaling = LoraAlpha/R
	LoraDropout float64 `json:"lora_dropout"` // probability of dropping an input of A while training, in [0, 1)
	UseRSLora   bool    `json:"use_rslora"`   // Scaling = LoraAlpha/√R (arXiv:2312.03732)
	// UseDora trains a length for each row of W + Scaling·B·A beside A and B (arXiv:2402.09353), whose norm counts as a
	// constant in gradients.
	UseDora bool `json:"use_dora"`

	// Bias says which biases of the base are trained: BiasNone, also for "", BiasAll or BiasLoraOnly. Unlike in PEFT, they
	// are each adapter's own.
	Bias string `json:"bias"`
	// ModulesToSave are trained in full, each adapter's own copy: "embed_tokens", "lm_head".
	ModulesToSave []string `json:"modules_to_save"`
	// TrainableTokenIndices are tokens of which the embedding's rows are trained, and those of a head that is tied to it.
	TrainableTokenIndices []int `json:"trainable_token_indices"`
	// EnsureWeightTying makes embedding and head one copy where the base's are one and ModulesToSave has either.
	EnsureWeightTying bool `json:"ensure_weight_tying"`
	LoraBias          bool `json:"lora_bias"` // trains a bias of B: y += Scaling · (B(A x) + b)

	// TargetModules gets adapters, ExcludeModules does not even if targeted. Nil targets are those that PEFT's table has
	// for the model type, q_proj and v_proj for most; nil excludes are none.
	TargetModules  TargetModules `json:"target_modules"`
	ExcludeModules TargetModules `json:"exclude_modules"`

	// LayersToTransform restricts targets that match by the end of their path to these layers, counted from 0; nil is all.
	// LayersPattern names the list of layers ("layers", "h"), needed where a path has another number before it.
	LayersToTransform []int    `json:"layers_to_transform"`
	LayersPattern     []string `json:"layers_pattern"`

	RankPattern  Ranks  `json:"rank_pattern"`  // ranks that differ from R
	AlphaPattern Alphas `json:"alpha_pattern"` // alphas that differ from LoraAlpha

	InitLoraWeights Init         `json:"init_lora_weights"` // "": InitTrue
	LoftQConfig     *LoftQConfig `json:"loftq_config"`      // of InitLoftQ; nil: the defaults
	EvaConfig       *EvaConfig   `json:"eva_config"`        // of InitEVA; nil: the defaults

	TaskType            string `json:"task_type"`               // "" or "CAUSAL_LM"; files get the latter
	BaseModelNameOrPath string `json:"base_model_name_or_path"` // folder or hub id that the adapter belongs to
	Revision            string `json:"revision"`                // of the base model on the hub
	InferenceMode       bool   `json:"inference_mode"`          // true in every file, as PEFT writes it
	PeftType            string `json:"peft_type"`               // "" or "LORA"

	// Refused unless they have PEFT's default.

	FanInFanOut      bool     `json:"fan_in_fan_out"` // weights stored [in, out], GPT-2's Conv1D
	TargetParameters []string `json:"target_parameters"`
}

// WithDefaults returns the config with PEFT's defaults in its zero fields. TargetModules stay, they depend on the model.
func (c LoraConfig) WithDefaults() LoraConfig {
	if c.R == 0 {
		c.R = DefaultR
	}
	if c.LoraAlpha == 0 {
		c.LoraAlpha = DefaultLoraAlpha
	}
	if c.InitLoraWeights == "" {
		c.InitLoraWeights = InitTrue
	}
	c.InitLoraWeights = Init(strings.ToLower(string(c.InitLoraWeights)))
	if c.Bias == "" {
		c.Bias = BiasNone
	}
	if c.TaskType == "" {
		c.TaskType = TaskCausalLM
	}
	if c.PeftType == "" {
		c.PeftType = peftTypeLora
	}
	return c
}

// Validate reports the first field with a value that PEFT rejects or that is not supported here, under its PEFT name.
func (c LoraConfig) Validate() error {
	c = c.WithDefaults()
	if err := c.checkSupported(); err != nil {
		return err
	}
	if err := c.checkNumbers(); err != nil {
		return err
	}
	if err := c.checkText(); err != nil {
		return err
	}
	if _, err := c.targeting().scaler(); err != nil {
		return err
	}
	_, err := c.targeting().matcher()
	return err
}

// Scaling returns what multiplies B·A on a module: alpha/r, or alpha/√r with UseRSLora, with the patterns' values of both.
// path is the module's below the model: "model.layers.0.self_attn.q_proj".
func (c LoraConfig) Scaling(path string) (float64, error) {
	c = c.WithDefaults()
	if err := c.checkNumbers(); err != nil {
		return 0, err
	}
	s, err := c.targeting().scaler()
	if err != nil {
		return 0, err
	}
	r, alpha, err := s.at(path)
	if err != nil {
		return 0, err
	}
	return s.scaling(r, alpha), nil
}

func (c LoraConfig) checkNumbers() error {
	if c.R < 0 {
		return fmt.Errorf("r %d: the rank must be positive (0 stands for %d)", c.R, DefaultR)
	}
	if !finite(c.LoraAlpha) {
		return fmt.Errorf("lora_alpha %v: must be a finite number", c.LoraAlpha)
	}
	if !(c.LoraDropout >= 0 && c.LoraDropout < 1) {
		return fmt.Errorf("lora_dropout %v: must be a probability, 0 or more and less than 1", c.LoraDropout)
	}
	for _, e := range c.RankPattern {
		if e.Value <= 0 {
			return fmt.Errorf("rank_pattern %q: rank %d must be positive; use exclude_modules to leave modules out", e.Key, e.Value)
		}
	}
	for _, e := range c.AlphaPattern {
		if !finite(e.Value) {
			return fmt.Errorf("alpha_pattern %q: alpha %v must be a finite number", e.Key, e.Value)
		}
	}
	for _, i := range c.LayersToTransform {
		if i < 0 {
			return fmt.Errorf("layers_to_transform holds %d: layers are counted from 0", i)
		}
	}
	return nil
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }

// checkText refuses what JSON cannot hold.
func (c LoraConfig) checkText() error {
	text := []struct{ field, value string }{{"base_model_name_or_path", c.BaseModelNameOrPath}, {"revision", c.Revision}}
	for _, t := range []struct {
		field  string
		target TargetModules
	}{{"target_modules", c.TargetModules}, {"exclude_modules", c.ExcludeModules}} {
		if r, ok := t.target.(Regexp); ok {
			text = append(text, struct{ field, value string }{t.field, string(r)})
		}
	}
	for _, p := range c.LayersPattern {
		text = append(text, struct{ field, value string }{"layers_pattern", p})
	}
	for _, e := range c.RankPattern {
		text = append(text, struct{ field, value string }{"rank_pattern", e.Key})
	}
	for _, e := range c.AlphaPattern {
		text = append(text, struct{ field, value string }{"alpha_pattern", e.Key})
	}
	for _, t := range text {
		if !utf8.ValidString(t.value) {
			return fmt.Errorf("%s %q is not valid UTF-8", t.field, t.value)
		}
	}
	return nil
}

// taskTypes are PEFT's; those that need other heads are refused.
var taskTypes = []string{TaskCausalLM, "SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"}

func (c LoraConfig) checkSupported() error {
	switch {
	case c.PeftType != peftTypeLora:
		return fmt.Errorf("peft_type %q is not supported: this package has LORA", c.PeftType)
	case c.TaskType != TaskCausalLM && slices.Contains(taskTypes, c.TaskType):
		return fmt.Errorf("task_type %q is not supported yet: models here are causal language models; use %q or leave it empty", c.TaskType, TaskCausalLM)
	case c.TaskType != TaskCausalLM:
		return fmt.Errorf("task_type %q is unknown; PEFT has %s", c.TaskType, strings.Join(taskTypes, ", "))
	case c.FanInFanOut:
		return unsupported("fan_in_fan_out", "true", "the linears here store their weights [out, in]; use false")
	case len(c.TargetParameters) > 0:
		return unsupported("target_parameters", moduleNames(c.TargetParameters).String(),
			"it is for parameters of no linear, such as the experts of a mixture, which the models here do not have; name the linears in target_modules")
	}
	if err := c.checkInit(); err != nil {
		return err
	}
	if err := c.checkBias(); err != nil {
		return err
	}
	return c.checkEnds()
}

// dissolveRemedy is what to do with a trained adapter that cannot be loaded here.
const dissolveRemedy = "leave it out; an adapter that already has it can be merged into its base in PEFT (merge_and_unload) and loaded as a model"

func unsupported(field, value, remedy string) error {
	return fmt.Errorf("%s %s is not supported yet: %s", field, value, remedy)
}
