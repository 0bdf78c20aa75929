package peft

import (
	"maps"
	"slices"
	"strings"
)

// minimalSuffixes returns the shortest ends of paths, in segments, that cover all targets and no other module:
// _find_minimal_target_modules of peft/tuners/tuners_utils.py. Where there are none, it returns the targets.
//
// Targets are visited in the order of their segments from the last on; each that is not covered yet adds its shortest end
// that no other module has.
func minimalSuffixes(targets, others []string) []string {
	foreign := map[string]bool{}
	for _, o := range others {
		for _, s := range suffixes(o) {
			foreign[s] = true
		}
	}
	ends := make([][]string, len(targets))
	for i, t := range targets {
		ends[i] = suffixes(t)
	}
	slices.SortFunc(ends, slices.Compare)

	required := nameSet{}
	for _, end := range ends {
		path := end[len(end)-1]
		for _, s := range end {
			if !required[s] && !foreign[s] && !required.hasSuffix(path) {
				required[s] = true
				break
			}
		}
	}
	if len(required) == 0 {
		return targets
	}
	return slices.Sorted(maps.Keys(required))
}

// suffixes returns the ends of a path after each of its dots, shortest first, and the path itself.
func suffixes(path string) []string {
	n := strings.Count(path, ".") + 1
	out := make([]string, n)
	for i := n - 1; i >= 0; i-- {
		out[i] = path
		_, path, _ = strings.Cut(path, ".")
	}
	return out
}
