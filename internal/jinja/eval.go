package jinja

func (e *constExpr) eval(*state) Value { return e.value }

func (e *nameExpr) eval(st *state) Value { return st.lookup(e.name) }

func evalAll(st *state, items []expr) []Value {
	out := make([]Value, len(items))
	for i, e := range items {
		out[i] = e.eval(st)
	}
	st.charge(len(items))
	return out
}

func (e *tupleExpr) eval(st *state) Value { return &tuple{items: evalAll(st, e.items)} }

func (e *listExpr) eval(st *state) Value { return &list{evalAll(st, e.items)} }

func (e *dictExpr) eval(st *state) Value {
	d := &Dict{}
	for i, k := range e.keys {
		key := k.eval(st)
		d.put(key, e.values[i].eval(st))
	}
	st.charge(len(e.keys))
	return d
}

func (e *binaryExpr) eval(st *state) Value {
	left := e.left.eval(st)
	right := e.right.eval(st)
	st.line = e.line
	return st.binary(e.op, left, right)
}

func (e *andExpr) eval(st *state) Value {
	if v := e.left.eval(st); !truthy(v) {
		return v
	}
	return e.right.eval(st)
}

func (e *orExpr) eval(st *state) Value {
	if v := e.left.eval(st); truthy(v) {
		return v
	}
	return e.right.eval(st)
}

func (e *notExpr) eval(st *state) Value { return !truthy(e.of.eval(st)) }

func (e *signExpr) eval(st *state) Value { return sign(e.op, e.of.eval(st)) }

// eval compares neighbours: a < b < c is a < b and b < c, with b evaluated once.
func (e *compareExpr) eval(st *state) Value {
	left := e.first.eval(st)
	for i, op := range e.ops {
		right := e.rest[i].eval(st)
		if !st.compare(op, left, right) {
			return false
		}
		left = right
	}
	return true
}

func (e *concatExpr) eval(st *state) Value {
	var parts []string
	n := 0
	for _, p := range e.parts {
		s := st.str(p.eval(st))
		parts = append(parts, s)
		n += len(s)
	}
	st.checkLen(n)
	return joinText(parts, "", n)
}

func (e *condExpr) eval(st *state) Value {
	switch {
	case truthy(e.test.eval(st)):
		return e.then.eval(st)
	case e.orElse != nil:
		return e.orElse.eval(st)
	}
	return &undefined{hint: "the inline if-expression evaluated to false and no else section was defined."}
}

func (e *attrExpr) eval(st *state) Value {
	of := e.of.eval(st)
	st.line = e.line
	return st.attr(of, e.name)
}

func (e *itemExpr) eval(st *state) Value {
	of := e.of.eval(st)
	key := e.key.eval(st)
	st.line = e.line
	return st.item(of, key)
}

func (e *sliceExpr) eval(st *state) Value {
	of := e.of.eval(st)
	bound := func(e expr) Value {
		if e == nil {
			return nil
		}
		return e.eval(st)
	}
	start, stop, step := bound(e.start), bound(e.stop), bound(e.step)
	st.line = e.line
	return st.slice(of, start, stop, step)
}

func (e *callExpr) eval(st *state) Value {
	// A method that is called needs no value of its own.
	if a, ok := e.fn.(*attrExpr); ok {
		of := a.of.eval(st)
		if m := methodOf(of, a.name); m != nil {
			args := e.args.eval(st)
			st.charge(1)
			st.line = e.line
			return m(st, of, args)
		}
		st.line = a.line
		return e.call(st, st.attr(of, a.name), e.args.eval(st))
	}
	fn := e.fn.eval(st)
	return e.call(st, fn, e.args.eval(st))
}

// callWith is eval with arguments that are there already.
func (e *callExpr) callWith(st *state, args callArgs) Value {
	return e.call(st, e.fn.eval(st), args)
}

func (e *callExpr) call(st *state, fn Value, args callArgs) Value {
	st.charge(1)
	st.line = e.line
	v := st.call(fn, args)
	st.line = e.line
	return v
}

func (e *filterExpr) eval(st *state) Value { return e.apply(st, e.of.eval(st)) }

func (e *filterExpr) apply(st *state, v Value) Value {
	args := e.args.eval(st)
	st.charge(1)
	st.line = e.line
	if e.fn == nil {
		fail("TemplateRuntimeError", "No filter named %s found.", reprString(e.name))
	}
	return e.fn(st, v, args)
}

func (e *testExpr) eval(st *state) Value {
	v := e.of.eval(st)
	args := e.args.eval(st)
	st.charge(1)
	st.line = e.line
	if e.fn == nil {
		fail("TemplateRuntimeError", "No test named %s found.", reprString(e.name))
	}
	return e.fn(st, v, args)
}

func (a *argList) eval(st *state) callArgs {
	var c callArgs
	if len(a.pos) > 0 {
		c.pos = evalAll(st, a.pos)
	}
	if len(a.kw) > 0 {
		c.kw = make([]kwarg, 0, len(a.kw)+1)
	}
	for i, e := range a.kw {
		c.kw = append(c.kw, kwarg{a.names[i], e.eval(st)})
	}
	if a.rest != nil {
		c.pos = append(c.pos, st.collect(st.iterate(a.rest.eval(st)))...)
	}
	if a.rekw != nil {
		d, ok := a.rekw.eval(st).(*Dict)
		if !ok {
			typeError("argument after ** must be a mapping")
		}
		for i, k := range d.keys {
			name, ok := text(k)
			if !ok {
				typeError("keywords must be strings")
			}
			if c.has(name) {
				typeError("got multiple values for keyword argument '%s'", name)
			}
			c.kw = append(c.kw, kwarg{name, d.values[i]})
		}
		st.charge(d.Len())
	}
	return c
}
