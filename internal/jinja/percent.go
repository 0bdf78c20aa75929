package jinja

import (
	"math"
	"math/big"
	"strings"
)

// percent is format % values, as C's printf with Python's additions. In Markup the values are escaped.
func (st *state) percent(format Value, s string, values Value) Value {
	f := &percentFormat{st: st, rest: s, args: []Value{values}}
	_, f.escapes = format.(markup)
	switch v := values.(type) {
	case *tuple:
		f.args = v.items
	case *Dict, *list, *undefined, rangeValue: // what has items need not be used up
		f.mapping = v
	}
	var b strings.Builder
	for {
		text, rest, ok := strings.Cut(f.rest, "%")
		b.WriteString(text)
		if !ok {
			break
		}
		f.rest = rest
		b.WriteString(f.field())
		st.limit(b.Len())
	}
	if f.used < len(f.args) && f.mapping == nil {
		typeError("not all arguments converted during string formatting")
	}
	return like(format, b.String())
}

type percentFormat struct {
	st      *state
	rest    string
	args    []Value
	used    int
	mapping Value // the operand if it is not a tuple and has items
	escapes bool
}

func (f *percentFormat) next() byte {
	if f.rest == "" {
		valueError("incomplete format")
	}
	c := f.rest[0]
	f.rest = f.rest[1:]
	return c
}

func (f *percentFormat) arg() Value {
	if f.used >= len(f.args) {
		typeError("not enough arguments for format string")
	}
	f.used++
	return f.args[f.used-1]
}

// field formats one conversion: %[(key)][flags][width][.precision][length]type.
func (f *percentFormat) field() string {
	spec := formatSpec{fill: " ", precision: -1}
	var keyed Value = missing
	if strings.HasPrefix(f.rest, "(") {
		keyed = f.lookup()
	}
	zero := false
	for f.rest != "" && strings.IndexByte("-+ #0", f.rest[0]) >= 0 {
		switch c := f.next(); c {
		case '-':
			spec.align = '<'
		case '+':
			spec.sign = '+'
		case ' ':
			if spec.sign == 0 {
				spec.sign = ' '
			}
		case '#':
			spec.alternate = true
		default:
			zero = true
		}
	}
	spec.width = f.number(0)
	if spec.width < 0 {
		spec.width, spec.align = -spec.width, '<'
	}
	if strings.HasPrefix(f.rest, ".") {
		f.next()
		spec.precision = max(0, f.number(0))
	}
	if f.rest != "" && strings.IndexByte("hlL", f.rest[0]) >= 0 {
		f.next()
	}
	spec.verb = f.next()
	if spec.verb == '%' {
		return "%"
	}
	if zero && spec.align == 0 {
		spec.fill, spec.align = "0", '='
	}
	v := keyed
	if v == missing {
		v = f.arg()
	}
	return f.convert(v, spec)
}

// lookup reads (key) and returns its value in the mapping.
func (f *percentFormat) lookup() Value {
	depth := 0
	for i := range len(f.rest) {
		switch f.rest[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				key := f.rest[1:i]
				f.rest = f.rest[i+1:]
				return f.value(key)
			}
		}
	}
	valueError("incomplete format key")
	return nil
}

func (f *percentFormat) value(key string) Value {
	switch m := f.mapping.(type) {
	case *Dict:
		v, ok := m.getText(key)
		if !ok {
			fail("KeyError", "%s", reprString(key))
		}
		f.used = len(f.args)
		return v
	case *undefined:
		m.fail()
	}
	typeError("format requires a mapping")
	return nil
}

// number reads digits, or takes the number from the arguments for a star.
func (f *percentFormat) number(d int) int {
	if strings.HasPrefix(f.rest, "*") {
		f.next()
		v := f.arg()
		if _, ok := bigInteger(v); !ok {
			typeError("* wants int")
		}
		n := mustInt(v)
		if n > maxWidth || n < -maxWidth {
			valueError("width too big")
		}
		return n
	}
	var n int
	n, f.rest = specNumber(f.rest, d)
	return n
}

func (f *percentFormat) convert(v Value, spec formatSpec) string {
	verb := spec.verb
	switch verb {
	case 's', 'r', 'a':
		s := f.text(v, verb)
		spec.verb, spec.sign, spec.alternate, spec.fill = 0, 0, false, " "
		if spec.align != '<' {
			spec.align = '>'
		}
		return f.st.formatText(s, spec)
	case 'c':
		spec.verb, spec.precision, spec.fill = 0, -1, " "
		s, ok := text(v)
		if b, isInt := bigInteger(v); isInt {
			s, ok = runeOf(b), true
		}
		if !ok || len([]rune(s)) != 1 {
			typeError("%%c requires int or char")
		}
		return f.st.align(s, 0, spec, '>')
	case 'd', 'i', 'u', 'x', 'X', 'o':
		return f.integer(v, spec)
	case 'e', 'E', 'f', 'F', 'g', 'G':
		failUndefined(v)
		if !isNumber(v) {
			typeError("must be real number, not %s", typeName(v))
		}
		return f.st.formatNumber(toFloat(v), spec)
	}
	valueError("unsupported format character '%c' (%#x) at index %d", verb, verb, 0)
	return ""
}

func (f *percentFormat) text(v Value, verb byte) string {
	var s string
	switch verb {
	case 's':
		s = f.st.str(v)
	case 'r':
		s = f.st.repr(v)
	default:
		s = asciiRepr(f.st.repr(v))
	}
	if _, safe := v.(markup); f.escapes && !(safe && verb == 's') {
		s = string(escape(s))
	}
	return s
}

// integer formats an int, or the whole part of a float. The precision is the least number of digits.
func (f *percentFormat) integer(v Value, spec formatSpec) string {
	failUndefined(v)
	b, ok := bigInteger(v)
	if x, isFloat := v.(float64); isFloat && strings.IndexByte("diu", spec.verb) >= 0 {
		b, ok = truncate(x), true
	}
	if !ok {
		if strings.IndexByte("diu", spec.verb) >= 0 {
			typeError("%%%c format: a real number is required, not %s", spec.verb, typeName(v))
		}
		typeError("%%%c format: an integer is required, not %s", spec.verb, typeName(v))
	}
	if strings.IndexByte("iu", spec.verb) >= 0 {
		spec.verb = 'd'
	}
	prefix, digits := intDigits(b, spec)
	if n := spec.precision - len(digits); n > 0 {
		f.st.checkLen(n)
		digits = strings.Repeat("0", n) + digits
	}
	sign := ""
	if b.Sign() < 0 {
		sign = "-"
	} else if spec.sign != 0 {
		sign = string(spec.sign)
	}
	return f.st.align(sign+prefix+digits, len(sign+prefix), spec, '>')
}

// truncate is Python's int() of a float.
func truncate(x float64) *big.Int {
	if math.IsNaN(x) {
		valueError("cannot convert float NaN to integer")
	}
	if math.IsInf(x, 0) {
		fail("OverflowError", "cannot convert float infinity to integer")
	}
	b, _ := big.NewFloat(x).Int(nil)
	return b
}
