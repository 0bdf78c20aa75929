package peft

import (
	"fmt"
	"slices"
	"strings"
)

// NoMatch is why a config targets nothing.
type NoMatch string

// The reasons, as PEFT tells them apart, and layers that PEFT only hints at.
const (
	NoTargets     NoMatch = "no targets"   // target_modules is an empty list
	NotFound      NoMatch = "not found"    // no module has such a name
	AllExcluded   NoMatch = "all excluded" // exclude_modules or modules_to_save have all modules
	NoLayer       NoMatch = "no layer"     // the names match, but in no layer of layers_to_transform
	NoneRemaining NoMatch = "none remains" // what target_modules match is excluded
)

// NoMatchingError says that a config gives no module of a model an adapter: PEFT's NoMatchingPeftModuleError.
type NoMatchingError struct {
	Reason            NoMatch
	TargetModules     TargetModules // as resolved
	ExcludeModules    TargetModules
	LayersToTransform []int
	LayersPattern     []string
	// ModuleNames are the last segments of the paths of the model's linear modules, in the model's order, each once.
	ModuleNames []string
	NamesMatch  int // modules whose names match, but not their layers
}

func noMatching(cfg targeting, modules []Module, c census) error {
	e := &NoMatchingError{TargetModules: cfg.TargetModules, ExcludeModules: cfg.ExcludeModules,
		LayersToTransform: cfg.LayersToTransform, LayersPattern: cfg.LayersPattern, NamesMatch: c.counts[otherLayers]}
	for _, m := range modules {
		if name := m.Path[strings.LastIndexByte(m.Path, '.')+1:]; m.linear() && !slices.Contains(e.ModuleNames, name) {
			e.ModuleNames = append(e.ModuleNames, name)
		}
	}
	names, isList := cfg.TargetModules.(moduleNames)
	switch {
	case c.counts[otherLayers] > 0:
		e.Reason = NoLayer
	case c.counts[excluded] > 0 && c.counts[unmatched] == 0:
		e.Reason = AllExcluded
	case c.counts[excluded] > 0:
		e.Reason = NoneRemaining
	case isList && len(names) == 0:
		e.Reason = NoTargets
	default:
		e.Reason = NotFound
	}
	return e
}

// Error implements error.
func (e *NoMatchingError) Error() string {
	var b strings.Builder
	switch e.Reason {
	case AllExcluded:
		fmt.Fprintf(&b, "All modules were excluded: check target_modules %v, exclude_modules %v and modules_to_save", e.TargetModules, orNone(e.ExcludeModules))
	case NoneRemaining:
		fmt.Fprintf(&b, "No modules were targeted for adaptation: what target_modules %v match is excluded by exclude_modules %v or modules_to_save, or does not exist", e.TargetModules, orNone(e.ExcludeModules))
	case NoLayer:
		fmt.Fprintf(&b, "Target modules %v not found in the layers of layers_to_transform %v", e.TargetModules, e.LayersToTransform)
		if len(e.LayersPattern) > 0 {
			fmt.Fprintf(&b, " with layers_pattern %v", moduleNames(e.LayersPattern))
		}
		fmt.Fprintf(&b, ", though the names match %d modules elsewhere: check the numbers (from 0) and the name of the list of layers", e.NamesMatch)
	case NoTargets:
		b.WriteString("target_modules is an empty list: name modules, use peft.AllLinear, or leave it nil for the model type's default")
	default:
		fmt.Fprintf(&b, "Target modules %v not found in the base model", e.TargetModules)
		if names, ok := e.TargetModules.(moduleNames); ok && slices.ContainsFunc(names, func(n string) bool { return isAllLinear(Regexp(n)) }) {
			b.WriteString(` ("all-linear" is a value of its own, peft.AllLinear, not a name in a list)`)
		}
	}
	b.WriteString(e.modelHas())
	return b.String()
}

// modelHas lists what could be targeted.
func (e *NoMatchingError) modelHas() string {
	const most = 30
	switch n := len(e.ModuleNames); {
	case n == 0:
		return "; the model has no linear modules"
	case n > most:
		return fmt.Sprintf("; the model has %s and %d others", strings.Join(e.ModuleNames[:most], ", "), n-most)
	}
	return "; the model has " + strings.Join(e.ModuleNames, ", ")
}

func orNone(t TargetModules) string {
	if t == nil {
		return "None"
	}
	return t.String()
}
