package jinja

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode"
)

func filterAbs(st *state, v Value, a callArgs) Value {
	a.positional("abs", 0, 0)
	if f, ok := v.(float64); ok {
		return math.Abs(f)
	}
	b, ok := bigInteger(v)
	if !ok {
		typeError("bad operand type for abs(): '%s'", typeName(v))
	}
	return small(new(big.Int).Abs(b))
}

// filterInt is int(value, base), or int(float(value)), or the default.
func filterInt(st *state, v Value, a callArgs) Value {
	args := a.bind("int", 0, "default", "base")
	failUndefined(v)
	base, isBase := integer(or(args[1], int64(10)))
	s, isText := text(v)
	switch f, isFloat := v.(float64); {
	case isText:
		st.checkLen(len(s))
		if b, ok := parseInt(s, int(base)); ok && isBase {
			return small(b)
		}
		if x, ok := parseFloat(s); ok && !math.IsNaN(x) && !math.IsInf(x, 0) {
			return small(truncate(x))
		}
	case isFloat && !math.IsNaN(f):
		return small(truncate(f))
	default:
		if b, ok := bigInteger(v); ok {
			return small(b)
		}
	}
	return or(args[0], int64(0))
}

func filterFloat(st *state, v Value, a callArgs) Value {
	args := a.bind("float", 0, "default")
	failUndefined(v)
	if s, ok := text(v); ok {
		st.checkLen(len(s))
		if f, ok := parseFloat(s); ok {
			return f
		}
	} else if isNumber(v) {
		return toFloat(v)
	}
	return or(args[0], 0.0)
}

// plainDigits brings a number's text into the form that Go reads: ASCII digits, no space around, no underscores between
// digits; false if an underscore stands elsewhere.
func plainDigits(s string) (string, bool) {
	s = strings.TrimFunc(s, isSpace)
	if !isASCII(s) {
		s = strings.Map(asciiDigit, s)
	}
	for i := range len(s) {
		if s[i] == '_' && (i == 0 || i+1 == len(s) || !isWordByte(s[i-1]) || !isWordByte(s[i+1])) {
			return "", false
		}
	}
	return strings.ReplaceAll(s, "_", ""), true
}

func isWordByte(c byte) bool { return isDecimal(c) || c|0x20 >= 'a' && c|0x20 <= 'z' }

// asciiDigit maps decimal digits of all scripts, which stand in rows from zero to nine.
func asciiDigit(r rune) rune {
	if r < 0x80 || !unicode.IsDigit(r) {
		return r
	}
	zero := r
	for r-zero < 9 && unicode.IsDigit(zero-1) {
		zero--
	}
	return '0' + r - zero
}

// parseInt is Python's int(s, base).
func parseInt(s string, base int) (*big.Int, bool) {
	if base != 0 && (base < 2 || base > 36) {
		return nil, false
	}
	s, ok := plainDigits(s)
	if !ok {
		return nil, false
	}
	sign := ""
	if s != "" && (s[0] == '-' || s[0] == '+') {
		sign, s = s[:1], s[1:]
	}
	if len(s) > 1 && s[0] == '0' {
		b := map[byte]int{'x': 16, 'o': 8, 'b': 2}[s[1]|0x20]
		switch {
		case b != 0 && (base == b || base == 0):
			base, s = b, s[2:]
		case base == 0 && strings.Trim(s, "0") != "":
			return nil, false
		}
	}
	if base == 0 {
		base = 10
	}
	if s == "" || !isWordByte(s[0]) || base == 10 && len(s) > maxDigits || len(s) > maxBits {
		return nil, false
	}
	return new(big.Int).SetString(sign+s, base)
}

// parseFloat is Python's float(s).
func parseFloat(s string) (float64, bool) {
	s, ok := plainDigits(s)
	if !ok || strings.ContainsAny(s, "xXpP") {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(f, 0) {
		return 0, false
	}
	return f, true
}

func filterRound(st *state, v Value, a callArgs) Value {
	args := a.bind("round", 0, "precision", "method")
	method, ok := text(or(args[1], "common"))
	if !ok || method != "common" && method != "ceil" && method != "floor" {
		fail("FilterArgumentError", "method must be common, ceil or floor")
	}
	precision := mustInt(or(args[0], int64(0)))
	failUndefined(v)
	if !isNumber(v) {
		typeError("type %s doesn't define __round__ method", typeName(v))
	}
	if method == "common" {
		if b, ok := bigInteger(v); ok {
			return roundInt(b, precision)
		}
		return roundFloat(v.(float64), precision)
	}
	var scale Value = arithmetic("**", int64(10), int64(precision))
	scaled := toFloat(arithmetic("*", v, scale))
	if method == "ceil" {
		scaled = math.Ceil(scaled)
	} else {
		scaled = math.Floor(scaled)
	}
	return arithmetic("/", small(truncate(scaled)), scale)
}

// roundInt rounds to a multiple of a power of ten, halves to even.
func roundInt(b *big.Int, precision int) Value {
	if precision >= 0 {
		return small(b)
	}
	if -precision > maxDigits {
		return int64(0)
	}
	unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(-precision)), nil)
	q, m := new(big.Int).DivMod(b, unit, new(big.Int))
	twice := new(big.Int).Lsh(m, 1)
	if c := twice.Cmp(unit); c > 0 || c == 0 && q.Bit(0) == 1 {
		q.Add(q, big.NewInt(1))
	}
	return small(q.Mul(q, unit))
}

// roundFloat rounds the exact value of f to a number of decimal places, halves to even.
func roundFloat(f float64, precision int) Value {
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0) || precision > 323:
		return f
	case precision >= 0:
		r, _ := strconv.ParseFloat(strconv.FormatFloat(f, 'f', precision, 64), 64)
		return r
	case precision < -308:
		return math.Copysign(0, f)
	}
	unit := math.Pow10(-precision)
	return math.RoundToEven(f/unit) * unit
}

func filterFileSize(st *state, v Value, a callArgs) Value {
	binary := truthy(or(a.bind("filesizeformat", 0, "binary")[0], false))
	failUndefined(v)
	bytes := 0.0
	if s, ok := text(v); ok {
		if bytes, ok = parseFloat(s); !ok {
			valueError("could not convert string to float: %s", reprString(s))
		}
	} else if isNumber(v) {
		bytes = toFloat(v)
	} else {
		typeError("float() argument must be a string or a real number, not '%s'", typeName(v))
	}
	base, suffix := 1000.0, "B"
	prefixes := []string{"k", "M", "G", "T", "P", "E", "Z", "Y"}
	if binary {
		base, suffix = 1024, "iB"
		prefixes[0] = "K"
	}
	switch {
	case bytes == 1:
		return "1 Byte"
	case bytes < base:
		return bigString(truncate(bytes)) + " Bytes"
	}
	unit := base
	for i, p := range prefixes {
		if unit *= base; bytes < unit || i == len(prefixes)-1 {
			return fmt.Sprintf("%.1f %s%s", base*bytes/unit, p, suffix)
		}
	}
	return nil
}
