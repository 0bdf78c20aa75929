package nn

import "slices"

// An adapter's layout may hold norms and linears of its own, trained copies of the base's, under the names that those have.
// Whatever was bound to a layer last is what it computes with, so that programs see the copies where the adapter is bound and
// the base's weights where it is not. Linears that the base stores as one with a copied one are computed apart from it.

// replaced tells whether a linear of the run is another one in a layout that was bound later.
func (l *Layer) replaced(r run) bool {
	for _, lin := range r.linears {
		if s, _, _ := l.find(lin.Name); s.layout != r.layout {
			return true
		}
	}
	return false
}

// Copy is a norm or linear of a layout, with its slots.
type Copy struct {
	Name         string // as the base's
	Weight, Bias int    // Bias is -1 where there is none
}

// Copies are what an adapter's layout has of the base's norms and linears, in the order of its slots.
func (l *Layout) Copies() (all []Copy) {
	for name, slot := range l.norms {
		all = append(all, Copy{name, slot, -1})
	}
	for _, g := range l.groups {
		if len(g.linears) == 1 && g.packed == nil {
			all = append(all, Copy{g.linears[0].Name, g.weight, g.bias})
		}
	}
	slices.SortFunc(all, func(a, b Copy) int { return a.Weight - b.Weight })
	return all
}
