// Package jinja renders Hugging Face chat templates: the Jinja subset that they use, with the semantics of Python's
// jinja2 3.1 in the environment that transformers sets up (ImmutableSandboxedEnvironment, trim_blocks, lstrip_blocks,
// loop controls, {% generation %}, tojson as json.dumps, raise_exception, strftime_now).
//
// Values behave as in Python: dicts keep their order, ints are not floats and have no bounds, undefined is not None, strings
// are indexed by code point, str() and repr() print Python's spelling, and operators raise where Python raises. A template
// cannot reach files, the network, the environment or Go methods; steps, output and recursion are bounded.
//
// It is not a general template engine: include, import, extends, block and autoescape are errors, and so are the filters
// pprint, random, urlize and wordwrap.
//
// Start reading at [Parse] and [Template.Render]; then lexer.go, parser.go (statements), parseexpr.go (expressions),
// exec.go (running statements), eval.go (running expressions), value.go (what values are).
package jinja
