package jinja

import (
	"slices"
	"strings"
)

// callArgs are the arguments of a call.
type callArgs struct {
	pos []Value
	kw  []kwarg
}

type kwarg struct {
	name  string
	value Value
}

func (a callArgs) has(name string) bool {
	return slices.ContainsFunc(a.kw, func(k kwarg) bool { return k.name == name })
}

func (a callArgs) noKeywords(fn string) {
	if len(a.kw) > 0 {
		typeError("%s() takes no keyword arguments", fn)
	}
}

// positional returns the arguments of a function without keywords, which takes from least to most of them.
func (a callArgs) positional(fn string, least, most int) []Value {
	a.noKeywords(fn)
	switch n := len(a.pos); {
	case n < least && least == most, n > most && least == most:
		typeError("%s() takes exactly %d arguments (%d given)", fn, least, n)
	case n < least:
		typeError("%s expected at least %d arguments, got %d", fn, least, n)
	case n > most:
		typeError("%s expected at most %d arguments, got %d", fn, most, n)
	}
	return a.pos
}

// bind returns the arguments in the order of names; those not given, which may be all but the first required ones, are
// missing.
func (a callArgs) bind(fn string, required int, names ...string) []Value {
	if len(a.pos) > len(names) {
		typeError("%s() takes %d positional arguments but %d were given", fn, len(names), len(a.pos))
	}
	out := make([]Value, len(names))
	n := copy(out, a.pos)
	for i := n; i < len(out); i++ {
		out[i] = missing
	}
	for _, k := range a.kw {
		i := slices.Index(names, k.name)
		if i < 0 {
			typeError("%s() got an unexpected keyword argument '%s'", fn, k.name)
		}
		if out[i] != missing {
			typeError("%s() got multiple values for argument '%s'", fn, k.name)
		}
		out[i] = k.value
	}
	for i := range required {
		if out[i] == missing {
			typeError("%s() missing 1 required positional argument: '%s'", fn, names[i])
		}
	}
	return out
}

// or returns v, or d if v was not given.
func or(v, d Value) Value {
	if v == missing {
		return d
	}
	return v
}

// builtin is a global function, or a method of a loop, cycler or joiner.
type builtin struct {
	name string
	fn   func(*state, callArgs) Value
}

// methodFunc is a method of a str, list, tuple, dict or number.
type methodFunc func(st *state, self Value, a callArgs) Value

// method is a method bound to its value.
type method struct {
	name string
	self Value
	fn   methodFunc
}

// macro is a macro with the scope it was defined in.
type macro struct {
	def   *macroDef
	scope *scope
}

func (st *state) call(fn Value, a callArgs) Value {
	switch fn := fn.(type) {
	case *macro:
		return st.callMacro(fn, a)
	case *builtin:
		return fn.fn(st, a)
	case *method:
		return fn.fn(st, fn.self, a)
	case *joiner:
		a.positional("Joiner", 0, 0)
		return fn.next()
	case dictClass:
		return st.makeDict(a)
	case *loopContext:
		over := a.bind("loop", 1, "iterable")[0]
		if fn.recurse == nil {
			typeError("The loop must have the 'recursive' marker to be called recursively.")
		}
		return fn.recurse(over)
	case *undefined:
		fn.fail()
	}
	typeError("'%s' object is not callable", typeName(fn))
	return nil
}

func isCallable(v Value) bool {
	switch v.(type) {
	case *macro, *builtin, *method, *joiner, dictClass, *loopContext, *undefined:
		return true
	}
	return false
}

// callMacro returns the text of a macro.
func (st *state) callMacro(m *macro, a callArgs) string {
	st.enter(macroDepth)
	defer st.leave(macroDepth)
	outer, line := st.scope, st.line
	st.scope = m.def.frame.scope(m.scope)
	m.bind(st, a)
	text := st.capture(func() { st.run(m.def.body) })
	st.scope, st.line = outer, line
	return text
}

// bind sets the parameters of a macro in the scope at hand. Defaults are evaluated there, so they see the parameters
// before them.
func (m *macro) bind(st *state, a callArgs) {
	def := m.def
	kw := slices.Clone(a.kw)
	pop := func(name string) Value {
		if i := slices.IndexFunc(kw, func(k kwarg) bool { return k.name == name }); i >= 0 {
			v := kw[i].value
			kw = slices.Delete(kw, i, i+1)
			return v
		}
		return missing
	}
	hasCaller := slices.Contains(def.params, "caller") && len(a.pos) >= len(def.params)
	for i, name := range def.params {
		if i < len(a.pos) {
			st.scope.set(name, a.pos[i])
			continue
		}
		st.scope.set(name, pop(name))
		hasCaller = hasCaller || name == "caller"
	}
	if def.usesCaller && !hasCaller {
		caller := pop("caller")
		if caller == missing || caller == nil {
			caller = &undefined{hint: "No caller defined", name: "caller"}
		}
		st.scope.set("caller", caller)
	}
	if def.usesKwargs {
		d := &Dict{}
		for _, k := range kw {
			d.put(k.name, k.value)
		}
		st.scope.set("kwargs", d)
	} else if len(kw) > 0 {
		m.failKeyword(kw)
	}
	if rest := a.pos[min(len(def.params), len(a.pos)):]; def.usesRest {
		st.scope.set("varargs", &tuple{items: rest})
	} else if len(rest) > 0 {
		typeError("macro %s takes not more than %d argument(s)", m.name(), len(def.params))
	}
	m.setDefaults(st)
}

func (m *macro) failKeyword(kw []kwarg) {
	for _, k := range kw {
		if k.name == "caller" {
			typeError("macro %s was invoked with two values for the special caller argument. This is most likely a bug.", m.name())
		}
	}
	typeError("macro %s takes no keyword argument %s", m.name(), reprString(kw[0].name))
}

func (m *macro) setDefaults(st *state) {
	def := m.def
	first := len(def.params) - len(def.defaults)
	values := st.scope.values[len(def.frame.missing):] // the parameters were set first
	for i, name := range def.params {
		switch {
		case values[i] != missing:
		case i < first:
			values[i] = &undefined{hint: "parameter " + reprString(name) + " was not provided", name: name}
		default:
			values[i] = def.defaults[i-first].eval(st)
		}
	}
}

func (m *macro) name() string {
	if m.def.name == "" {
		return "None"
	}
	return reprString(m.def.name)
}

func joinText(parts []string, sep string, size int) string {
	if len(parts) == 1 {
		return parts[0]
	}
	var b strings.Builder
	b.Grow(size)
	for i, p := range parts {
		if i > 0 {
			b.WriteString(sep)
		}
		b.WriteString(p)
	}
	return b.String()
}
