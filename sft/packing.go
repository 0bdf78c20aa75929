package sft

import (
	"cmp"
	"slices"
)

// packGroup is how many examples are packed together: datasets.map hands TRL's packing 1000 rows at a time, so that no
// packed row holds examples of two groups.
const packGroup = 1000

// pack puts examples into rows of at most length tokens (trl.pack_dataset).
func pack(examples []example, length int, strategy string) (rows []packedRow) {
	for group := range slices.Chunk(examples, packGroup) {
		switch strategy {
		case Wrapped:
			rows = append(rows, packWrapped(group, length)...)
		case BFDSplit:
			rows = append(rows, packBFD(split(group, length), length)...)
		default:
			rows = append(rows, packBFD(group, length)...)
		}
	}
	return rows
}

// packBFD is best fit decreasing (arXiv:2404.10830): the longest example first, each into the row with the least space
// that still holds it, else into a new row. Among rows of equal space, the one that has had it longest is filled first.
func packBFD(examples []example, length int) (rows []packedRow) {
	examples = slices.DeleteFunc(slices.Clone(examples), func(e example) bool { return len(e.ids) == 0 })
	slices.SortStableFunc(examples, func(a, b example) int { return cmp.Compare(len(b.ids), len(a.ids)) })
	var space, since []int // of each row: tokens that still fit, and the turn when that became so
	for turn, e := range examples {
		n, best := len(e.ids), -1
		for i, s := range space {
			if s >= n && (best < 0 || s < space[best] || s == space[best] && since[i] < since[best]) {
				best = i
			}
		}
		if best < 0 {
			best = len(rows)
			rows, space, since = append(rows, nil), append(space, length), append(since, 0)
		}
		rows[best] = append(rows[best], e)
		space[best] -= n
		since[best] = turn
	}
	return rows
}

// split cuts examples into pieces of at most length tokens.
func split(examples []example, length int) (pieces []example) {
	for _, e := range examples {
		for at := 0; at < len(e.ids); at += length {
			end := min(at+length, len(e.ids))
			pieces = append(pieces, example{ids: e.ids[at:end], labels: e.labels[at:end], row: e.row})
		}
	}
	return pieces
}

// packWrapped joins the examples and cuts the result every length tokens. A row is one document: what it joins is seen
// and predicted across, as in pre-training.
func packWrapped(examples []example, length int) (rows []packedRow) {
	var all example
	for _, e := range examples {
		all.ids = append(all.ids, e.ids...)
		all.labels = append(all.labels, e.labels...)
	}
	for _, piece := range split([]example{all}, length) {
		rows = append(rows, packedRow{piece})
	}
	return rows
}
