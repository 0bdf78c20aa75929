package jinja

import (
	"math"
	"math/big"
	"math/bits"
	"strings"
)

// binary is an arithmetic operator of Python.
func (st *state) binary(op string, a, b Value) Value {
	if op == "%" {
		if s, ok := text(a); ok {
			return st.percent(a, s, b)
		}
	}
	if isNumber(a) && isNumber(b) {
		return arithmetic(op, a, b)
	}
	switch op {
	case "+":
		if v, ok := st.add(a, b); ok {
			return v
		}
	case "*":
		if v, ok := st.repeat(a, b); ok {
			return v
		}
	}
	failUndefined(a, b)
	_, isText := text(a)
	_, isList := a.(*list)
	_, isTuple := a.(*tuple)
	switch {
	case op == "+" && (isText || isList || isTuple):
		typeError(`can only concatenate %s (not "%s") to %[1]s`, typeName(a), typeName(b))
	case op == "*" && isSequence(a):
		typeError("can't multiply sequence by non-int of type '%s'", typeName(b))
	case op == "*" && isSequence(b):
		typeError("can't multiply sequence by non-int of type '%s'", typeName(a))
	case op == "**":
		op = "** or pow()"
	}
	typeError("unsupported operand type(s) for %s: '%s' and '%s'", op, typeName(a), typeName(b))
	return nil
}

func failUndefined(values ...Value) {
	for _, v := range values {
		if u, ok := v.(*undefined); ok {
			u.fail()
		}
	}
}

func isSequence(v Value) bool {
	switch v.(type) {
	case string, markup, *list, *tuple:
		return true
	}
	return false
}

// add joins two strings, lists or tuples. What is joined to Markup is escaped.
func (st *state) add(a, b Value) (Value, bool) {
	switch a := a.(type) {
	case string:
		switch b := b.(type) {
		case string:
			st.checkLen(len(a) + len(b))
			return a + b, true
		case markup:
			return st.addMarkup(escape(a), b), true
		}
	case markup:
		switch b := b.(type) {
		case string:
			return st.addMarkup(a, escape(b)), true
		case markup:
			return st.addMarkup(a, b), true
		}
	case *list:
		if b, ok := b.(*list); ok {
			return &list{st.concat(a.items, b.items)}, true
		}
	case *tuple:
		if b, ok := b.(*tuple); ok {
			return &tuple{items: st.concat(a.items, b.items)}, true
		}
	}
	return nil, false
}

func (st *state) addMarkup(a, b markup) Value {
	st.checkLen(len(a) + len(b))
	return a + b
}

func (st *state) concat(a, b []Value) []Value {
	st.charge(len(a) + len(b))
	return append(append(make([]Value, 0, len(a)+len(b)), a...), b...)
}

// repeat is a sequence times an int, in either order.
func (st *state) repeat(a, b Value) (Value, bool) {
	if !isSequence(a) {
		a, b = b, a
	}
	if _, ok := bigInteger(b); !ok {
		return nil, false
	}
	n := max(0, mustInt(b))
	switch a := a.(type) {
	case *list:
		return &list{st.repeatItems(a.items, n)}, true
	case *tuple:
		return &tuple{items: st.repeatItems(a.items, n)}, true
	}
	s, ok := text(a)
	if !ok {
		return nil, false
	}
	st.checkRepeat(len(s), n)
	return like(a, strings.Repeat(s, n)), true
}

func (st *state) repeatItems(items []Value, n int) []Value {
	high, size := bits.Mul64(uint64(len(items)), uint64(n))
	if high > 0 || size > math.MaxInt32 {
		failSteps()
	}
	st.charge(int(size))
	out := make([]Value, 0, size)
	for len(items) > 0 && n > 0 {
		out = append(out, items...)
		n--
	}
	return out
}

func (st *state) checkRepeat(size, n int) {
	high, total := bits.Mul64(uint64(size), uint64(n))
	if high > 0 || total > math.MaxInt32 {
		total = math.MaxInt32
	}
	st.checkLen(int(total))
}

func arithmetic(op string, a, b Value) Value {
	i, aInt := integer(a)
	j, bInt := integer(b)
	if aInt && bInt {
		if v, ok := smallInts(op, i, j); ok {
			return v
		}
	}
	x, aInt := bigInteger(a)
	y, bInt := bigInteger(b)
	if aInt && bInt {
		return bigInts(op, x, y)
	}
	return floats(op, toFloat(a), toFloat(b))
}

// smallInts computes what fits int64.
func smallInts(op string, a, b int64) (Value, bool) {
	switch op {
	case "+":
		c := a + b
		return c, (c > a) == (b > 0)
	case "-":
		c := a - b
		return c, (c < a) == (b > 0)
	case "*":
		const half = 1 << 31
		return a * b, a > -half && a < half && b > -half && b < half
	case "//", "%":
		if b == 0 || a == math.MinInt64 {
			return nil, false
		}
		q, r := a/b, a%b
		if r != 0 && (r < 0) != (b < 0) {
			q, r = q-1, r+b
		}
		if op == "%" {
			return r, true
		}
		return q, true
	}
	return nil, false
}

// maxBits bounds ints; maxDigits is Python's bound of their decimal spelling.
const (
	maxBits   = 1 << 16
	maxDigits = 4300
)

func bigInts(op string, a, b *big.Int) Value {
	c := new(big.Int)
	switch op {
	case "+":
		c.Add(a, b)
	case "-":
		c.Sub(a, b)
	case "*":
		c.Mul(a, b)
	case "**":
		if b.Sign() < 0 {
			return floats(op, toFloat(small(a)), toFloat(small(b)))
		}
		if a.BitLen() > 1 && (!b.IsInt64() || b.Int64() > maxBits || int64(a.BitLen()-1)*b.Int64() > maxBits) {
			fail(KindLimit, "an int of more than %d bits", maxBits)
		}
		c.Exp(a, b, nil)
	default:
		if b.Sign() == 0 {
			fail("ZeroDivisionError", map[string]string{"/": "division by zero", "//": "integer division or modulo by zero", "%": "integer modulo by zero"}[op])
		}
		if op == "/" {
			return divide(a, b)
		}
		m := new(big.Int)
		c.QuoRem(a, b, m)
		if m.Sign() != 0 && m.Sign() != b.Sign() {
			c.Sub(c, big.NewInt(1))
			m.Add(m, b)
		}
		if op == "%" {
			c = m
		}
	}
	if c.BitLen() > maxBits {
		fail(KindLimit, "an int of more than %d bits", maxBits)
	}
	return small(c)
}

// divide is the float nearest to a/b.
func divide(a, b *big.Int) Value {
	if a.Sign() == 0 && b.Sign() < 0 {
		return math.Copysign(0, -1)
	}
	f, _ := new(big.Rat).SetFrac(a, b).Float64()
	if math.IsInf(f, 0) {
		fail("OverflowError", "integer division result too large for a float")
	}
	return f
}

func toFloat(v Value) float64 {
	f, _ := number(v)
	if _, ok := v.(*big.Int); ok && math.IsInf(f, 0) {
		fail("OverflowError", "int too large to convert to float")
	}
	return f
}

func floats(op string, a, b float64) Value {
	switch op {
	case "+":
		return a + b
	case "-":
		return a - b
	case "*":
		return a * b
	case "**":
		return power(a, b)
	}
	if b == 0 {
		fail("ZeroDivisionError", map[string]string{"/": "float division by zero", "//": "float floor division by zero", "%": "float modulo"}[op])
	}
	if op == "/" {
		return a / b
	}
	q, m := divmod(a, b)
	if op == "%" {
		return m
	}
	return q
}

// divmod is Python's: the remainder has the sign of b.
func divmod(a, b float64) (q, m float64) {
	m = math.Mod(a, b)
	q = (a - m) / b
	if m == 0 {
		m = math.Copysign(0, b)
	} else if (b < 0) != (m < 0) {
		m += b
		q--
	}
	if q == 0 {
		return math.Copysign(0, a/b), m
	}
	f := math.Floor(q)
	if q-f > 0.5 {
		f++
	}
	return f, m
}

func power(a, b float64) Value {
	if a == 0 && b < 0 {
		fail("ZeroDivisionError", "0.0 cannot be raised to a negative power")
	}
	if a < 0 && b != math.Trunc(b) && !math.IsInf(a, 0) && !math.IsInf(b, 0) {
		fail(KindUnsupported, "complex numbers are not supported")
	}
	f := math.Pow(a, b)
	if b == math.Trunc(b) && math.Abs(b) <= 1024 && !math.IsNaN(a) && !math.IsInf(a, 0) && a != 0 {
		f = wholePower(a, int(b))
	}
	if math.IsInf(f, 0) && !math.IsInf(a, 0) && !math.IsInf(b, 0) {
		fail("OverflowError", "(34, 'Numerical result out of range')")
	}
	return f
}

// wholePower is a**n rounded once, as C's pow is and Go's is not.
func wholePower(a float64, n int) float64 {
	const precision = 2048
	p, square := big.NewFloat(1).SetPrec(precision), big.NewFloat(a).SetPrec(precision)
	for e := max(n, -n); e > 0; e >>= 1 {
		if e&1 == 1 {
			p.Mul(p, square)
		}
		square.Mul(square, square)
	}
	if n < 0 {
		p.Quo(big.NewFloat(1).SetPrec(precision), p)
	}
	f, _ := p.Float64()
	return f
}

// sign is a unary plus or minus.
func sign(op string, v Value) Value {
	failUndefined(v)
	if f, ok := v.(float64); ok {
		if op == "-" {
			return -f
		}
		return f
	}
	b, ok := bigInteger(v)
	if !ok {
		typeError("bad operand type for unary %s: '%s'", op, typeName(v))
	}
	if op == "-" {
		b = new(big.Int).Neg(b)
	}
	return small(b)
}
