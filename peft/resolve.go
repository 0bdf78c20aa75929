package peft

import (
	"fmt"
	"slices"
	"strings"
)

// Module is a module of a model that may get an adapter. A list may also hold modules that are not linear, with In and Out
// zero; to target one is an error.
type Module struct {
	Path    string // below the model: "model.layers.0.self_attn.q_proj"
	In, Out int    // of y = W x, W [Out, In]
	IsHead  bool   // the output embedding, which AllLinear leaves out
	IsEmbed bool   // the input embedding, of In tokens and Out features, which is no linear but may be targeted
}

// Target is a module that gets an adapter with A [R, In] and B [Out, R], which adds Scaling · B·A to its weight. Of tuners that have
// neither rank nor alpha, R, Alpha and Scaling are 1.
type Target struct {
	Path           string
	R, In, Out     int
	Alpha, Scaling float64
}

// Resolution is a config applied to a model.
type Resolution struct {
	// Config is the given one with defaults filled in and with TargetModules as PEFT would save them: never nil nor
	// AllLinear, and lists of 20 names and more shortened to ends of paths that mean the same.
	Config   LoraConfig
	Targets  []Target // in the order of the modules, at least one
	Warnings []string // what PEFT warns of: parts of the config that have no effect on this model
}

// minTargetsToShorten is PEFT's MIN_TARGET_MODULES_FOR_OPTIMIZATION.
const minTargetsToShorten = 20

// ResolveTargets finds the modules that cfg targets, by PEFT's rules. modelType is config.json's model_type, which decides
// where cfg.TargetModules is nil. If there are no targets, the error is a [*NoMatchingError].
func ResolveTargets(cfg LoraConfig, modelType string, modules []Module) (Resolution, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.checkNumbers(); err != nil {
		return Resolution{}, err
	}
	r, err := cfg.targeting().resolve(modelType, modules)
	cfg.TargetModules = r.as
	return Resolution{Config: cfg, Targets: r.targets, Warnings: r.warnings}, err
}

// targeting is what a config of any tuner says of the modules that get an adapter, and of its rank and scaling there.
type targeting struct {
	TargetModules, ExcludeModules TargetModules
	LayersToTransform             []int
	LayersPattern                 []string
	ModulesToSave                 []string
	R                             int
	Alpha                         float64
	UseRSLora                     bool
	RankPattern                   Ranks
	AlphaPattern                  Alphas
	defaults                      func(modelType string) TargetModules // of nil targets; nil where there are none
	whole                         bool                                 // long lists stay as they are
}

func (c LoraConfig) targeting() targeting {
	return targeting{c.TargetModules, c.ExcludeModules, c.LayersToTransform, c.LayersPattern, c.ModulesToSave, c.R, c.LoraAlpha, c.UseRSLora,
		c.RankPattern, c.AlphaPattern, defaultTargets, false}
}

// validateRanked checks the fields of a config with these, under PEFT's names; alpha is that of Alpha, "" where it is not the
// config's. dropouts are probabilities.
func (c targeting) validateRanked(alpha string, dropouts ...float64) error {
	if alpha != "" && !finite(c.Alpha) {
		return fmt.Errorf("%s %v: must be a finite number", alpha, c.Alpha)
	}
	for _, p := range dropouts {
		if !(p >= 0 && p < 1) {
			return fmt.Errorf("dropout %v: must be a probability, 0 or more and less than 1", p)
		}
	}
	same := LoraConfig{TargetModules: c.TargetModules, ExcludeModules: c.ExcludeModules, LayersToTransform: c.LayersToTransform, LayersPattern: c.LayersPattern,
		R: c.R, RankPattern: c.RankPattern, AlphaPattern: c.AlphaPattern}
	return same.Validate()
}

// resolved is a targeting applied to a model.
type resolved struct {
	as       TargetModules // as PEFT would save them
	targets  []Target
	warnings []string
}

func (c targeting) resolve(modelType string, modules []Module) (resolved, error) {
	if c.TargetModules == nil {
		c.TargetModules = c.defaults(modelType)
	}
	if c.TargetModules == nil {
		return resolved{}, fmt.Errorf("target_modules: PEFT has no default for model_type %q; name them, or use peft.AllLinear", modelType)
	}
	// Before "all-linear" becomes a list: it excludes layers_to_transform as any string does.
	if err := c.checkLayerFields(); err != nil {
		return resolved{}, err
	}
	if c.TargetModules = allLinear(c.TargetModules, modules); !c.whole {
		c.TargetModules = shortened(c.TargetModules, modules)
	}
	m, err := c.matcher()
	if err != nil {
		return resolved{}, err
	}
	v := census{verdicts: make([]verdict, len(modules))}
	for i, mod := range modules {
		if v.verdicts[i], err = m.match(mod.Path); err != nil {
			return resolved{}, err
		}
		v.counts[v.verdicts[i]]++
	}
	if v.counts[targeted] == 0 {
		return resolved{}, noMatching(c, modules, v)
	}
	targets, err := c.targets(modules, v)
	if err != nil {
		return resolved{}, err
	}
	warnings, err := c.idleParts(targets, v, m.layers)
	return resolved{c.TargetModules, targets, warnings}, err
}

// census is the verdict on every module.
type census struct {
	verdicts []verdict
	counts   [otherLayers + 1]int
}

// allLinear replaces "all-linear" by the linears of the model.
func allLinear(t TargetModules, modules []Module) TargetModules {
	if !isAllLinear(t) {
		return t
	}
	var names []string
	for _, m := range modules {
		if m.linear() && !m.IsHead && !m.IsEmbed {
			names = append(names, m.Path)
		}
	}
	return Modules(names...)
}

func (m Module) linear() bool { return m.In > 0 && m.Out > 0 }

// shortened replaces a long list of names by a short one, as PEFT does when it injects adapters.
func shortened(t TargetModules, modules []Module) TargetModules {
	names, ok := t.(moduleNames)
	if !ok || len(names) < minTargetsToShorten || slices.Contains(names, "") {
		return t
	}
	set := make(nameSet, len(names))
	for _, n := range names {
		set[n] = true
	}
	var others []string
	for _, m := range modules {
		if !set[m.Path] && !set.hasSuffix(m.Path) {
			others = append(others, m.Path)
		}
	}
	if short := minimalSuffixes(names, others); len(short) < len(names) {
		return Modules(short...)
	}
	return t
}

func (c targeting) targets(modules []Module, verdicts census) ([]Target, error) {
	s, err := c.scaler()
	if err != nil {
		return nil, err
	}
	targets := make([]Target, 0, verdicts.counts[targeted])
	seen := map[string]bool{}
	for i, m := range modules {
		if verdicts.verdicts[i] != targeted {
			continue
		}
		if !m.linear() {
			return nil, fmt.Errorf("target_modules %v: module %q is targeted, but only linear modules can have an adapter; name others, or exclude it with exclude_modules", c.TargetModules, m.Path)
		}
		if seen[m.Path] {
			return nil, fmt.Errorf("module %q is listed twice", m.Path)
		}
		seen[m.Path] = true
		r, alpha, err := s.at(m.Path)
		if err != nil {
			return nil, err
		}
		targets = append(targets, Target{Path: m.Path, R: r, In: m.In, Out: m.Out, Alpha: alpha, Scaling: s.scaling(r, alpha)})
	}
	return targets, nil
}

// idleParts warns of what the config asks for in vain.
func (c targeting) idleParts(targets []Target, verdicts census, layers *layerFilter) (warnings []string, err error) {
	if c.ExcludeModules != nil && verdicts.counts[excluded] == 0 {
		warnings = append(warnings, fmt.Sprintf("exclude_modules %v excluded no module", c.ExcludeModules))
	}
	if names, ok := c.TargetModules.(moduleNames); ok {
		if idle := namesWithout(names, targets); len(idle) > 0 {
			warnings = append(warnings, fmt.Sprintf("target_modules %v match no module that gets an adapter", moduleNames(idle)))
		}
	}
	idle, err := layers.idle(targets)
	if err != nil {
		return nil, err
	}
	if len(idle) > 0 {
		warnings = append(warnings, fmt.Sprintf("layers_to_transform %v have no module that gets an adapter", idle))
	}
	s, err := c.scaler()
	if err != nil {
		return nil, err
	}
	ranks, err := idleKeys(s.ranks, targets)
	if err != nil {
		return nil, err
	}
	alphas, err := idleKeys(s.alphas, targets)
	if err != nil {
		return nil, err
	}
	for _, p := range []struct {
		field string
		idle  moduleNames
	}{{"rank_pattern", ranks}, {"alpha_pattern", alphas}} {
		if len(p.idle) > 0 {
			warnings = append(warnings, fmt.Sprintf("%s keys %v match no module that gets an adapter", p.field, p.idle))
		}
	}
	return warnings, nil
}

// namesWithout returns the names that no target has.
func namesWithout(names []string, targets []Target) (idle []string) {
	for _, n := range names {
		if !slices.ContainsFunc(targets, func(t Target) bool { return t.Path == n || strings.HasSuffix(t.Path, "."+n) }) {
			idle = append(idle, n)
		}
	}
	return idle
}

// idleKeys returns the keys that no target matches, even if an earlier key would win.
func idleKeys[V int | float64](c compiledPattern[V], targets []Target) (idle []string, err error) {
	for i, e := range c.entries {
		used := false
		for _, t := range targets {
			if used, _, err = c.keys[i].match(t.Path); err != nil {
				return nil, err
			}
			if used {
				break
			}
		}
		if !used {
			idle = append(idle, e.Key)
		}
	}
	return idle, nil
}
