package jinja

// maxRange is the most items a range may have: jinja2's sandbox.MAX_RANGE.
const maxRange = 100_000

const maxTimeFormat = 1000

var (
	globalRange     = &builtin{"range", makeRange}
	globalNamespace = &builtin{"namespace", makeNamespace}
	globalRaise     = &builtin{"raise_exception", raiseException}
	globalStrftime  = &builtin{"strftime_now", strftimeNow}
	globalCycler    = &builtin{"cycler", makeCycler}
	globalJoiner    = &builtin{"joiner", makeJoiner}
	globalLipsum    = &builtin{"lipsum", noLipsum}
)

// global returns what a name means unless a template or its variables define it; nil for nothing.
func global(name string) Value {
	switch name {
	case "range":
		return globalRange
	case "dict":
		return dictClass{}
	case "namespace":
		return globalNamespace
	case "raise_exception":
		return globalRaise
	case "strftime_now":
		return globalStrftime
	case "cycler":
		return globalCycler
	case "joiner":
		return globalJoiner
	case "lipsum":
		return globalLipsum
	}
	return nil
}

func makeRange(st *state, a callArgs) Value {
	args := a.positional("range", 1, 3)
	var n [3]int64
	n[2] = 1
	for i, v := range args {
		n[i] = int64(mustInt(v))
	}
	if len(args) == 1 {
		n[0], n[1] = 0, n[0]
	}
	if n[2] == 0 {
		valueError("range() arg 3 must not be zero")
	}
	// The bounds are far from overflow where the length can be computed without it.
	const far = 1 << 61
	r := rangeValue{n[0], n[1], n[2]}
	for i := range n {
		if n[i] > far || n[i] < -far {
			failRange()
		}
	}
	if r.len() > maxRange {
		failRange()
	}
	return r
}

func failRange() {
	fail("OverflowError", "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", maxRange)
}

func makeNamespace(st *state, a callArgs) Value {
	ns := &namespace{&Dict{}}
	d := st.makeDict(a)
	for i, k := range d.keys {
		name, ok := text(k)
		if !ok || name == "" {
			ns.attrs.put(k, d.values[i])
			continue
		}
		ns.set(name, d.values[i])
	}
	return ns
}

func raiseException(st *state, a callArgs) Value {
	message := a.bind("raise_exception", 1, "message")[0]
	fail(KindRaised, "%s", st.str(message))
	return nil
}

func strftimeNow(st *state, a callArgs) Value {
	format, ok := text(a.bind("strftime_now", 1, "format")[0])
	if !ok {
		typeError("strftime() argument 1 must be str")
	}
	if len(format) > maxTimeFormat {
		fail(KindLimit, "strftime_now with a format of %d bytes; want at most %d", len(format), maxTimeFormat)
	}
	return strftime(st.now(), format)
}

func noLipsum(*state, callArgs) Value {
	fail(KindUnsupported, "the function lipsum is not supported")
	return nil
}

// cycler walks over its items again and again.
type cycler struct {
	items []Value
	at    int
}

func makeCycler(st *state, a callArgs) Value {
	a.noKeywords("cycler")
	if len(a.pos) == 0 {
		fail("RuntimeError", "at least one item has to be provided")
	}
	return &cycler{items: a.pos}
}

func (c *cycler) attr(name string) (Value, bool) {
	switch name {
	case "current":
		return c.items[c.at], true
	case "items":
		return &tuple{items: c.items}, true
	case "pos":
		return int64(c.at), true
	case "next":
		return &builtin{name, func(st *state, a callArgs) Value {
			a.positional(name, 0, 0)
			v := c.items[c.at]
			c.at = (c.at + 1) % len(c.items)
			return v
		}}, true
	case "reset":
		return &builtin{name, func(st *state, a callArgs) Value {
			a.positional(name, 0, 0)
			c.at = 0
			return nil
		}}, true
	}
	return nil, false
}

// joiner is nothing when it is first called, then a separator.
type joiner struct {
	sep  Value
	used bool
}

func makeJoiner(st *state, a callArgs) Value {
	return &joiner{sep: or(a.bind("joiner", 0, "sep")[0], ", ")}
}

func (j *joiner) next() Value {
	if !j.used {
		j.used = true
		return ""
	}
	return j.sep
}

func (j *joiner) attr(name string) (Value, bool) {
	switch name {
	case "sep":
		return j.sep, true
	case "used":
		return j.used, true
	}
	return nil, false
}

func (m *macro) attr(name string) (Value, bool) {
	switch name {
	case "name":
		if m.def.name == "" {
			return nil, true
		}
		return m.def.name, true
	case "arguments":
		t := &tuple{}
		for _, p := range m.def.params {
			t.items = append(t.items, p)
		}
		return t, true
	case "catch_kwargs":
		return m.def.usesKwargs, true
	case "catch_varargs":
		return m.def.usesRest, true
	case "caller":
		return m.def.usesCaller, true
	}
	return nil, false
}
