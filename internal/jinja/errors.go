package jinja

import (
	"fmt"
	"strings"
)

// Error says why a template cannot be parsed or rendered.
type Error struct {
	Template string // the name given to Parse
	Line     int    // of the template, from 1; 0 where no line is at fault
	Kind     string // class of the exception that Python raises, such as TypeError, or one of the Kind constants
	Message  string
}

// Kinds of errors that callers may tell apart.
const (
	KindRaised      = "TemplateError"       // the template called raise_exception: the data is not what it accepts
	KindSyntax      = "TemplateSyntaxError" // the template cannot be parsed
	KindUnsupported = "UnsupportedError"    // the template uses a part of Jinja that this package does not have
	KindLimit       = "LimitError"          // a bound of Options was reached
	KindInternal    = "InternalError"       // a fault of this package
)

const kindAssertion = "TemplateAssertionError" // a template that is parsed but cannot work

func (e *Error) Error() string {
	var b strings.Builder
	if e.Template != "" {
		b.WriteString(e.Template + ": ")
	}
	if e.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", e.Line)
	}
	b.WriteString(e.Kind)
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	return b.String()
}

// fail raises an exception: it unwinds to Parse or Render, which return it with the template's name and line.
func fail(kind, format string, args ...any) {
	if len(args) > 0 {
		format = fmt.Sprintf(format, args...)
	}
	panic(&Error{Kind: kind, Message: format})
}

func typeError(format string, args ...any)  { fail("TypeError", format, args...) }
func valueError(format string, args ...any) { fail("ValueError", format, args...) }

// rescue turns what fail raised into an error; deferred by Parse and Render. line tells where a fault without a line of its
// own happened. Any other panic becomes an error too: no template may take its caller down.
func rescue(name string, line *int, err *error) {
	r := recover()
	if r == nil {
		return
	}
	e, ok := r.(*Error)
	if !ok {
		e = &Error{Kind: KindInternal, Message: fmt.Sprint(r)}
	}
	e.Template = name
	if e.Line == 0 {
		e.Line = *line
	}
	*err = e
}
