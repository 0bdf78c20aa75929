package jinja

func (st *state) run(body []stmt) flow {
	for _, s := range body {
		if f := s.exec(st); f != flowNext {
			return f
		}
	}
	return flowNext
}

func (s *textStmt) exec(st *state) flow {
	st.write(s.text)
	return flowNext
}

func (s *printStmt) exec(st *state) flow {
	st.charge(1)
	st.line = s.line
	st.write(st.str(s.value.eval(st)))
	return flowNext
}

func (s *setStmt) exec(st *state) flow {
	st.charge(1)
	st.line = s.line
	for _, name := range s.namespaces {
		st.namespaceNamed(name)
	}
	s.to.assign(st, s.value.eval(st))
	return flowNext
}

func (s *setBlockStmt) exec(st *state) flow {
	st.charge(1)
	st.line = s.line
	var f flow
	var v Value
	st.inScope(s.frame, func() {
		v = st.capture(func() { f = st.run(s.body) })
		if f == flowNext && s.filter != nil {
			st.line = s.line
			v = evalCaptured(st, s.filter, v)
		}
	})
	if f == flowNext {
		s.to.assign(st, v)
	}
	return f
}

func (s *filterStmt) exec(st *state) flow {
	st.charge(1)
	var f flow
	st.inScope(s.frame, func() {
		var v Value = st.capture(func() { f = st.run(s.body) })
		if f == flowNext {
			st.line = s.line
			st.write(mustText(evalCaptured(st, s.filter, v)))
		}
	})
	return f
}

// evalCaptured applies a chain of filters whose innermost has no operand.
func evalCaptured(st *state, e expr, captured Value) Value {
	f := e.(*filterExpr)
	if f.of != nil {
		captured = evalCaptured(st, f.of, captured)
	}
	return f.apply(st, captured)
}

func (s *ifStmt) exec(st *state) flow {
	st.charge(1)
	for i, test := range s.tests {
		st.line = s.lines[i]
		if truthy(test.eval(st)) {
			return st.run(s.bodies[i])
		}
	}
	return st.run(s.orElse)
}

func (s *withStmt) exec(st *state) flow {
	st.charge(1)
	st.line = s.line
	outer := st.scope
	inner := s.frame.scope(outer)
	for i, to := range s.to {
		v := s.values[i].eval(st)
		st.scope = inner
		to.assign(st, v)
		st.scope = outer
	}
	st.scope = inner
	f := st.run(s.body)
	st.scope = outer
	return f
}

func (s *macroStmt) exec(st *state) flow {
	st.charge(1)
	st.scope.set(s.name, &macro{s.def, st.scope})
	return flowNext
}

func (s *callStmt) exec(st *state) flow {
	st.charge(1)
	st.line = s.line
	args := s.call.args.eval(st)
	args.kw = append(args.kw, kwarg{"caller", &macro{s.def, st.scope}})
	st.write(mustText(s.call.callWith(st, args)))
	return flowNext
}

func (s *generationStmt) exec(st *state) flow {
	st.charge(1)
	start, outermost := len(st.out.text), !st.generating
	st.generating = true
	st.write(st.callMacro(&macro{s.def, st.scope}, callArgs{}))
	if !outermost {
		return flowNext
	}
	st.generating = false
	if st.out == &st.root {
		st.spans = append(st.spans, [2]int{start, len(st.out.text)})
	} else {
		st.unplaced++
	}
	return flowNext
}

func (*breakStmt) exec(*state) flow { return flowBreak }

func (*continueStmt) exec(*state) flow { return flowContinue }

func (t nameTarget) assign(st *state, v Value) { st.scope.set(string(t), v) }

func (t tupleTarget) assign(st *state, v Value) {
	values := st.unpack(v, len(t))
	for i, to := range t {
		to.assign(st, values[i])
	}
}

func (t attrTarget) assign(st *state, v Value) {
	st.namespaceNamed(t.name).set(t.attr, v)
}

func (st *state) namespaceNamed(name string) *namespace {
	ns, ok := st.lookup(name).(*namespace)
	if !ok {
		fail("TemplateRuntimeError", "cannot assign attribute on non-namespace object")
	}
	return ns
}

func (ns *namespace) set(name string, v Value) {
	if name[0] == '_' {
		fail("SecurityError", "Chat templates cannot store underscore-prefixed attributes on a namespace, but got %s. Please rename the attribute.", reprString(name))
	}
	ns.attrs.put(name, v)
}

// unpack returns the n items of an iterable.
func (st *state) unpack(v Value, n int) []Value {
	if !isIterable(v) {
		typeError("cannot unpack non-iterable %s object", typeName(v))
	}
	next := st.iterate(v)
	out := make([]Value, 0, n)
	for {
		e, ok := next()
		switch {
		case !ok && len(out) < n:
			valueError("not enough values to unpack (expected %d, got %d)", n, len(out))
		case !ok:
			return out
		case len(out) == n:
			valueError("too many values to unpack (expected %d)", n)
		}
		out = append(out, e)
	}
}
