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

	generations bool // there are generation blocks

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

// parse fills a template.
func (t *Template) parse(tokens []token, line *int) {
	p := &parser{tokens: tokens, line: line}
	*line = p.tok().line
	t.frame = p.inFrame(nil, func() { t.body = p.body() })
	if len(p.unknown) > 0 {
		u := p.unknown[0]
		*line = u.line
		fail(kindAssertion, "No %s named %s.", u.kind, reprString(u.name))
	}
	for _, f := range p.frames {
		f.finish()
	}
	t.hasGenerations = p.generations
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
