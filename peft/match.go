package peft

import (
	"fmt"
	"slices"
	"strconv"
)

// verdict is what the rules say of a module.
type verdict int

const (
	unmatched verdict = iota
	targeted
	excluded    // by exclude_modules, or because modules_to_save has it
	otherLayers // its name matches, its layer is not to be transformed
)

// matcher applies the rules of peft/tuners/tuners_utils.py, check_target_module_exists, in their order: exclude_modules,
// modules_to_save, target_modules; the layer filter concerns only names that match by the end of the path.
type matcher struct {
	exclude selector // nil: none
	save    []*pythonRegexp
	target  selector
	layers  *layerFilter // nil: all
}

// matcher checks the fields that say what is targeted and prepares matching. Nil TargetModules target nothing.
func (c targeting) matcher() (*matcher, error) {
	if err := c.checkLayerFields(); err != nil {
		return nil, err
	}
	m := &matcher{target: nameSet{}}
	var err error
	if c.ExcludeModules != nil {
		if m.exclude, err = c.ExcludeModules.selector(); err != nil {
			return nil, fmt.Errorf("exclude_modules %w", err)
		}
	}
	for _, name := range c.ModulesToSave {
		re, err := compileWithin(`(^|.*\.)`, name, `($|\..*)`)
		if err != nil {
			return nil, fmt.Errorf("modules_to_save %q: %w", name, err)
		}
		m.save = append(m.save, re)
	}
	if c.TargetModules != nil {
		if m.target, err = c.TargetModules.selector(); err != nil {
			return nil, fmt.Errorf("target_modules %w", err)
		}
	}
	if len(c.LayersToTransform) > 0 {
		if m.layers, err = newLayerFilter(c.LayersToTransform, c.LayersPattern); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (c targeting) checkLayerFields() error {
	if r, ok := c.TargetModules.(Regexp); ok {
		if c.LayersToTransform != nil {
			return fmt.Errorf("layers_to_transform %v cannot be used with target_modules %v, a string: say the layers in the expression, or list the modules", c.LayersToTransform, r)
		}
		if c.LayersPattern != nil {
			return fmt.Errorf("layers_pattern %v cannot be used with target_modules %v, a string: say the layers in the expression, or list the modules", moduleNames(c.LayersPattern), r)
		}
	}
	if len(c.LayersPattern) > 0 && c.LayersToTransform == nil {
		return fmt.Errorf("layers_pattern %v needs layers_to_transform, the numbers of the layers", moduleNames(c.LayersPattern))
	}
	if slices.Contains(c.LayersPattern, "") {
		return fmt.Errorf("layers_pattern %v holds an empty name; leave layers_pattern nil for any list of layers", moduleNames(c.LayersPattern))
	}
	return nil
}

func (m *matcher) match(path string) (verdict, error) {
	if m.exclude != nil {
		if ok, err := m.exclude.selects(path); err != nil || ok {
			return excluded, err
		}
	}
	for _, re := range m.save {
		if ok, _, err := re.match(path); err != nil || ok {
			return excluded, err
		}
	}
	names, isList := m.target.(nameSet)
	if !isList {
		ok, err := m.target.selects(path)
		if err != nil || !ok {
			return unmatched, err
		}
		return targeted, nil
	}
	switch {
	case names[path]:
		return targeted, nil
	case !names.hasSuffix(path):
		return unmatched, nil
	case m.layers == nil:
		return targeted, nil
	}
	layer, ok, err := m.layers.layerOf(path)
	if err != nil {
		return unmatched, err
	}
	if !ok || !slices.Contains(m.layers.wanted, layer) {
		return otherLayers, nil
	}
	return targeted, nil
}

// layerFilter keeps modules of some layers.
type layerFilter struct {
	wanted  []int
	numbers []*pythonRegexp // the group "idx" of the first that matches a path is its layer
}

// newLayerFilter without names of the layer list takes the first number in a path that is not its first two segments'.
// The lazy prefixes find the layer, not the expert below it.
func newLayerFilter(wanted []int, patterns []string) (*layerFilter, error) {
	f := &layerFilter{wanted: wanted}
	for _, p := range patterns {
		re, err := compileWithin(`(?:^|.*?\.)`, p, `\.(?P<idx>\d+)\.`)
		if err != nil {
			return nil, fmt.Errorf("layers_pattern %q: %w", p, err)
		}
		f.numbers = append(f.numbers, re)
	}
	if len(patterns) == 0 {
		re, err := compilePython(`.*?\.[^.]*\.(?P<idx>\d+)\.`, prefixMatch)
		if err != nil {
			return nil, err
		}
		f.numbers = append(f.numbers, re)
	}
	return f, nil
}

func (f *layerFilter) layerOf(path string) (layer int, ok bool, err error) {
	for _, re := range f.numbers {
		found, index, err := re.match(path)
		if err != nil {
			return 0, false, err
		}
		if found {
			layer, err := strconv.Atoi(index)
			return layer, err == nil, nil
		}
	}
	return 0, false, nil
}

// idle returns the layers that are to be transformed and have no target.
func (f *layerFilter) idle(targets []Target) (idle []int, err error) {
	if f == nil {
		return nil, nil
	}
	used := map[int]bool{}
	for _, t := range targets {
		layer, ok, err := f.layerOf(t.Path)
		if err != nil {
			return nil, err
		}
		if ok {
			used[layer] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(f.wanted), func(layer int) bool { return used[layer] }), nil
}
