package jinja

import (
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// expression reads, from loose to tight: if-else, or, and, not, comparisons, + -, ~, * / // %, **, signs, then what follows
// a value: attributes, items, calls, filters and tests.
func (p *parser) expression(cond bool) expr {
	defer p.nest()()
	if !cond {
		return p.or()
	}
	unknown := len(p.unknown)
	e := p.or()
	for n := 0; p.skipName("if"); p.link(&n) {
		c := &condExpr{test: p.or(), then: e}
		if p.skipName("else") {
			c.orElse = p.expression(true)
		}
		p.unknown = p.unknown[:unknown]
		e = c
	}
	return e
}

func (p *parser) or() expr {
	e := p.and()
	for n := 0; p.skipName("or"); p.link(&n) {
		e = &orExpr{e, p.and()}
	}
	return e
}

func (p *parser) and() expr {
	e := p.not()
	for n := 0; p.skipName("and"); p.link(&n) {
		e = &andExpr{e, p.not()}
	}
	return e
}

func (p *parser) not() expr {
	if p.skipName("not") {
		defer p.nest()()
		return &notExpr{p.not()}
	}
	return p.compare()
}

func (p *parser) compare() expr {
	first := p.sum()
	c := &compareExpr{first: first}
	for {
		t := p.tok()
		switch {
		case t.kind == tokenOp && slices.Contains([]string{"==", "!=", "<", "<=", ">", ">="}, t.text):
			p.next()
			c.ops = append(c.ops, t.text)
		case p.skipName("in"):
			c.ops = append(c.ops, "in")
		case p.isName("not") && p.peekIs(tokenName, "in"):
			p.next()
			p.next()
			c.ops = append(c.ops, "not in")
		case len(c.ops) == 0:
			return first
		default:
			return c
		}
		c.rest = append(c.rest, p.sum())
	}
}

// binary reads operands joined by operators that bind equally, from left to right.
func (p *parser) binary(operand func() expr, ops ...string) expr {
	e := operand()
	for n := 0; p.tok().kind == tokenOp && slices.Contains(ops, p.tok().text); p.link(&n) {
		t := p.next()
		e = &binaryExpr{t.text, e, operand(), t.line}
	}
	return e
}

func (p *parser) sum() expr { return p.binary(p.concat, "+", "-") }

func (p *parser) concat() expr {
	e := p.product()
	if !p.isOp("~") {
		return e
	}
	c := &concatExpr{[]expr{e}}
	for p.skipOp("~") {
		c.parts = append(c.parts, p.product())
	}
	return c
}

func (p *parser) product() expr { return p.binary(p.power, "*", "/", "//", "%") }

func (p *parser) power() expr {
	return p.binary(func() expr { return p.unary(true) }, "**")
}

// unary reads a sign and its operand. A filter after it applies to the signed value.
func (p *parser) unary(filters bool) expr {
	var e expr
	if t := p.tok(); p.isOp("-") || p.isOp("+") {
		defer p.nest()()
		p.next()
		e = &signExpr{t.text, p.unary(false)}
	} else {
		e = p.primary(nil)
	}
	e = p.postfix(e)
	if filters {
		e = p.filtersAndTests(e)
	}
	return e
}

// primary reads a name or literal. namespaces is not nil where an attribute of a namespace can stand, and gets its name.
func (p *parser) primary(namespaces *[]string) expr {
	t := p.tok()
	switch t.kind {
	case tokenName:
		p.next()
		switch t.text {
		case "true", "True":
			return &constExpr{true}
		case "false", "False":
			return &constExpr{false}
		case "none", "None":
			return &constExpr{nil}
		}
		if namespaces != nil && p.skipOp(".") {
			*namespaces = append(*namespaces, t.text)
			p.frame.read(t.text)
			return &attrExpr{&nameExpr{t.text}, p.expectName(), t.line}
		}
		p.usesName(t.text)
		return &nameExpr{t.text}
	case tokenString:
		var b strings.Builder
		for p.tok().kind == tokenString { // adjacent literals are one
			b.WriteString(p.next().text)
		}
		return &constExpr{b.String()}
	case tokenInt, tokenFloat:
		p.next()
		return &constExpr{numberLiteral(t)}
	case tokenOp:
		switch t.text {
		case "(":
			p.next()
			e := p.tuple(tupleOptions{cond: true, parentheses: true})
			p.expectOp(")")
			return e
		case "[":
			return p.list()
		case "{":
			return p.dict()
		}
	}
	fail(KindSyntax, "unexpected '%s'", t)
	return nil
}

func numberLiteral(t token) Value {
	if t.kind == tokenFloat {
		f, _ := strconv.ParseFloat(t.text, 64) // the lexer checked the spelling; out of range is infinite
		return f
	}
	if len(t.text) > maxDigits {
		fail(KindLimit, "an int of %d digits; want at most %d", len(t.text), maxDigits)
	}
	if strings.Trim(t.text, "0") == "" {
		return int64(0)
	}
	b, ok := new(big.Int).SetString(t.text, 0)
	if !ok {
		fail(KindSyntax, "invalid integer '%s'", t.text)
	}
	return small(b)
}

type tupleOptions struct {
	cond        bool        // a conditional expression may stand here
	parentheses bool        // the tuple stands in parentheses, so it may be empty
	ends        []string    // names that end it
	element     func() expr // reads an element; nil for expressions
}

// tuple reads expressions separated by commas; one without a comma is not a tuple.
func (p *parser) tuple(o tupleOptions) expr {
	if o.element == nil {
		o.element = func() expr { return p.expression(o.cond) }
	}
	var items []expr
	comma := false
	for {
		if t := p.tok().kind; t == tokenVarEnd || t == tokenBlockEnd || p.isOp(")") || p.isName(o.ends...) {
			break
		}
		items = append(items, o.element())
		if !p.skipOp(",") {
			break
		}
		comma = true
	}
	if !comma {
		if len(items) > 0 {
			return items[0]
		}
		if !o.parentheses {
			fail(KindSyntax, "Expected an expression, got '%s'", p.tok())
		}
	}
	return &tupleExpr{items}
}

type targetOptions struct {
	ends       []string  // names that end the target
	namespaces *[]string // not nil: attributes of namespaces can be assigned to; gets their names
}

func (p *parser) target(o targetOptions) target {
	p.assigning = true
	e := p.tuple(tupleOptions{ends: o.ends, element: func() expr { return p.primary(o.namespaces) }})
	p.assigning = false
	return p.asTarget(e)
}

func (p *parser) asTarget(e expr) target {
	switch e := e.(type) {
	case *nameExpr:
		p.setsName(e.name)
		return nameTarget(e.name)
	case *attrExpr:
		return attrTarget{e.of.(*nameExpr).name, e.name}
	case *tupleExpr:
		t := make(tupleTarget, len(e.items))
		for i, item := range e.items {
			t[i] = p.asTarget(item)
		}
		return t
	}
	fail(KindSyntax, "can't assign to this expression; want a name")
	return nil
}

func (p *parser) assignableName() string {
	name := p.expectName()
	switch name {
	case "true", "false", "none", "True", "False", "None":
		fail(KindSyntax, "can't assign to '%s'", name)
	}
	return name
}

func (p *parser) list() expr {
	p.next()
	l := &listExpr{}
	for !p.isOp("]") {
		if len(l.items) > 0 {
			if p.expectOp(","); p.isOp("]") {
				break
			}
		}
		l.items = append(l.items, p.expression(true))
	}
	p.next()
	return l
}

func (p *parser) dict() expr {
	p.next()
	d := &dictExpr{}
	for !p.isOp("}") {
		if len(d.keys) > 0 {
			if p.expectOp(","); p.isOp("}") {
				break
			}
		}
		d.keys = append(d.keys, p.expression(true))
		p.expectOp(":")
		d.values = append(d.values, p.expression(true))
	}
	p.next()
	return d
}

func (p *parser) postfix(e expr) expr {
	for n := 0; ; p.link(&n) {
		switch {
		case p.isOp("."), p.isOp("["):
			e = p.subscript(e)
		case p.isOp("("):
			e = p.call(e)
		default:
			return e
		}
	}
}

func (p *parser) subscript(e expr) expr {
	t := p.next()
	if t.text == "." {
		name := p.next()
		switch name.kind {
		case tokenName:
			return &attrExpr{e, name.text, t.line}
		case tokenInt:
			return &itemExpr{e, &constExpr{numberLiteral(name)}, t.line}
		}
		fail(KindSyntax, "expected name or number")
	}
	var keys []expr
	for !p.isOp("]") {
		if len(keys) > 0 {
			p.expectOp(",")
		}
		key, slice := p.key(e, t.line)
		if slice != nil && len(keys) == 0 && p.skipOp("]") {
			return slice
		}
		if slice != nil {
			fail(KindUnsupported, "a slice inside a tuple of indices is not supported")
		}
		keys = append(keys, key)
	}
	p.next()
	if len(keys) == 1 {
		return &itemExpr{e, keys[0], t.line}
	}
	return &itemExpr{e, &tupleExpr{keys}, t.line}
}

// key reads what stands in brackets: an expression, or a slice of e.
func (p *parser) key(e expr, line int) (key expr, slice *sliceExpr) {
	s := &sliceExpr{of: e, line: line}
	if !p.isOp(":") {
		s.start = p.expression(true)
		if !p.isOp(":") {
			return s.start, nil
		}
	}
	p.next()
	end := func() bool { return p.isOp(":") || p.isOp("]") || p.isOp(",") }
	if !end() {
		s.stop = p.expression(true)
	}
	if p.skipOp(":") && !end() {
		s.step = p.expression(true)
	}
	return nil, s
}

func (p *parser) call(fn expr) expr {
	line := p.tok().line
	return &callExpr{fn, p.arguments(), line}
}

func (p *parser) arguments() (a argList) {
	ensure := func(ok bool) {
		if !ok {
			fail(KindSyntax, "invalid syntax for function call expression")
		}
	}
	p.expectOp("(")
	for comma := false; !p.isOp(")"); comma = true {
		if comma {
			if p.expectOp(","); p.isOp(")") {
				break
			}
		}
		switch {
		case p.skipOp("*"):
			ensure(a.rest == nil && a.rekw == nil)
			a.rest = p.expression(true)
		case p.skipOp("**"):
			ensure(a.rekw == nil)
			a.rekw = p.expression(true)
		case p.tok().kind == tokenName && p.peekIs(tokenOp, "="):
			ensure(a.rekw == nil)
			name := p.next().text
			p.next()
			if slices.Contains(a.names, name) {
				fail(KindSyntax, "keyword argument repeated: %s", name)
			}
			a.names = append(a.names, name)
			a.kw = append(a.kw, p.expression(true))
		default:
			ensure(a.rest == nil && a.rekw == nil && len(a.kw) == 0)
			a.pos = append(a.pos, p.expression(true))
		}
	}
	p.next()
	return a
}

func (p *parser) filtersAndTests(e expr) expr {
	for n := 0; ; p.link(&n) {
		switch {
		case p.isOp("|"):
			e = p.filters(e)
		case p.isName("is"):
			e = p.test(e)
		case p.isOp("("):
			e = p.call(e)
		default:
			return e
		}
	}
}

// filters reads |filter|filter..., which apply to e; nil stands for captured text, and is returned if there is no filter.
func (p *parser) filters(e expr) expr {
	for n := 0; p.skipOp("|"); p.link(&n) {
		e = p.filter(e)
	}
	return e
}

func (p *parser) filter(e expr) expr {
	line := p.tok().line
	f := &filterExpr{of: e, name: p.dottedName(), line: line}
	if p.isOp("(") {
		f.args = p.arguments()
	}
	if f.fn = filterNamed(f.name); f.fn == nil {
		p.unknownName("filter", f.name, line)
	}
	return f
}

func (p *parser) dottedName() string {
	name := p.expectName()
	for p.skipOp(".") {
		name += "." + p.expectName()
	}
	return name
}

func (p *parser) unknownName(kind, name string, line int) {
	if !p.soft {
		p.unknown = append(p.unknown, unknownName{kind, name, line})
	}
}

func (p *parser) test(e expr) expr {
	line := p.next().line
	negated := p.skipName("not")
	t := &testExpr{of: e, name: p.dottedName(), line: line}
	switch k := p.tok().kind; {
	case p.isOp("("):
		t.args = p.arguments()
	case k == tokenName && !p.isName("else", "or", "and"), k == tokenString, k == tokenInt, k == tokenFloat, p.isOp("["), p.isOp("{"):
		if p.isName("is") {
			fail(KindSyntax, "You cannot chain multiple tests with is")
		}
		t.args.pos = []expr{p.postfix(p.primary(nil))}
	}
	if t.fn = testNamed(t.name); t.fn == nil {
		p.unknownName("test", t.name, line)
	}
	if negated {
		return &notExpr{t}
	}
	return t
}
