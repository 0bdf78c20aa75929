package jinja

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"
)

// formatSpec is Python's format specification: [[fill]align][sign][#][0][width][grouping][.precision][type].
type formatSpec struct {
	fill      string
	align     byte // one of <>=^, 0 for the type's own
	sign      byte // '+' or ' ', 0 for minus only
	alternate bool // #
	width     int
	grouping  byte // ',' or '_', 0 for none
	precision int  // -1 for none
	verb      byte // 0 for none
}

func parseSpec(s string) formatSpec {
	f := formatSpec{fill: " ", precision: -1}
	if _, n := utf8.DecodeRuneInString(s); n > 0 && n < len(s) && strings.IndexByte("<>=^", s[n]) >= 0 {
		f.fill, f.align, s = s[:n], s[n], s[n+1:]
	} else if s != "" && strings.IndexByte("<>=^", s[0]) >= 0 {
		f.align, s = s[0], s[1:]
	}
	if s != "" && strings.IndexByte("+- ", s[0]) >= 0 {
		f.sign, s = s[0], s[1:]
	}
	if rest, ok := strings.CutPrefix(s, "#"); ok {
		f.alternate, s = true, rest
	}
	if rest, ok := strings.CutPrefix(s, "0"); ok {
		if s = rest; f.align == 0 {
			f.fill, f.align = "0", '='
		}
	}
	f.width, s = specNumber(s, 0)
	if s != "" && (s[0] == ',' || s[0] == '_') {
		f.grouping, s = s[0], s[1:]
	}
	if rest, ok := strings.CutPrefix(s, "."); ok {
		if f.precision, s = specNumber(rest, -1); f.precision < 0 {
			valueError("Format specifier missing precision")
		}
	}
	if s != "" {
		f.verb, s = s[0], s[1:]
	}
	if s != "" {
		valueError("Invalid format specifier")
	}
	return f
}

const maxWidth = 1 << 20 // of a formatted field

// specNumber reads digits; none is d.
func specNumber(s string, d int) (int, string) {
	n := 0
	for n < len(s) && isDecimal(s[n]) {
		n++
	}
	if n == 0 {
		return d, s
	}
	v, err := strconv.Atoi(s[:n])
	if err != nil || v > maxWidth {
		valueError("Too many decimal digits in format string")
	}
	return v, s[n:]
}

// formatValue is Python's format().
func (st *state) formatValue(v Value, spec string) string {
	if spec == "" {
		return st.str(v)
	}
	f := parseSpec(spec)
	switch v := v.(type) {
	case string, markup:
		s, _ := text(v)
		return st.formatText(s, f)
	case bool, int64, *big.Int, float64:
		return st.formatNumber(v, f)
	case *undefined:
		typeError("unsupported format string passed to Undefined.__format__")
	}
	typeError("unsupported format string passed to %s.__format__", typeName(v))
	return ""
}

func (st *state) formatText(s string, f formatSpec) string {
	if f.verb != 0 && f.verb != 's' {
		valueError("Unknown format code '%c' for object of type 'str'", f.verb)
	}
	if f.sign != 0 || f.align == '=' || f.alternate || f.grouping != 0 {
		valueError("Sign, '=' alignment, '#' or grouping not allowed in string format specifier")
	}
	if f.precision >= 0 && f.precision < utf8.RuneCountInString(s) {
		s = runeSlice(s, 0, f.precision)
	}
	return st.align(s, 0, f, '<')
}

// align pads s; lead is the length of the sign and prefix, after which = pads.
func (st *state) align(s string, lead int, f formatSpec, own byte) string {
	n := f.width - utf8.RuneCountInString(s)
	if n <= 0 {
		return s
	}
	st.checkRepeat(len(f.fill), n)
	a := f.align
	if a == 0 {
		a = own
	}
	switch a {
	case '<':
		return s + strings.Repeat(f.fill, n)
	case '^':
		return strings.Repeat(f.fill, n/2) + s + strings.Repeat(f.fill, n-n/2)
	case '=':
		return s[:lead] + strings.Repeat(f.fill, n) + s[lead:]
	}
	return strings.Repeat(f.fill, n) + s
}

func (st *state) formatNumber(v Value, f formatSpec) string {
	b, isInt := bigInteger(v)
	var sign, prefix, digits string
	if isInt && strings.IndexByte("\x00dnbcoxX", f.verb) >= 0 {
		if f.precision >= 0 {
			valueError("Precision not allowed in integer format specifier")
		}
		if f.verb == 'c' {
			return st.align(runeOf(b), 0, f, '<')
		}
		prefix, digits = intDigits(b, f)
		if b.Sign() < 0 {
			sign = "-"
		}
	} else {
		x := toFloat(v)
		if digits = floatDigits(math.Abs(x), f, isInt); math.Signbit(x) && !math.IsNaN(x) {
			sign = "-"
		}
	}
	if sign == "" && (f.sign == '+' || f.sign == ' ') {
		sign = string(f.sign)
	}
	lead := sign + prefix
	if f.grouping != 0 {
		digits = group(digits, f, len(lead))
	}
	return st.align(lead+digits, len(lead), f, '>')
}

func runeOf(b *big.Int) string {
	if !b.IsInt64() || b.Int64() < 0 || b.Int64() > utf8.MaxRune || !utf8.ValidRune(rune(b.Int64())) {
		fail("OverflowError", "%%c arg not in range(0x110000)")
	}
	return string(rune(b.Int64()))
}

func intDigits(b *big.Int, f formatSpec) (prefix, digits string) {
	abs := new(big.Int).Abs(b)
	switch f.verb {
	case 'b':
		prefix, digits = "0b", abs.Text(2)
	case 'o':
		prefix, digits = "0o", abs.Text(8)
	case 'x':
		prefix, digits = "0x", abs.Text(16)
	case 'X':
		prefix, digits = "0X", strings.ToUpper(abs.Text(16))
	default:
		return "", bigString(abs)
	}
	if !f.alternate {
		prefix = ""
	}
	return prefix, digits
}

func floatDigits(x float64, f formatSpec, isInt bool) string {
	verb, precision := f.verb, f.precision
	switch verb {
	case 'e', 'E', 'f', 'F', 'g', 'G', '%':
		if precision < 0 {
			precision = 6
		}
	case 0, 'n':
		if precision < 0 && verb == 0 {
			return reprFloat(x)
		}
		if precision < 0 {
			precision = 6
		}
	default:
		kind := "float"
		if isInt {
			kind = "int"
		}
		valueError("Unknown format code '%c' for object of type '%s'", verb, kind)
	}
	switch {
	case math.IsInf(x, 0), math.IsNaN(x):
		s := strings.TrimPrefix(reprFloat(x), "-")
		if verb == 'E' || verb == 'F' || verb == 'G' {
			s = strings.ToUpper(s)
		}
		if verb == '%' {
			s += "%"
		}
		return s
	case verb == '%':
		return strconv.FormatFloat(x*100, 'f', precision, 64) + "%"
	case verb == 'f' || verb == 'F':
		return strconv.FormatFloat(x, 'f', precision, 64)
	case verb == 'e' || verb == 'E':
		return strconv.FormatFloat(x, verb, precision, 64)
	}
	s := general(x, max(precision, 1), f.alternate)
	if verb == 0 && !strings.ContainsAny(s, ".e") {
		s += ".0"
	}
	if verb == 'G' {
		s = strings.ToUpper(s)
	}
	return s
}

// general is C's %g: precision significant digits, without trailing zeros unless keep.
func general(x float64, precision int, keep bool) string {
	s := strconv.FormatFloat(x, 'e', precision-1, 64)
	mantissa, e, _ := strings.Cut(s, "e")
	exp, _ := strconv.Atoi(e)
	if exp < -4 || exp >= precision {
		if !keep && strings.Contains(mantissa, ".") {
			mantissa = strings.TrimRight(strings.TrimRight(mantissa, "0"), ".")
		}
		return mantissa + "e" + e
	}
	s = strconv.FormatFloat(x, 'f', precision-1-exp, 64)
	if !keep && strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// group puts separators between the digits before the point, and pads with zeros to the width where the fill is zero.
func group(digits string, f formatSpec, lead int) string {
	end := strings.IndexFunc(digits, func(r rune) bool { return r == '.' || r == 'e' || r == '%' })
	if end < 0 {
		end = len(digits)
	}
	size := 3
	if f.grouping == '_' && strings.IndexByte("boxX", f.verb) >= 0 && f.verb != 0 {
		size = 4
	}
	whole, rest := digits[:end], digits[end:]
	for f.align == '=' && f.fill == "0" && lead+len(whole)+(len(whole)-1)/size+len(rest) < f.width {
		whole = "0" + whole
	}
	var b strings.Builder
	for i, c := range whole {
		if i > 0 && (len(whole)-i)%size == 0 {
			b.WriteByte(f.grouping)
		}
		b.WriteRune(c)
	}
	return b.String() + rest
}
