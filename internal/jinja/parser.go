package jinja

import (
	"fmt"
	"slices"
	"strings"
)

// parser turns tokens into nodes, rule by rule as jinja2's parser does.
type parser struct {
	tokens    []token
	at        int
	line      *int // of the token at hand, for errors
	depth     int
	ends      [][]string // the tags that would close the open blocks
	open      []string   // the names of the open blocks
	loops     int        // around the statement, inside the same macro
	scopes    []*nameUse // the macros and loops around the statement
	frame     *frame     // the innermost body with a scope of its own
	frames    []*frame   // all of them
	assigning bool       // names are not read: they stand in a target

	// A filter or test that does not exist is an error of the template, except inside a condition, where it is an error
	// only when it runs.
	soft    bool
	unknown []unknownName
}

type unknownName struct {
	kind, name string
	line       int
}

// nameUse records which special names the body of a macro or loop refers to before it sets them.
type nameUse struct{ used, set map[string]bool }

const (
	maxNesting = 100 // of blocks and of expressions
	maxChain   = 500 // operators in a row, each of which nests what is before it
)

func parse(tokens []token, line *int) (body []stmt, f *frame) {
	p := &parser{tokens: tokens, line: line}
	*line = p.tok().line
	f = p.inFrame(nil, func() { body = p.body() })
	if len(p.unknown) > 0 {
		u := p.unknown[0]
		*line = u.line
		fail(kindAssertion, "No %s named %s.", u.kind, reprString(u.name))
	}
	for _, f := range p.frames {
		f.finish()
	}
	return body, f
}

func (p *parser) tok() token { return p.tokens[p.at] }

func (p *parser) next() token {
	t := p.tokens[p.at]
	if p.at < len(p.tokens)-1 {
		p.at++
	}
	*p.line = p.tok().line
	return t
}

func (p *parser) isOp(op string) bool { return p.tok().kind == tokenOp && p.tok().text == op }

func (p *parser) isName(names ...string) bool {
	return p.tok().kind == tokenName && slices.Contains(names, p.tok().text)
}

// peekIs looks at the token after the one at hand.
func (p *parser) peekIs(kind tokenKind, text string) bool {
	t := p.tokens[min(p.at+1, len(p.tokens)-1)]
	return t.kind == kind && t.text == text
}

func (p *parser) skipOp(op string) bool {
	if p.isOp(op) {
		p.next()
		return true
	}
	return false
}

func (p *parser) skipName(name string) bool {
	if p.isName(name) {
		p.next()
		return true
	}
	return false
}

func (p *parser) expectOp(op string) {
	if !p.skipOp(op) {
		p.failExpected(op)
	}
}

func (p *parser) expectName() string {
	if p.tok().kind != tokenName {
		p.failExpected("name")
	}
	return p.next().text
}

func (p *parser) expectKind(kind tokenKind) {
	if p.tok().kind != kind {
		p.failExpected(token{kind: kind}.String())
	}
	p.next()
}

func (p *parser) failExpected(what string) {
	if p.tok().kind == tokenEOF {
		fail(KindSyntax, "unexpected end of template, expected '%s'.", what)
	}
	fail(KindSyntax, "expected token '%s', got '%s'", what, p.tok())
}

func (t token) String() string {
	switch t.kind {
	case tokenEOF:
		return "end of template"
	case tokenData:
		return "template data / text"
	case tokenVarBegin:
		return "begin of print statement"
	case tokenVarEnd:
		return "end of print statement"
	case tokenBlockBegin:
		return "begin of statement block"
	case tokenBlockEnd:
		return "end of statement block"
	case tokenString:
		return "string"
	case tokenInt:
		return "integer"
	case tokenFloat:
		return "float"
	}
	return t.text
}

// nest guards against templates that would exhaust the stack; the caller defers the function it returns.
func (p *parser) nest() func() {
	if p.depth++; p.depth > maxNesting {
		fail(KindLimit, "nested deeper than %d", maxNesting)
	}
	return func() { p.depth-- }
}

// link counts the operators of a chain.
func (p *parser) link(n *int) {
	if *n++; *n > maxChain {
		fail(KindLimit, "an expression chains more than %d operators", maxChain)
	}
}

// body reads up to one of the tags in ends, whose name is then the token at hand, or to the end of the template.
func (p *parser) body(ends ...string) []stmt {
	defer p.nest()()
	p.ends = append(p.ends, ends)
	defer func() { p.ends = p.ends[:len(p.ends)-1] }()
	var out []stmt
	for {
		switch t := p.tok(); t.kind {
		case tokenEOF:
			if len(ends) > 0 {
				p.failTag("")
			}
			return out
		case tokenData:
			out = append(out, &textStmt{t.text})
			p.next()
		case tokenVarBegin:
			p.next()
			out = append(out, &printStmt{p.tuple(tupleOptions{cond: true}), t.line})
			p.expectKind(tokenVarEnd)
		default: // a block: tags end where the lexer says
			p.next()
			if p.tok().kind != tokenName {
				fail(KindSyntax, "tag name expected")
			}
			if slices.Contains(ends, p.tok().text) {
				return out
			}
			out = append(out, p.statement()...)
			p.expectKind(tokenBlockEnd)
		}
	}
}

// block reads the end of the tag at hand, and the body after it up to one of the tags in ends.
func (p *parser) block(ends ...string) []stmt {
	p.skipOp(":")
	p.expectKind(tokenBlockEnd)
	return p.body(ends...)
}

// inner is block for a body with a scope of its own that ends with one tag, which it skips.
func (p *parser) inner(end string) []stmt {
	soft := p.soft
	p.soft = false
	body := p.block(end)
	p.soft = soft
	p.next()
	return body
}

func (p *parser) failTag(name string) {
	var b strings.Builder
	if name == "" {
		b.WriteString("Unexpected end of template.")
	} else {
		fmt.Fprintf(&b, "Encountered unknown tag '%s'.", name)
	}
	for i := len(p.ends) - 1; i >= 0; i-- {
		if len(p.ends[i]) > 0 {
			fmt.Fprintf(&b, " Jinja was looking for the following tags: '%s'.", strings.Join(p.ends[i], "' or '"))
			break
		}
	}
	if len(p.open) > 0 {
		fmt.Fprintf(&b, " The innermost block that needs to be closed is '%s'.", p.open[len(p.open)-1])
	}
	fail(KindSyntax, "%s", b.String())
}

// statement reads a tag and its blocks.
func (p *parser) statement() []stmt {
	name := p.tok().text
	outside := p.open
	p.open = append(outside[:len(outside):len(outside)], name)
	var out []stmt
	switch name {
	case "set":
		out = []stmt{p.set()}
	case "if":
		out = []stmt{p.ifElse()}
	case "for":
		out = []stmt{p.forLoop()}
	case "macro":
		out = []stmt{p.macro()}
	case "call":
		out = []stmt{p.callBlock()}
	case "filter":
		out = []stmt{p.filterBlock()}
	case "with":
		out = []stmt{p.with()}
	case "print":
		out = p.printTag()
	case "generation":
		out = []stmt{p.generation()}
	case "break", "continue":
		out = []stmt{p.loopControl()}
	case "include", "import", "from", "extends", "block", "autoescape":
		fail(KindUnsupported, "the tag {%% %s %%} is not supported: a chat template stands alone; write its content out", name)
	default:
		p.open = outside
		p.failTag(name)
	}
	p.open = outside
	return out
}

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

// enter begins to record special names, leave ends it.
func (p *parser) enter() *nameUse {
	u := &nameUse{map[string]bool{}, map[string]bool{}}
	p.scopes = append(p.scopes, u)
	return u
}

func (p *parser) leave() { p.scopes = p.scopes[:len(p.scopes)-1] }

func isSpecialName(name string) bool {
	return name == "loop" || name == "caller" || name == "kwargs" || name == "varargs"
}

func (p *parser) usesName(name string) {
	if p.assigning {
		return
	}
	p.frame.read(name)
	if isSpecialName(name) {
		for _, s := range p.scopes {
			if !s.set[name] {
				s.used[name] = true
			}
		}
	}
}

func (p *parser) setsName(name string) {
	if isSpecialName(name) {
		for _, s := range p.scopes {
			s.set[name] = true
		}
	}
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
	return &generationStmt{p.macroBody(def, "endgeneration", func() {}), def.line}
}
