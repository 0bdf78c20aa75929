package jinja

import (
	"math"
	"math/big"
)

// Value is what a template computes with. The dynamic types:
//
//	nil                    None
//	bool
//	int64, *big.Int        int; *big.Int only beyond int64
//	float64                float
//	string, markup         str and markupsafe's Markup
//	*list, *tuple, *Dict
//	rangeValue, *dictView, *generator
//	*undefined, *namespace, *loopContext, *cycler, *joiner
//	*builtin, *method, *macro, dictClass    callables
type Value = any

// markup is a string that the filters safe and escape made: what is added to it is escaped.
type markup string

type list struct{ items []Value }

type tuple struct {
	items []Value
	group bool // made by groupby: its items are also .grouper and .list
}

type rangeValue struct{ start, stop, step int64 }

func (r rangeValue) len() int {
	switch {
	case r.step > 0 && r.start < r.stop:
		return int((r.stop-r.start-1)/r.step + 1)
	case r.step < 0 && r.start > r.stop:
		return int((r.start-r.stop-1)/-r.step + 1)
	}
	return 0
}

func (r rangeValue) at(i int) Value { return r.start + int64(i)*r.step }

// generator is an iterable that can be walked once, and whose items are computed when they are asked for.
type generator struct {
	next iterator
	kind string
}

// namespace is what namespace() makes: the only value that a template can change.
type namespace struct{ attrs *Dict }

// undefined is a name, attribute or item that does not exist: it prints as nothing, is false and empty, and raises when
// anything else is done with it.
type undefined struct {
	hint   string
	obj    Value
	hasObj bool
	name   Value
	kind   string // of the exception; UndefinedError if empty
}

func (u *undefined) fail() {
	kind := u.kind
	if kind == "" {
		kind = "UndefinedError"
	}
	name, isText := text(u.name)
	switch {
	case u.hint != "":
		fail(kind, "%s", u.hint)
	case !u.hasObj:
		fail(kind, "%s is undefined", reprString(name))
	case !isText:
		fail(kind, "%s has no element %s", objectType(u.obj), plainRepr(u.name))
	default:
		fail(kind, "%s has no attribute %s", reprString(objectType(u.obj)), reprString(name))
	}
}

func objectType(v Value) string {
	if v == nil {
		return "None"
	}
	return typeName(v) + " object"
}

// missing stands for an argument that was not given and for a name that is declared but not set.
type missingType struct{ _ byte }

var missing = &missingType{}

// typeName returns the name of the value's Python class.
func typeName(v Value) string {
	switch v := v.(type) {
	case nil:
		return "NoneType"
	case bool:
		return "bool"
	case int64, *big.Int:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case markup:
		return "Markup"
	case *list:
		return "list"
	case *tuple:
		if v.group {
			return "_GroupTuple"
		}
		return "tuple"
	case *Dict:
		return "dict"
	case rangeValue:
		return "range"
	case *dictView:
		return [...]string{"dict_keys", "dict_values", "dict_items"}[v.part]
	case *generator:
		return v.kind
	case *undefined:
		return "Undefined"
	case *namespace:
		return "TemplateNamespace"
	case *loopContext:
		return "LoopContext"
	case *cycler:
		return "Cycler"
	case *joiner:
		return "Joiner"
	case *macro:
		return "Macro"
	case *method:
		return "builtin_function_or_method"
	case dictClass:
		return "TemplateDict"
	}
	return "function"
}

// text returns the characters of a str.
func text(v Value) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case markup:
		return string(v), true
	}
	return "", false
}

// like gives s the class of v: what a method of Markup returns is Markup.
func like(v Value, s string) Value {
	if _, ok := v.(markup); ok {
		return markup(s)
	}
	return s
}

func truthy(v Value) bool {
	switch v := v.(type) {
	case nil, *undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case *big.Int:
		return v.Sign() != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case markup:
		return v != ""
	case *list:
		return len(v.items) > 0
	case *tuple:
		return len(v.items) > 0
	case *Dict:
		return v.Len() > 0
	case rangeValue:
		return v.len() > 0
	case *dictView:
		return v.d.Len() > 0
	case *loopContext:
		return v.len() > 0
	}
	return true
}

// integer returns an int or bool that fits int64.
func integer(v Value) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// bigInteger returns any int or bool.
func bigInteger(v Value) (*big.Int, bool) {
	if b, ok := v.(*big.Int); ok {
		return b, true
	}
	if i, ok := integer(v); ok {
		return big.NewInt(i), true
	}
	return nil, false
}

// number returns an int, bool or float as float64.
func number(v Value) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case *big.Int:
		f, _ := new(big.Float).SetInt(v).Float64()
		return f, true
	}
	i, ok := integer(v)
	return float64(i), ok
}

func isNumber(v Value) bool {
	_, ok := number(v)
	return ok
}

// small returns the int64 of b if it fits, so that every int has one form.
func small(b *big.Int) Value {
	if b.IsInt64() {
		return b.Int64()
	}
	return b
}

// mustInt is Python's __index__ of an argument, held within the range of int.
func mustInt(v Value) int {
	if i, ok := integer(v); ok {
		return int(i)
	}
	b, ok := v.(*big.Int)
	if !ok {
		typeError("'%s' object cannot be interpreted as an integer", typeName(v))
	}
	if b.Sign() < 0 {
		return math.MinInt
	}
	return math.MaxInt
}

func mustText(v Value) string {
	s, ok := text(v)
	if !ok {
		typeError("expected str instance, %s found", typeName(v))
	}
	return s
}
