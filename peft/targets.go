package peft

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// TargetModules names modules of a model, as PEFT's target_modules and exclude_modules do. It is [AllLinear], [Modules] or
// a [Regexp]; nil means None.
type TargetModules interface {
	// String is the value as adapter_config.json has it.
	fmt.Stringer

	// selector prepares matching; errors do not name the field.
	selector() (selector, error)
	// json is what adapter_config.json holds: a string or a sorted list without doubles.
	json() any
}

// AllLinear targets every linear module but the output embedding. Its value is PEFT's "all-linear", in any case.
const AllLinear Regexp = "all-linear"

// Regexp targets modules whose whole path matches a Python regular expression, as re.fullmatch has it:
// `.*\.(q|v)_proj`. Patterns that Go's engine knows take linear time; others (look-around, back-references) run on a
// backtracking one with a time limit. \d, \w and \s mean ASCII in the former.
type Regexp string

// Modules targets modules by name: a whole path, or the end of one after a dot ("q_proj", "self_attn.q_proj").
// Without names it targets nothing.
func Modules(names ...string) TargetModules { return moduleNames(sortedSet(names)) }

// moduleNames is sorted and without doubles: PEFT holds a set.
type moduleNames []string

func (r Regexp) String() string      { return string(appendPythonJSON(nil, string(r), compact)) }
func (n moduleNames) String() string { return string(appendPythonJSON(nil, []string(n), compact)) }

func (r Regexp) json() any      { return string(r) }
func (n moduleNames) json() any { return []string(n) }

func isAllLinear(t TargetModules) bool {
	r, ok := t.(Regexp)
	return ok && strings.EqualFold(string(r), string(AllLinear))
}

// selector tells which module paths are meant.
type selector interface {
	selects(path string) (bool, error)
}

func (r Regexp) selector() (selector, error) {
	if r == "" {
		return nil, fmt.Errorf(`"": an empty expression matches no module; leave the field nil for PEFT's default`)
	}
	re, err := compilePython(string(r), fullMatch)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	return regexpSelector{re}, nil
}

type regexpSelector struct{ re *pythonRegexp }

func (s regexpSelector) selects(path string) (bool, error) {
	ok, _, err := s.re.match(path)
	return ok, err
}

func (n moduleNames) selector() (selector, error) {
	set := make(nameSet, len(n))
	for _, name := range n {
		if name == "" {
			return nil, fmt.Errorf("%s: it holds an empty name", n)
		}
		if !utf8.ValidString(name) {
			return nil, fmt.Errorf("%q is not valid UTF-8", name)
		}
		set[name] = true
	}
	return set, nil
}

// nameSet holds whole paths and ends of paths.
type nameSet map[string]bool

func (s nameSet) selects(path string) (bool, error) { return s[path] || s.hasSuffix(path), nil }

// hasSuffix reports whether a name of the set is the end of path after one of its dots.
func (s nameSet) hasSuffix(path string) bool {
	for {
		_, rest, ok := strings.Cut(path, ".")
		if !ok {
			return false
		}
		if s[rest] {
			return true
		}
		path = rest
	}
}

// sortedSet copies names in order (Python's order of strings is that of UTF-8 bytes), each once.
func sortedSet(names []string) []string {
	names = slices.Sorted(slices.Values(names))
	if names == nil {
		names = []string{}
	}
	return slices.Compact(names)
}
