package training

import (
	"slices"
	"strings"
	"testing"
)

func TestOptimizersHaveTransformersNames(t *testing.T) {
	for name, want := range map[string]string{
		"": "adamw", "adamw_torch": "adamw", "adamw_torch_fused": "adamw", "paged_adamw_32bit": "adamw", "adamw_8bit": "adamw_8bit",
		"adamw_bnb_8bit": "adamw_8bit", "paged_adamw_8bit": "adamw_8bit", "lion_32bit": "lion", "paged_lion_32bit": "lion",
		"lion_8bit": "lion_8bit", "paged_lion_8bit": "lion_8bit", "sgd": "sgd", "adafactor": "adafactor", "muon": "muon",
	} {
		if o, err := ParseOptimizer(name, ""); err != nil || o.String() != want {
			t.Errorf("%q is %s, error %v, want %s", name, o, err, want)
		}
		if name != "" && !slices.Contains(OptimizerNames(), name) {
			t.Errorf("%q is not among the names %q", name, OptimizerNames())
		}
	}
	for _, name := range []string{"adamw", "AdamW_8bit", "galore_adamw"} {
		if o, err := ParseOptimizer(name, ""); err == nil || !strings.Contains(err.Error(), "want one of adafactor, adamw_8bit, adamw_bnb_8bit") {
			t.Errorf("%q is %v, error %v", name, o, err)
		}
	}
	if slices.Contains(OptimizerNames(), "") || !slices.IsSorted(OptimizerNames()) {
		t.Errorf("names %q", OptimizerNames())
	}
}

func TestOptimizersReadTheirArguments(t *testing.T) {
	for _, c := range []struct {
		name, args string
		want       Optimizer
	}{
		{"sgd", "momentum=0.9, nesterov=True", Optimizer{Rule: SGD, Momentum: 0.9, Nesterov: true}},
		{"sgd", "momentum=0.8,dampening=0.1", Optimizer{Rule: SGD, Momentum: 0.8, Dampening: 0.1}},
		{"muon", "momentum=0.9,nesterov=false,ns_steps=7,adjust_lr_fn=original", Optimizer{Rule: Muon, Momentum: 0.9, NSSteps: 7}},
	} {
		if got, err := ParseOptimizer(c.name, c.args); err != nil || got != c.want {
			t.Errorf("%s %s: %+v, %v, want %+v", c.name, c.args, got, err, c.want)
		}
	}
	for _, c := range [][]string{
		{"adamw_torch", "momentum=0.9", `"momentum"`, "nor any other"},
		{"sgd", "weight_decay=0.1", `"weight_decay"`, "dampening, momentum, nesterov"},
		{"sgd", "momentum=x", "momentum=x", "at least 0 and below 1"},
		{"sgd", "nesterov=true", "needs a momentum"},
		{"muon", "ns_steps=0", "ns_steps=0", "1 to 99"},
		{"muon", "adjust_lr_fn=huge", "adjust_lr_fn=huge", "match_rms_adamw"},
	} {
		_, err := ParseOptimizer(c[0], c[1])
		for _, says := range c[2:] {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s %s: error %v does not say %q", c[0], c[1], err, says)
			}
		}
	}
}
