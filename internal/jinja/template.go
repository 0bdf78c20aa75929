package jinja

import (
	"fmt"
	"time"
	"unicode/utf8"
)

// Template is a parsed template. It is safe for concurrent use.
type Template struct {
	name           string
	body           []stmt
	frame          *frame
	hasGenerations bool
}

// Parse reads a template; name stands in errors. The error is an [*Error].
func Parse(name, source string) (t *Template, err error) {
	line := 0
	defer rescue(name, &line, &err)
	if !utf8.ValidString(source) {
		fail(KindSyntax, "the template is not valid UTF-8")
	}
	t = &Template{name: name}
	t.parse(lex(source, &line), &line)
	return t, nil
}

// HasGenerations reports whether the template marks what an assistant says with {% generation %}.
func (t *Template) HasGenerations() bool { return t.hasGenerations }

// Options bounds a render. The zero value has transformers' behaviour and bounds that no published template comes near.
type Options struct {
	Clock     func() time.Time // the time that strftime_now formats; nil is time.Now
	MaxSteps  int              // statements, calls and items, and the bytes and elements they make; 0 is 4 million
	MaxOutput int              // bytes of the text, and of any string on the way; 0 is 64 MiB
}

// Result is a rendered template.
type Result struct {
	Text string
	// Generation holds the byte ranges [start, end) of Text that {% generation %} blocks made, in order; those of blocks
	// inside blocks are left out.
	Generation [][2]int
	// Unplaced counts the blocks inside macros and captured text: where in Text, and whether, theirs ended up is unknown.
	// (transformers takes a wrong place for them.)
	Unplaced int
}

// maxDepth bounds recursion, of macros (each counts five) as of nested values: Python's limit.
const maxDepth = 1000

const macroDepth = 5

// Render runs the template on variables of any kind that [FromGo] takes. The error is an [*Error] with the line of the
// template, or says which variable cannot be converted.
func (t *Template) Render(vars map[string]any, o Options) (r Result, err error) {
	st := &state{vars: make(map[string]Value, len(vars)), now: o.Clock, steps: o.MaxSteps, maxOutput: o.MaxOutput}
	for k, v := range vars {
		if st.vars[k], err = FromGo(v); err != nil {
			return Result{}, fmt.Errorf("the template's variable %s: %w", k, err)
		}
	}
	if st.now == nil {
		st.now = time.Now
	}
	if st.steps <= 0 {
		st.steps = 4_000_000
	}
	if st.maxOutput <= 0 {
		st.maxOutput = 64 << 20
	}
	defer rescue(t.name, &st.line, &err)
	st.out = &st.root
	st.scope = t.frame.scope(nil)
	st.run(t.body)
	return Result{string(st.root.text), st.spans, st.unplaced}, nil
}

// state is one render.
type state struct {
	vars      map[string]Value
	scope     *scope
	root      buffer  // the text
	out       *buffer // what is written to: root, or what a macro or block captures
	spans     [][2]int
	unplaced  int
	line      int
	depth     int
	steps     int
	maxOutput int
	// a generation block runs
	generating bool
	now        func() time.Time
}

type buffer struct{ text []byte }

func (st *state) write(s string) {
	st.limit(len(st.out.text) + len(s))
	st.charge(len(s) / bytesPerStep)
	st.out.text = append(st.out.text, s...)
}

// capture returns what f writes.
func (st *state) capture(f func()) string {
	outer := st.out
	st.out = &buffer{}
	f()
	s := string(st.out.text)
	st.out = outer
	return s
}

// charge counts work.
func (st *state) charge(n int) {
	if st.steps -= n; st.steps < 0 {
		failSteps()
	}
}

func failSteps() { fail(KindLimit, "the template takes too many steps (Options.MaxSteps)") }

const bytesPerStep = 128

// limit checks the length of a string that grows.
func (st *state) limit(n int) {
	if n > st.maxOutput || n < 0 {
		fail(KindLimit, "a text of %d bytes; want at most %d (Options.MaxOutput)", n, st.maxOutput)
	}
}

// checkLen checks the length of a string that is about to be made, and counts the work.
func (st *state) checkLen(n int) {
	st.limit(n)
	st.charge(n / bytesPerStep)
}

// enter goes n levels deeper; leave returns.
func (st *state) enter(n int) {
	if st.depth += n; st.depth > maxDepth {
		fail("RecursionError", "maximum recursion depth exceeded")
	}
}

func (st *state) leave(n int) { st.depth -= n }

// scope holds the names set in a body: a loop, macro, with or captured block has its own, if has not.
type scope struct {
	outer  *scope
	names  []string
	values []Value
}

func (s *scope) set(name string, v Value) {
	for i, n := range s.names {
		if n == name {
			s.values[i] = v
			return
		}
	}
	s.names, s.values = append(s.names, name), append(s.values, v)
}

// lookup finds a name: in the scopes from inside out, the variables, the globals.
func (st *state) lookup(name string) Value {
	for s := st.scope; s != nil; s = s.outer {
		for i, n := range s.names {
			if n == name {
				if s.values[i] == missing {
					return &undefined{name: name}
				}
				return s.values[i]
			}
		}
	}
	if v, ok := st.vars[name]; ok {
		return v
	}
	if v := global(name); v != nil {
		return v
	}
	return &undefined{name: name}
}

// inScope runs a body in a scope of its own.
func (st *state) inScope(f *frame, run func()) {
	old := st.scope
	st.scope = f.scope(old)
	run()
	st.scope = old
}
