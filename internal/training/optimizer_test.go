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
		"lion_8bit": "lion_8bit", "paged_lion_8bit": "lion_8bit",
	} {
		if o, err := ParseOptimizer(name); err != nil || o.String() != want {
			t.Errorf("%q is %s, error %v, want %s", name, o, err, want)
		}
		if name != "" && !slices.Contains(OptimizerNames(), name) {
			t.Errorf("%q is not among the names %q", name, OptimizerNames())
		}
	}
	for _, name := range []string{"adamw", "AdamW_8bit", "sgd"} {
		if o, err := ParseOptimizer(name); err == nil || !strings.Contains(err.Error(), "want one of adamw_8bit, adamw_bnb_8bit") {
			t.Errorf("%q is %v, error %v", name, o, err)
		}
	}
	if slices.Contains(OptimizerNames(), "") || !slices.IsSorted(OptimizerNames()) {
		t.Errorf("names %q", OptimizerNames())
	}
}
