package jinja

import "math/big"

// testFunc is what stands after is.
type testFunc func(st *state, v Value, a callArgs) bool

// testNamed returns a test, nil if there is none of that name.
func testNamed(name string) testFunc {
	switch name {
	case "defined":
		return plain(name, func(v Value) bool { _, ok := v.(*undefined); return !ok })
	case "undefined":
		return plain(name, func(v Value) bool { _, ok := v.(*undefined); return ok })
	case "none":
		return plain(name, func(v Value) bool { return v == nil })
	case "boolean":
		return plain(name, func(v Value) bool { _, ok := v.(bool); return ok })
	case "true":
		return plain(name, func(v Value) bool { return v == true })
	case "false":
		return plain(name, func(v Value) bool { return v == false })
	case "integer":
		return plain(name, func(v Value) bool {
			switch v.(type) {
			case int64, *big.Int:
				return true
			}
			return false
		})
	case "float":
		return plain(name, func(v Value) bool { _, ok := v.(float64); return ok })
	case "number":
		return plain(name, isNumber)
	case "string":
		return plain(name, func(v Value) bool { _, ok := text(v); return ok })
	case "mapping":
		return plain(name, func(v Value) bool { _, ok := v.(*Dict); return ok })
	case "sequence":
		return plain(name, hasItems)
	case "iterable":
		return plain(name, isIterable)
	case "callable":
		return plain(name, isCallable)
	case "escaped":
		return plain(name, func(v Value) bool { _, ok := v.(markup); return ok })
	case "lower":
		return func(st *state, v Value, a callArgs) bool { a.positional(name, 0, 0); return isLower(st.str(v)) }
	case "upper":
		return func(st *state, v Value, a callArgs) bool { a.positional(name, 0, 0); return isUpper(st.str(v)) }
	case "odd":
		return remainder(name, 2, 1)
	case "even":
		return remainder(name, 2, 0)
	case "divisibleby":
		return func(st *state, v Value, a callArgs) bool {
			return st.equal(st.binary("%", v, a.bind(name, 1, "num")[0]), int64(0))
		}
	case "sameas":
		return func(st *state, v Value, a callArgs) bool { return same(v, a.bind(name, 1, "other")[0]) }
	case "in":
		return func(st *state, v Value, a callArgs) bool { return st.contains(a.bind(name, 1, "seq")[0], v) }
	case "filter":
		return func(st *state, v Value, a callArgs) bool {
			a.bind(name, 0)
			hashKey(v)
			s, ok := text(v)
			return ok && filterNamed(s) != nil
		}
	case "test":
		return func(st *state, v Value, a callArgs) bool {
			a.bind(name, 0)
			hashKey(v)
			s, ok := text(v)
			return ok && testNamed(s) != nil
		}
	case "==", "eq", "equalto":
		return comparison("==")
	case "!=", "ne":
		return comparison("!=")
	case "<", "lt", "lessthan":
		return comparison("<")
	case "<=", "le":
		return comparison("<=")
	case ">", "gt", "greaterthan":
		return comparison(">")
	case ">=", "ge":
		return comparison(">=")
	}
	return nil
}

func plain(name string, is func(Value) bool) testFunc {
	return func(st *state, v Value, a callArgs) bool {
		if len(a.pos)+len(a.kw) > 0 {
			typeError("test_%s() takes 1 positional argument but %d were given", name, 1+len(a.pos)+len(a.kw))
		}
		return is(v)
	}
}

func comparison(op string) testFunc {
	return func(st *state, v Value, a callArgs) bool {
		return st.compare(op, v, a.positional(op, 1, 1)[0])
	}
}

func remainder(name string, by, want int64) testFunc {
	return func(st *state, v Value, a callArgs) bool {
		a.positional(name, 0, 0)
		return st.equal(st.binary("%", v, by), want)
	}
}

// hasItems reports whether a value has a length and items.
func hasItems(v Value) bool {
	switch v.(type) {
	case *dictView, *loopContext, *generator:
		return false
	}
	_, ok := length(v)
	return ok
}
