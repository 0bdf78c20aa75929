package training

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Optimizer is an update rule and the form in which its moments are kept.
type Optimizer struct {
	Rule Rule
	// EightBit keeps moments in one byte a value, as bitsandbytes does; else they are float32.
	EightBit bool
}

// Rule is an update rule.
type Rule string

const (
	AdamW Rule = "adamw" // arXiv:1711.05101, moments m and v
	Lion  Rule = "lion"  // arXiv:2302.06675, moment m
)

// String names the optimizer as a saved state does: "adamw", "lion_8bit".
func (o Optimizer) String() string {
	if o.EightBit {
		return string(o.Rule) + "_8bit"
	}
	return string(o.Rule)
}

// optimizers are the names of transformers' OptimizerNames that are offered. Those that begin with paged are the same as
// without it: bitsandbytes keeps the moments of paged optimizers in memory that the CUDA driver moves between host and
// GPU, which PJRT does not have; they stay on the device.
var optimizers = map[string]Optimizer{
	"":                  {AdamW, false},
	"adamw_torch":       {AdamW, false},
	"adamw_torch_fused": {AdamW, false},
	"paged_adamw_32bit": {AdamW, false},
	"adamw_8bit":        {AdamW, true},
	"adamw_bnb_8bit":    {AdamW, true},
	"paged_adamw_8bit":  {AdamW, true},
	"lion_32bit":        {Lion, false},
	"paged_lion_32bit":  {Lion, false},
	"lion_8bit":         {Lion, true},
	"paged_lion_8bit":   {Lion, true},
}

// OptimizerNames are the names that [ParseOptimizer] knows, sorted, without "".
func OptimizerNames() []string {
	return slices.Sorted(maps.Keys(optimizers))[1:]
}

// ParseOptimizer returns what a name of transformers' OptimizerNames stands for; "" is AdamW with float32 moments. Another
// name is an error that lists those there are.
func ParseOptimizer(name string) (Optimizer, error) {
	if o, ok := optimizers[name]; ok {
		return o, nil
	}
	return Optimizer{}, fmt.Errorf("optimizer %q is unknown, want one of %s", name, strings.Join(OptimizerNames(), ", "))
}
