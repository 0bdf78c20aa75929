package peft

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// pissaNiter begins the names of [InitPiSSANiter].
const pissaNiter = "pissa_niter_"

// LoftQConfig configures [InitLoftQ]: A and B are the largest singular values of what quantizing the weight loses. Zero
// fields are PEFT's defaults.
//
// On an unquantized base the weight then becomes what its quantized form stands for. On a base that was quantized while it was
// loaded, weights stay as they are, LoftQIter must be 1 (PEFT's replace_lora_weights_loftq), and files say
// init_lora_weights true, since nothing is to be done when they are loaded.
type LoftQConfig struct {
	LoftQBits int `json:"loftq_bits"` // 4: NF4 in blocks of 64; 8: int8; 0: 4
	LoftQIter int `json:"loftq_iter"` // how often quantizing and decomposing alternate; 0: 1
}

func (q *LoftQConfig) withDefaults() LoftQConfig {
	var c LoftQConfig
	if q != nil {
		c = *q
	}
	if c.LoftQBits == 0 {
		c.LoftQBits = 4
	}
	if c.LoftQIter == 0 {
		c.LoftQIter = 1
	}
	return c
}

func (q LoftQConfig) json() object {
	return object{{"loftq_bits", q.LoftQBits}, {"loftq_iter", q.LoftQIter}}
}

// EvaConfig configures [InitEVA]. Zero fields are PEFT's defaults.
type EvaConfig struct {
	Rho                  float64 `json:"rho"`                    // up to Rho times its rank is what a linear may get; 0: 2
	Tau                  float64 `json:"tau"`                    // cosine of a component before and after a batch from which on it has converged; 0: 0.99
	UseLabelMask         *bool   `json:"use_label_mask"`         // leave tokens out whose label is LabelMaskValue; nil: true
	LabelMaskValue       int     `json:"label_mask_value"`       // 0: -100
	Whiten               bool    `json:"whiten"`                 // divide components by the root of their singular value
	AdjustScalingFactors *bool   `json:"adjust_scaling_factors"` // alphas follow ranks, so that scaling stays; nil: true
}

func (e *EvaConfig) withDefaults() EvaConfig {
	var c EvaConfig
	if e != nil {
		c = *e
	}
	yes := true
	if c.Rho == 0 {
		c.Rho = 2
	}
	if c.Tau == 0 {
		c.Tau = 0.99
	}
	if c.UseLabelMask == nil {
		c.UseLabelMask = &yes
	}
	if c.LabelMaskValue == 0 {
		c.LabelMaskValue = -100
	}
	if c.AdjustScalingFactors == nil {
		c.AdjustScalingFactors = &yes
	}
	return c
}

func (e EvaConfig) json() object {
	return object{{"adjust_scaling_factors", *e.AdjustScalingFactors}, {"label_mask_value", e.LabelMaskValue}, {"rho", e.Rho},
		{"tau", e.Tau}, {"use_label_mask", *e.UseLabelMask}, {"whiten", e.Whiten}}
}

// niter is N of pissa_niter_N; false if i is something else.
func (i Init) niter() (n int, ok bool) {
	text, ok := strings.CutPrefix(string(i), pissaNiter)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= 0
}

// changesBase tells whether weights of the base become others where adapters start so.
func (i Init) changesBase() bool {
	_, randomized := i.niter()
	return randomized || i == InitPiSSA || i == InitOLoRA || i == InitLoftQ
}

// refusedInits are those of PEFT that are not implemented.
var refusedInits = []string{"corda", "lora_ga", "mica"}

const knownInits = `true, "gaussian", "orthogonal", "pissa", "pissa_niter_16", "olora", "loftq", "eva" or false`

// check expects the name in lower case.
func (i Init) check() error {
	switch {
	case i == InitTrue, i == InitFalse, i == InitGaussian, i == InitOrthogonal, i == InitEVA, i.changesBase():
		return nil
	case strings.HasPrefix(string(i), pissaNiter):
		return fmt.Errorf(`init_lora_weights %q: N of "pissa_niter_N" must be a number, 0 or more; use "pissa_niter_16"`, string(i))
	case slices.Contains(refusedInits, string(i)):
		return unsupported("init_lora_weights", fmt.Sprintf("%q", string(i)), "use "+knownInits)
	}
	return fmt.Errorf("init_lora_weights %q is unknown; use %s", string(i), knownInits)
}

// checkInit checks how adapters start, with defaults filled in.
func (c LoraConfig) checkInit() error {
	if err := c.InitLoraWeights.check(); err != nil {
		return err
	}
	switch q, e := c.LoftQConfig.withDefaults(), c.EvaConfig.withDefaults(); {
	case q.LoftQBits != 4 && q.LoftQBits != 8:
		return fmt.Errorf("loftq_config: loftq_bits %d: must be 4 (NF4) or 8 (int8)", q.LoftQBits)
	case q.LoftQIter < 1:
		return fmt.Errorf("loftq_config: loftq_iter %d: must be 1 or more", q.LoftQIter)
	case !(e.Rho >= 1):
		return fmt.Errorf("eva_config: rho %v: must be 1 or more", e.Rho)
	case !(e.Tau > 0 && e.Tau <= 1):
		return fmt.Errorf("eva_config: tau %v: must be more than 0 and at most 1", e.Tau)
	case c.InitLoraWeights == InitOrthogonal:
		return c.checkEvenRanks()
	}
	return nil
}

func (c LoraConfig) checkEvenRanks() error {
	if c.R%2 != 0 {
		return fmt.Errorf(`r %d: init_lora_weights "orthogonal" needs even ranks`, c.R)
	}
	for _, e := range c.RankPattern {
		if e.Value%2 != 0 {
			return fmt.Errorf(`rank_pattern %q: rank %d: init_lora_weights "orthogonal" needs even ranks`, e.Key, e.Value)
		}
	}
	return nil
}
