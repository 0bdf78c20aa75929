package jinja

func (s *forStmt) exec(st *state) flow {
	st.charge(1)
	st.line = s.line
	over := s.over.eval(st)
	if s.recursive {
		st.line = s.line
		st.write(s.render(st, st.scope, over, 0))
		return flowNext
	}
	return s.loop(st, over, nil, 0)
}

// render runs a recursive loop and returns its text.
func (s *forStmt) render(st *state, outer *scope, over Value, depth int) string {
	st.enter(macroDepth)
	defer st.leave(macroDepth)
	old, line := st.scope, st.line
	st.scope = outer
	text := st.capture(func() {
		s.loop(st, over, func(v Value) string { return s.render(st, outer, v, depth+1) }, depth)
	})
	st.scope, st.line = old, line
	return text
}

func (s *forStmt) loop(st *state, over Value, recurse func(Value) string, depth int) flow {
	outer := st.scope
	next := st.iterate(over)
	known := over
	if s.test != nil {
		next, known = s.filtered(st, outer, next), nil
	}
	var l *loopContext
	if s.usesLoop {
		l = &loopContext{st: st, of: known, next: next, index0: -1, current: missing, before: missing, after: missing, recurse: recurse, depth0: depth}
		next = l.advance
	}
	ran := false // as in Python, an item that ended with break or continue does not count
	for {
		v, ok := next()
		if !ok {
			break
		}
		st.charge(1)
		st.scope = s.frame.scope(outer)
		if l != nil {
			st.scope.set("loop", l)
		}
		s.to.assign(st, v)
		f := st.run(s.body)
		st.scope = outer
		if f == flowBreak {
			break
		}
		ran = ran || f == flowNext
	}
	if ran || s.elseFrame == nil {
		return flowNext
	}
	st.scope = s.elseFrame.scope(outer)
	f := st.run(s.orElse)
	st.scope = outer
	return f
}

// filtered yields the items for which the loop's if holds. As in Python it looks at an item when the loop comes to it, so
// it sees what the body has set before.
func (s *forStmt) filtered(st *state, outer *scope, next iterator) iterator {
	return func() (Value, bool) {
		for {
			v, ok := next()
			if !ok {
				return nil, false
			}
			st.charge(1)
			old := st.scope
			st.scope = &scope{outer: outer}
			s.to.assign(st, v)
			ok = truthy(s.test.eval(st))
			if t, isTuple := s.to.(tupleTarget); isTuple {
				v = t.value(st)
			}
			st.scope = old
			if ok {
				return v, true
			}
		}
	}
}

// value is a tuple of what was assigned: what a filtered loop goes over.
func (t tupleTarget) value(st *state) Value {
	v := &tuple{items: make([]Value, len(t))}
	for i, to := range t {
		switch to := to.(type) {
		case nameTarget:
			v.items[i] = st.lookup(string(to))
		case tupleTarget:
			v.items[i] = to.value(st)
		}
	}
	return v
}

// loopContext is the variable loop.
type loopContext struct {
	st      *state
	of      Value // what is iterated, for its length; nil if it has none
	next    iterator
	index0  int
	length  int // 0: not known yet
	current Value
	before  Value
	after   Value // the item after the current one, if it was looked at
	changed []Value
	called  bool // changed was called
	recurse func(Value) string
	depth0  int
}

func (l *loopContext) advance() (Value, bool) {
	v := l.after
	if l.after = missing; v == missing {
		var ok bool
		if v, ok = l.next(); !ok {
			return nil, false
		}
	}
	l.index0++
	l.before, l.current = l.current, v
	return v, true
}

// peek returns the item after the current one, or missing.
func (l *loopContext) peek() Value {
	if l.after == missing {
		if v, ok := l.next(); ok {
			l.after = v
		}
	}
	return l.after
}

func (l *loopContext) len() int {
	if l.length > 0 {
		return l.length
	}
	if n, ok := length(l.of); ok {
		l.length = n
		return n
	}
	rest := l.st.collect(l.next)
	l.next = sliceIterator(rest)
	l.length = len(rest) + l.index0 + 1
	if l.after != missing {
		l.length++
	}
	return l.length
}

func (l *loopContext) attr(name string) (Value, bool) {
	switch name {
	case "index":
		return int64(l.index0 + 1), true
	case "index0":
		return int64(l.index0), true
	case "revindex":
		return int64(l.len() - l.index0), true
	case "revindex0":
		return int64(l.len() - l.index0 - 1), true
	case "first":
		return l.index0 == 0, true
	case "last":
		return l.peek() == missing, true
	case "length":
		return int64(l.len()), true
	case "depth":
		return int64(l.depth0 + 1), true
	case "depth0":
		return int64(l.depth0), true
	case "previtem":
		if l.index0 == 0 {
			return &undefined{hint: "there is no previous item"}, true
		}
		return l.before, true
	case "nextitem":
		if v := l.peek(); v != missing {
			return v, true
		}
		return &undefined{hint: "there is no next item"}, true
	case "cycle":
		return &builtin{"cycle", l.cycle}, true
	case "changed":
		return &builtin{"changed", l.isChanged}, true
	}
	return nil, false
}

func (l *loopContext) cycle(st *state, a callArgs) Value {
	a.noKeywords("cycle")
	if len(a.pos) == 0 {
		typeError("no items for cycling given")
	}
	return a.pos[l.index0%len(a.pos)]
}

func (l *loopContext) isChanged(st *state, a callArgs) Value {
	a.noKeywords("changed")
	if l.called && st.equal(&tuple{items: l.changed}, &tuple{items: a.pos}) {
		return false
	}
	l.called, l.changed = true, a.pos
	return true
}
