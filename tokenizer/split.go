package tokenizer

import "unicode/utf8"

// behavior says what becomes of the matches when a text is split.
type behavior int

const (
	isolated           behavior = iota // every match a piece of its own
	removed                            // matches are dropped
	mergedWithPrevious                 // a match ends the piece before it
	mergedWithNext                     // a match begins the piece after it
	contiguous                         // neighbouring matches become one piece
)

func parseBehavior(n node, s string) (behavior, error) {
	switch s {
	case "Isolated":
		return isolated, nil
	case "Removed":
		return removed, nil
	case "MergedWithPrevious":
		return mergedWithPrevious, nil
	case "MergedWithNext":
		return mergedWithNext, nil
	case "Contiguous":
		return contiguous, nil
	}
	return 0, n.errorf("behavior: want Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous, got %q", s)
}

// joiner receives the runs of a text, matches and what lies between them, and emits pieces as the behavior says.
type joiner struct {
	how    behavior
	p      piece
	emit   func(piece)
	lo, hi int
	held   bool // lo:hi waits for a neighbour
	match  bool // the run added last was a match
}

func (j *joiner) add(lo, hi int, match bool) {
	if lo == hi {
		return
	}
	switch j.how {
	case isolated:
		j.emit(j.p.slice(lo, hi))
	case removed:
		if !match {
			j.emit(j.p.slice(lo, hi))
		}
	default:
		j.hold(lo, hi, match)
	}
}

// cut receives a match of no width: it parts what lies around it, as far as the behavior does not join that again.
func (j *joiner) cut(at int, match bool) {
	if j.how != isolated && j.how != removed {
		j.hold(at, at, match)
	}
}

func (j *joiner) hold(lo, hi int, match bool) {
	if j.held && j.joins(match) {
		j.hi = hi
	} else {
		j.flush()
		j.lo, j.hi, j.held = lo, hi, true
	}
	j.match = match
}

// joins reports whether the next run belongs to the held one.
func (j *joiner) joins(match bool) bool {
	switch j.how {
	case mergedWithPrevious:
		return match && !j.match
	case mergedWithNext:
		return !match && j.match
	}
	return match == j.match
}

func (j *joiner) flush() {
	if j.held && j.lo < j.hi {
		j.emit(j.p.slice(j.lo, j.hi))
	}
	j.held = false
}

func loadSplit(n node) (preTokenizer, error) {
	var c struct {
		Pattern  pattern `json:"pattern"`
		Behavior string  `json:"behavior"`
		Invert   bool    `json:"invert"`
	}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	how, err := parseBehavior(n, c.Behavior)
	if err != nil {
		return nil, err
	}
	find, err := c.Pattern.find(n)
	if err != nil {
		return nil, err
	}
	return func(e *encoder, p piece, emit func(piece)) {
		j := joiner{how: how, p: p, emit: emit}
		done := 0
		err := find(p.text, func(lo, hi int) {
			j.add(done, lo, c.Invert)
			if lo < hi {
				j.add(lo, hi, !c.Invert)
			} else {
				j.cut(lo, !c.Invert)
			}
			done = hi
		})
		if err != nil {
			e.fail(n.errorf("%w", err))
			return
		}
		j.add(done, len(p.text), c.Invert)
		j.flush()
	}, nil
}

// splitRunes splits at the characters that match; each is a match of its own.
func splitRunes(match func(rune) bool, how behavior) preTokenizer {
	return func(_ *encoder, p piece, emit func(piece)) {
		j := joiner{how: how, p: p, emit: emit}
		done := 0
		for i, r := range p.text {
			if match(r) {
				j.add(done, i, false)
				done = i + utf8.RuneLen(r)
				j.add(i, done, true)
			}
		}
		j.add(done, len(p.text), false)
		j.flush()
	}
}
