package jinja

import "slices"

func (p *parser) loopControl() stmt {
	name := p.next().text
	if p.loops == 0 {
		fail(KindSyntax, "'%s' outside loop", name)
	}
	if name == "break" {
		return &breakStmt{}
	}
	return &continueStmt{}
}

func (p *parser) printTag() []stmt {
	line := p.next().line
	var out []stmt
	for p.tok().kind != tokenBlockEnd {
		if len(out) > 0 {
			p.expectOp(",")
		}
		out = append(out, &printStmt{p.expression(true), line})
	}
	return out
}

func (p *parser) set() stmt {
	line := p.next().line
	names := []string{}
	to := p.target(targetOptions{namespaces: &names})
	if p.skipOp("=") {
		value := p.tuple(tupleOptions{cond: true})
		p.declare(to)
		return &setStmt{to, names, value, line}
	}
	p.declare(to)
	s := &setBlockStmt{to: to, filter: p.filters(nil), line: line}
	s.frame = p.inFrame(nil, func() { s.body = p.inner("endset") })
	return s
}

func (p *parser) ifElse() stmt {
	soft := p.soft
	p.soft = true
	defer func() { p.soft = soft }()
	s := &ifStmt{}
	for {
		s.lines = append(s.lines, p.next().line)
		s.tests = append(s.tests, p.tuple(tupleOptions{}))
		p.frame.conditional++
		s.bodies = append(s.bodies, p.block("elif", "else", "endif"))
		p.frame.conditional--
		if !p.isName("elif") {
			break
		}
	}
	if p.next().text == "else" {
		p.frame.conditional++
		s.orElse = p.block("endif")
		p.frame.conditional--
		p.next()
	}
	return s
}

func (p *parser) forLoop() stmt {
	f := &forStmt{line: p.next().line}
	use := p.enter()
	f.to = p.target(targetOptions{ends: []string{"in"}})
	if !p.skipName("in") {
		p.failExpected("in")
	}
	f.over = p.tuple(tupleOptions{ends: []string{"recursive"}})
	soft := p.soft
	p.soft = false
	if p.skipName("if") {
		p.inFrame(f.to.names(), func() { f.test = p.expression(true) })
	}
	f.recursive = p.skipName("recursive")
	clear(use.used) // only the body counts
	p.loops++
	f.frame = p.inFrame(append(f.to.names(), "loop"), func() { f.body = p.block("endfor", "else") })
	f.usesLoop = f.recursive || use.used["loop"]
	p.loops--
	if p.next().text == "else" {
		loops := p.loops
		if f.recursive {
			p.loops = 0 // it runs apart from the loops around it
		}
		f.elseFrame = p.inFrame(nil, func() { f.orElse = p.block("endfor") })
		p.loops = loops
		p.next()
	}
	p.soft = soft
	p.leave()
	if use.set["loop"] {
		*p.line = f.line
		fail(kindAssertion, "Can't assign to special loop variable in for-loop target")
	}
	return f
}

func (p *parser) with() stmt {
	w := &withStmt{line: p.next().line}
	for p.tok().kind != tokenBlockEnd {
		if len(w.to) > 0 {
			p.expectOp(",")
		}
		w.to = append(w.to, p.target(targetOptions{}))
		p.expectOp("=")
		w.values = append(w.values, p.expression(true))
	}
	var names []string
	for _, to := range w.to {
		names = append(names, to.names()...)
	}
	w.frame = p.inFrame(names, func() { w.body = p.inner("endwith") })
	return w
}

func (p *parser) filterBlock() stmt {
	f := &filterStmt{line: p.next().line}
	f.filter = p.filters(p.filter(nil))
	f.frame = p.inFrame(nil, func() { f.body = p.inner("endfilter") })
	return f
}

// macroBody reads the body of a macro, call or generation block; between reads what stands before it in the tag.
func (p *parser) macroBody(def *macroDef, end string, between func()) *macroDef {
	loops := p.loops
	p.loops = 0
	use := &nameUse{}
	def.frame = p.inFrame([]string{"caller", "kwargs", "varargs"}, func() {
		between()
		use = p.enter()
		def.body = p.inner(end)
		p.leave()
	})
	p.loops = loops
	def.usesCaller = use.used["caller"]
	def.usesKwargs = use.used["kwargs"] && !slices.Contains(def.params, "kwargs")
	def.usesRest = use.used["varargs"] && !slices.Contains(def.params, "varargs")
	i := slices.Index(def.params, "caller")
	if i >= 0 && def.usesCaller && i < len(def.params)-len(def.defaults) {
		*p.line = def.line
		fail(kindAssertion, "When defining macros or call blocks the special \"caller\" argument must be omitted or be given a default.")
	}
	return def
}

func (p *parser) signature(def *macroDef) {
	p.expectOp("(")
	for !p.isOp(")") {
		if len(def.params) > 0 {
			p.expectOp(",")
		}
		name := p.assignableName()
		if name != "loop" {
			p.setsName(name)
		}
		if slices.Contains(def.params, name) {
			fail(KindSyntax, "duplicate argument '%s' in function definition", name)
		}
		if p.skipOp("=") {
			def.defaults = append(def.defaults, p.expression(true))
		} else if len(def.defaults) > 0 {
			fail(KindSyntax, "non-default argument follows default argument")
		}
		def.params = append(def.params, name)
	}
	for _, name := range def.params {
		p.frame.read(name)
	}
	p.next()
}

func (p *parser) macro() stmt {
	def := &macroDef{line: p.next().line}
	def.name = p.assignableName()
	p.setsName(def.name)
	p.frame.set(def.name)
	return &macroStmt{def.name, p.macroBody(def, "endmacro", func() { p.signature(def) })}
}

func (p *parser) callBlock() stmt {
	def := &macroDef{line: p.next().line}
	s := &callStmt{def: def, line: def.line}
	p.macroBody(def, "endcall", func() {
		if p.isOp("(") {
			p.signature(def)
		}
		inner := p.frame
		p.frame = inner.outer // the call belongs to the body around
		var ok bool
		if s.call, ok = p.expression(true).(*callExpr); !ok {
			fail(KindSyntax, "expected call")
		}
		p.frame = inner
	})
	return s
}

func (p *parser) generation() stmt {
	def := &macroDef{line: p.next().line}
	p.generations = true
	return &generationStmt{p.macroBody(def, "endgeneration", func() {}), def.line}
}
