package training

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Optimizer is an update rule with the settings that only it has, and the form in which its moments are kept.
type Optimizer struct {
	Rule Rule
	// EightBit keeps moments in one byte a value, as bitsandbytes does; else they are float32.
	EightBit bool
	// Paged keeps moments in the host's memory, where that is not the device's, and on the device only what is being updated.
	Paged bool
	// Momentum, Dampening and Nesterov are SGD's and, but for Dampening, Muon's.
	Momentum, Dampening float64
	Nesterov            bool
	// NSSteps are Muon's Newton–Schulz iterations; MatchRMS scales its updates to the size of AdamW's.
	NSSteps  int
	MatchRMS bool
}

// Rule is an update rule.
type Rule string

const (
	AdamW     Rule = "adamw"     // arXiv:1711.05101, moments m and v
	Lion      Rule = "lion"      // arXiv:2302.06675, moment m
	SGD       Rule = "sgd"       // torch.optim.SGD, moment m if there is momentum
	Adafactor Rule = "adafactor" // arXiv:1804.04235, means of v over rows and over columns
	Muon      Rule = "muon"      // kellerjordan.github.io/posts/muon, moment m; AdamW for what is no matrix of a layer
)

// String names the optimizer as a saved state does: "adamw", "lion_8bit".
func (o Optimizer) String() string {
	switch {
	case o.EightBit:
		return string(o.Rule) + "_8bit"
	case o.Rule == SGD && o.Momentum > 0:
		return "sgd_momentum"
	}
	return string(o.Rule)
}

// optimizers are the names of transformers' OptimizerNames that are offered, and muon, which it lacks.
var optimizers = map[string]Optimizer{
	"":                  {Rule: AdamW},
	"adamw_torch":       {Rule: AdamW},
	"adamw_torch_fused": {Rule: AdamW},
	"paged_adamw_32bit": {Rule: AdamW, Paged: true},
	"adamw_8bit":        {Rule: AdamW, EightBit: true},
	"adamw_bnb_8bit":    {Rule: AdamW, EightBit: true},
	"paged_adamw_8bit":  {Rule: AdamW, EightBit: true, Paged: true},
	"lion_32bit":        {Rule: Lion},
	"paged_lion_32bit":  {Rule: Lion, Paged: true},
	"lion_8bit":         {Rule: Lion, EightBit: true},
	"paged_lion_8bit":   {Rule: Lion, EightBit: true, Paged: true},
	"adafactor":         {Rule: Adafactor},
	"sgd":               {Rule: SGD},
	"muon":              {Rule: Muon, Momentum: 0.95, Nesterov: true, NSSteps: 5, MatchRMS: true},
}

// OptimizerNames are the names that [ParseOptimizer] knows, sorted, without "".
func OptimizerNames() []string {
	return slices.Sorted(maps.Keys(optimizers))[1:]
}

// optimizerArgs set what args of ParseOptimizer name, by rule.
var optimizerArgs = map[Rule]map[string]func(o *Optimizer, value string) error{
	SGD: {
		"momentum":  func(o *Optimizer, v string) error { return parseNumber(&o.Momentum, v) },
		"dampening": func(o *Optimizer, v string) error { return parseNumber(&o.Dampening, v) },
		"nesterov":  func(o *Optimizer, v string) error { return parseBool(&o.Nesterov, v) },
	},
	Muon: {
		"momentum": func(o *Optimizer, v string) error { return parseNumber(&o.Momentum, v) },
		"nesterov": func(o *Optimizer, v string) error { return parseBool(&o.Nesterov, v) },
		"ns_steps": func(o *Optimizer, v string) (err error) {
			if o.NSSteps, err = strconv.Atoi(v); err != nil || o.NSSteps < 1 || o.NSSteps >= 100 {
				return fmt.Errorf("want a whole number from 1 to 99")
			}
			return nil
		},
		"adjust_lr_fn": func(o *Optimizer, v string) error {
			o.MatchRMS = v == "match_rms_adamw"
			if !o.MatchRMS && v != "original" {
				return fmt.Errorf("want original or match_rms_adamw")
			}
			return nil
		},
	},
}

// ParseOptimizer returns what a name of transformers' OptimizerNames stands for; "" is AdamW with float32 moments. Another
// name is an error that lists those there are. args are transformers' optim_args, "momentum=0.9,nesterov=true":
//
//	sgd    momentum 0, dampening 0, nesterov false
//	muon   momentum 0.95, nesterov true, ns_steps 5, adjust_lr_fn match_rms_adamw (or original, torch's default)
func ParseOptimizer(name, args string) (Optimizer, error) {
	o, ok := optimizers[name]
	if !ok {
		return Optimizer{}, fmt.Errorf("optimizer %q is unknown, want one of %s", name, strings.Join(OptimizerNames(), ", "))
	}
	known := optimizerArgs[o.Rule]
	for arg := range strings.SplitSeq(strings.ReplaceAll(args, " ", ""), ",") {
		if arg == "" {
			continue
		}
		key, value, _ := strings.Cut(arg, "=")
		set, ok := known[key]
		if !ok && len(known) == 0 {
			return Optimizer{}, fmt.Errorf("%q has no argument %q, nor any other; its settings are fields of the configuration", name, key)
		}
		if !ok {
			return Optimizer{}, fmt.Errorf("%q has no argument %q, it has %s", name, key, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		if err := set(&o, value); err != nil {
			return Optimizer{}, fmt.Errorf("%s=%s: %w", key, value, err)
		}
	}
	if o.Rule == SGD && o.Nesterov && (o.Momentum == 0 || o.Dampening != 0) {
		return Optimizer{}, fmt.Errorf("nesterov=true needs a momentum and no dampening, as torch.optim.SGD does")
	}
	return o, nil
}

func parseNumber(to *float64, text string) (err error) {
	if *to, err = strconv.ParseFloat(text, 64); err != nil || !(*to >= 0 && *to < 1) {
		return fmt.Errorf("want a number of at least 0 and below 1")
	}
	return nil
}

func parseBool(to *bool, text string) (err error) {
	if *to, err = strconv.ParseBool(strings.ToLower(text)); err != nil {
		return fmt.Errorf("want true or false")
	}
	return nil
}
