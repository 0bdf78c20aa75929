package jinja

// frame is what the parser knows of a body that has a scope of its own. jinja2 decides when it compiles a body what a name
// that the body sets means before it is set: the outer name if there is one; if not, and unless the body reads it earlier
// or sets it only on a condition, nothing, even where the template's variables define it.
type frame struct {
	outer       *frame
	seen        map[string]bool // names read or set so far, by this body itself
	firstSet    []string        // those that were set first
	conditional int             // ifs around the statement at hand, inside this body
	missing     []string        // of firstSet, those that no body around it knows; once the template is parsed
}

// inFrame parses what has a scope of its own, with its parameters.
func (p *parser) inFrame(params []string, parse func()) *frame {
	f := &frame{outer: p.frame, seen: map[string]bool{}}
	for _, name := range params {
		f.seen[name] = true
	}
	p.frames = append(p.frames, f)
	p.frame = f
	parse()
	p.frame = f.outer
	return f
}

func (f *frame) read(name string) { f.seen[name] = true }

func (f *frame) set(name string) {
	if f.seen[name] {
		return
	}
	f.seen[name] = true
	if f.conditional == 0 {
		f.firstSet = append(f.firstSet, name)
	}
}

func (f *frame) knows(name string) bool {
	for ; f != nil; f = f.outer {
		if f.seen[name] {
			return true
		}
	}
	return false
}

func (f *frame) finish() {
	for _, name := range f.firstSet {
		if !f.outer.knows(name) {
			f.missing = append(f.missing, name)
		}
	}
	f.missing = f.missing[:len(f.missing):len(f.missing)]
}

// scope returns a scope to run the body in.
func (f *frame) scope(outer *scope) *scope {
	s := &scope{outer: outer, names: f.missing}
	if len(f.missing) > 0 {
		s.values = make([]Value, len(f.missing), len(f.missing)+4)
		for i := range s.values {
			s.values[i] = missing
		}
	}
	return s
}

// names lists the names of a target.
func (t nameTarget) names() []string { return []string{string(t)} }

func (t attrTarget) names() []string { return nil }

func (t tupleTarget) names() []string {
	var out []string
	for _, to := range t {
		out = append(out, to.names()...)
	}
	return out
}

// declare records that a target is set.
func (p *parser) declare(to target) {
	for _, name := range to.names() {
		p.frame.set(name)
	}
}
