package jinja

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// strftime formats a time as C's function does in the C locale, with glibc's flags (%-d, %_d, %0e, %^a). The time counts as
// one without a zone, as Python's datetime.now() is.
func strftime(t time.Time, format string) string {
	var b strings.Builder
	for {
		text, rest, ok := strings.Cut(format, "%")
		b.WriteString(text)
		if !ok {
			return b.String()
		}
		flag := byte(0)
		for rest != "" && strings.IndexByte("-_0^#", rest[0]) >= 0 {
			flag, rest = rest[0], rest[1:]
		}
		if rest == "" {
			b.WriteString("%")
			return b.String()
		}
		s, known := directive(t, rest[0])
		if !known {
			s = "%" + rest[:1]
		}
		b.WriteString(flagged(s, flag, rest[0]))
		format = rest[1:]
	}
}

// flagged applies a flag of glibc to what a directive gave.
func flagged(s string, flag, directive byte) string {
	pad := ""
	switch flag {
	case '^':
		return strings.ToUpper(s)
	case '#':
		if directive == 'p' {
			return strings.ToLower(s)
		}
		return strings.ToUpper(s)
	case '_':
		pad = " "
	case '0':
		pad = "0"
	case '-':
	default:
		return s
	}
	if strings.IndexByte("CdeGgHIjklmMSUuVWwyY", directive) < 0 {
		return s
	}
	digits := strings.TrimLeft(s, "0 ")
	if digits == "" {
		digits = "0"
	}
	if pad == "" {
		return digits
	}
	return strings.Repeat(pad, len(s)-len(digits)) + digits
}

// layouts are the directives that package time knows.
var layouts = map[byte]string{
	'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January", 'h': "Jan", 'c': "Mon Jan _2 15:04:05 2006", 'd': "02", 'D': "01/02/06",
	'e': "_2", 'F': "2006-01-02", 'H': "15", 'I': "03", 'j': "002", 'm': "01", 'M': "04", 'p': "PM", 'P': "pm", 'r': "03:04:05 PM",
	'R': "15:04", 'S': "05", 'T': "15:04:05", 'x': "01/02/06", 'X': "15:04:05", 'y': "06", 'Y': "2006",
}

func directive(t time.Time, c byte) (string, bool) {
	if layout, ok := layouts[c]; ok {
		return t.Format(layout), true
	}
	year, week := t.ISOWeek()
	weekday := int(t.Weekday())
	switch c {
	case '%':
		return "%", true
	case 'n':
		return "\n", true
	case 't':
		return "\t", true
	case 'z', 'Z':
		return "", true
	case 'f':
		return fmt.Sprintf("%06d", t.Nanosecond()/1000), true
	case 's':
		return strconv.FormatInt(t.Unix(), 10), true
	case 'C':
		return fmt.Sprintf("%02d", t.Year()/100), true
	case 'g':
		return fmt.Sprintf("%02d", year%100), true
	case 'G':
		return strconv.Itoa(year), true
	case 'V':
		return fmt.Sprintf("%02d", week), true
	case 'U':
		return fmt.Sprintf("%02d", (t.YearDay()-1+7-weekday)/7), true
	case 'W':
		return fmt.Sprintf("%02d", (t.YearDay()-1+7-(weekday+6)%7)/7), true
	case 'u':
		return strconv.Itoa((weekday+6)%7 + 1), true
	case 'w':
		return strconv.Itoa(weekday), true
	case 'k':
		return fmt.Sprintf("%2d", t.Hour()), true
	case 'l':
		return fmt.Sprintf("%2d", (t.Hour()+11)%12+1), true
	}
	return "", false
}
