package peft

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/dlclark/regexp2"
)

// matchTimeout bounds a match on the backtracking engine; a module path takes microseconds unless the pattern explodes.
const matchTimeout = 2 * time.Second

// anchoring is how Python applies an expression to a string.
type anchoring bool

const (
	prefixMatch anchoring = false // re.match: from the start on
	fullMatch   anchoring = true  // re.fullmatch: from start to end
)

// indexGroup is the named group whose text match returns.
const indexGroup = "idx"

// pythonRegexp is an expression in Python's syntax. One of the engines is set.
type pythonRegexp struct {
	source string
	linear *regexp.Regexp
	back   *regexp2.Regexp
}

// compilePython prepares an expression of Python's re. Errors do not repeat it.
func compilePython(source string, how anchoring) (*pythonRegexp, error) {
	body, err := translatePython(source)
	if err != nil {
		return nil, fmt.Errorf("not a regular expression of Python: %w", err)
	}
	expr := `\A(?:` + body + `)`
	if how == fullMatch {
		expr += `\z`
	}
	re := &pythonRegexp{source: source}
	if re.linear, err = regexp.Compile(expr); err == nil {
		return re, nil
	}
	if re.back, err = regexp2.Compile(expr, regexp2.None); err != nil {
		return nil, fmt.Errorf("not a regular expression that can be used here: %w", err)
	}
	re.back.MatchTimeout = matchTimeout
	return re, nil
}

// compileWithin prepares an expression that PEFT puts between others before it asks re.match. It must also stand alone.
func compileWithin(before, source, after string) (*pythonRegexp, error) {
	if _, err := compilePython(source, prefixMatch); err != nil {
		return nil, err
	}
	return compilePython(before+source+after, prefixMatch)
}

// match also returns the text of the group "idx", "" where it took no part.
func (re *pythonRegexp) match(s string) (ok bool, index string, err error) {
	if re.linear != nil {
		m := re.linear.FindStringSubmatch(s)
		if m == nil {
			return false, "", nil
		}
		if i := re.linear.SubexpIndex(indexGroup); i >= 0 {
			index = m[i]
		}
		return true, index, nil
	}
	m, err := re.back.FindStringMatch(s)
	if err != nil {
		return false, "", fmt.Errorf("match the regular expression %q with %q: it backtracks for more than %v; simplify it", re.source, s, matchTimeout)
	}
	if m == nil {
		return false, "", nil
	}
	if g := m.GroupByName(indexGroup); g != nil {
		index = g.String()
	}
	return true, index, nil
}

// translatePython rewrites what Python spells differently from both engines, and refuses what would silently mean
// something else in them.
func translatePython(p string) (string, error) {
	t := translator{in: p}
	for t.i < len(p) {
		if err := t.step(); err != nil {
			return "", err
		}
	}
	if t.class {
		return "", errors.New("unterminated character set: a ] is missing")
	}
	if t.named && t.numbered {
		// The engines number named groups differently.
		return "", errors.New(`named groups and numbered back-references cannot be mixed; use (?P=name)`)
	}
	return t.out.String(), nil
}

type translator struct {
	in              string
	i               int
	out             strings.Builder
	class           bool // inside […]
	named, numbered bool // groups with names, back-references by number
}

var (
	omittedMinimum = regexp.MustCompile(`^\{,(\d*)\}`)
	groupReference = regexp.MustCompile(`^\(\?P=(\w+)\)`)
)

func (t *translator) emit(text string, consumed int) {
	t.out.WriteString(text)
	t.i += consumed
}

func (t *translator) step() error {
	rest := t.in[t.i:]
	switch {
	case rest[0] == '\\':
		return t.escape(rest)
	case t.class:
		switch rest[0] {
		case '[': // literal in Python; a class or a subtraction elsewhere
			t.emit(`\[`, 1)
		case ']':
			t.class = false
			t.emit("]", 1)
		default:
			t.emit(rest[:1], 1)
		}
	case rest[0] == '[':
		t.class = true
		open := "["
		if strings.HasPrefix(rest, "[^") {
			open = "[^"
		}
		n := len(open)
		if strings.HasPrefix(rest[n:], "]") { // first in the set: literal
			open, n = open+`\]`, n+1
		}
		t.emit(open, n)
	case strings.HasPrefix(rest, "(?P<"):
		t.named = true
		t.emit("(?<", 4)
	case strings.HasPrefix(rest, "(?P="):
		m := groupReference.FindStringSubmatch(rest)
		if m == nil {
			return fmt.Errorf("bad group reference at %q", rest)
		}
		t.emit(`\k<`+m[1]+`>`, len(m[0]))
	case strings.HasPrefix(rest, "(?<") && !strings.HasPrefix(rest, "(?<=") && !strings.HasPrefix(rest, "(?<!"),
		strings.HasPrefix(rest, "(?P"), strings.HasPrefix(rest, "(?'"):
		return fmt.Errorf("unknown extension at %q", rest)
	case rest[0] == '{':
		if m := omittedMinimum.FindStringSubmatch(rest); m != nil { // literal in Go
			t.emit("{0,"+m[1]+"}", len(m[0]))
			return nil
		}
		t.emit("{", 1)
	default:
		t.emit(rest[:1], 1)
	}
	return nil
}

// letterEscapes are the ASCII letters that Python knows after a backslash; others are errors there.
const letterEscapes = "AbBdDsSwWZafnrtvxuU"

func (t *translator) escape(rest string) error {
	if len(rest) == 1 {
		return errors.New(`it ends in a lone \`)
	}
	switch c := rest[1]; {
	case c == 'Z' && !t.class:
		t.emit(`\z`, 2)
	case c == '_':
		t.emit("_", 2)
	case c >= '1' && c <= '9' && !t.class:
		t.numbered = true
		t.emit(rest[:2], 2)
	case ('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z') && !strings.ContainsRune(letterEscapes, rune(c)):
		return fmt.Errorf("bad escape %s", rest[:2])
	default:
		t.emit(rest[:2], 2)
	}
	return nil
}
