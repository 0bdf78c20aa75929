package tokenizer

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// The regular expressions that nearly every byte-level BPE uses; they have hand-written scanners because a general engine
// with look-ahead is two to four times slower.
const (
	gpt2Pattern  = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	llama3Regex  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwen2Regex   = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	o200kRegex   = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	regexTimeout = 10 * time.Second // of one match: only a pathological expression comes near it
)

// regex finds the matches of a regular expression of a tokenizer file.
type regex struct {
	scan func(s string) int // length of the match at the start of s; nil without a hand-written scanner
	skip func(s string) int // length of what surely holds no match at the start of s; nil: nothing
	re   *regexp2.Regexp
}

func compileRegex(pattern string) (*regex, error) {
	switch pattern {
	case gpt2Pattern:
		return &regex{scan: scanGPT2}, nil
	case llama3Regex:
		return &regex{scan: func(s string) int { return scanLlama3(s, 3) }}, nil
	case qwen2Regex:
		return &regex{scan: func(s string) int { return scanLlama3(s, 1) }}, nil
	case o200kRegex:
		return &regex{scan: scanO200K}, nil
	case threeDigitsRegex:
		return &regex{scan: func(s string) int { return scanDigits(s, 3) }, skip: skipToDigit}, nil
	case ideographsRegex:
		return &regex{scan: scanIdeographs, skip: skipASCII}, nil
	case deepSeekWordsRegex:
		return &regex{scan: scanDeepSeekWords}, nil
	}
	return compileGeneral(pattern)
}

func compileGeneral(pattern string) (*regex, error) {
	pattern = pinClasses(pattern)
	re, err := regexp2.Compile(pattern, regexp2.Unicode)
	if err != nil {
		if re, err = regexp2.Compile(pattern, regexp2.None); err != nil {
			return nil, fmt.Errorf("regular expression %q: %w", pattern, err)
		}
	}
	re.MatchTimeout = regexTimeout
	return &regex{re: re}, nil
}

// each calls found with the byte range of every match. An empty match at the end of the one before does not count.
func (r *regex) each(s string, found func(lo, hi int)) error {
	if r.scan != nil {
		for i := 0; i < len(s); {
			if r.skip != nil {
				if i += r.skip(s[i:]); i == len(s) {
					break
				}
			}
			n := r.scan(s[i:])
			if n == 0 {
				_, n = utf8.DecodeRuneInString(s[i:])
			} else {
				found(i, i+n)
			}
			i += n
		}
		return nil
	}
	runes := []rune(s)
	m, err := r.re.FindRunesMatch(runes)
	at, pos := 0, 0 // byte offset of rune pos
	end := -1       // of the last match, in runes
	advance := func(to int) int {
		for ; pos < to; pos++ {
			at += utf8.RuneLen(runes[pos])
		}
		return at
	}
	for m != nil && err == nil {
		if m.Length > 0 || m.Index != end {
			lo := advance(m.Index)
			end = m.Index + m.Length
			found(lo, advance(end))
		}
		m, err = r.re.FindNextMatch(m)
	}
	if err != nil {
		return fmt.Errorf("regular expression %q: %w", r.re.String(), err)
	}
	return nil
}

// Character classes of the scanners.
const (
	letter  = 1 << iota // \p{L}
	number              // \p{N}
	space               // \s
	newline             // \r and \n
	upper               // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
	lower               // [\p{Ll}\p{Lm}\p{Lo}\p{M}]
	mark                // \p{M}
	symbol              // [\p{P}\p{S}]

	spelled = letter | number | space
)

// basicClass has the classes of the characters of the Basic Multilingual Plane.
var basicClass = func() *[1 << 16]byte {
	t := new([1 << 16]byte)
	for _, c := range classes {
		for _, r := range c.table.R16 {
			for i := int(r.Lo); i <= int(r.Hi); i++ { // all strides are 1
				t[i] |= c.bit
			}
		}
	}
	for r := range rune(len(t)) {
		if unicode.IsSpace(r) {
			t[r] |= space
		}
	}
	t['\n'] |= newline
	t['\r'] |= newline
	return t
}()

var classes = []struct {
	table *unicode.RangeTable
	bit   byte
}{{letters, letter}, {numbers, number}, {upperCase, upper}, {lowerCase, lower}, {regexMarks, mark}, {symbols, symbol}}

// class returns the classes of the first character of s and its width; 0, 0 for an empty string.
func class(s string) (byte, int) {
	if s == "" {
		return 0, 0
	}
	if s[0] < utf8.RuneSelf {
		return basicClass[s[0]], 1
	}
	r, n := utf8.DecodeRuneInString(s)
	if r < 1<<16 {
		return basicClass[r], n
	}
	bits := byte(0)
	for _, c := range classes {
		if unicode.Is(c.table, r) {
			bits |= c.bit
		}
	}
	return bits, n
}

// run returns the length of the leading run of characters of a class.
func run(s string, want byte) int {
	i := 0
	for i < len(s) {
		if b := s[i]; b < utf8.RuneSelf {
			if basicClass[b]&want == 0 {
				break
			}
			i++
			continue
		}
		c, n := class(s[i:])
		if c&want == 0 {
			break
		}
		i += n
	}
	return i
}

// runOther returns the length of the leading run of [^\s\p{L}\p{N}].
func runOther(s string) int {
	i := 0
	for i < len(s) {
		c, n := class(s[i:])
		if c&spelled != 0 {
			break
		}
		i += n
	}
	return i
}

// contraction returns the length of 's 't 're 've 'm 'll 'd at the start of s; fold ignores case, and knows that ſ folds to s.
func contraction(s string, fold bool) int {
	if len(s) < 2 || s[0] != '\'' {
		return 0
	}
	lower := func(i int) (byte, int) {
		if i >= len(s) {
			return 0, 0
		}
		c := s[i]
		if fold {
			if 'A' <= c && c <= 'Z' {
				return c + 'a' - 'A', 1
			}
			if strings.HasPrefix(s[i:], "ſ") {
				return 's', len("ſ")
			}
		}
		return c, 1
	}
	c, n := lower(1)
	switch c {
	case 's', 't', 'm', 'd':
		return 1 + n
	case 'r', 'v':
		if d, k := lower(2); d == 'e' {
			return 2 + k
		}
	case 'l':
		if d, k := lower(2); d == 'l' {
			return 2 + k
		}
	}
	return 0
}

// blanks is \s+(?!\S)|\s+: a run of white space without its last character when text follows.
func blanks(s string) int {
	n := run(s, space)
	if n == 0 || n == len(s) {
		return n
	}
	if _, w := utf8.DecodeLastRuneInString(s[:n]); n > w {
		return n - w
	}
	return n
}

func scanGPT2(s string) int {
	if n := contraction(s, false); n > 0 {
		return n
	}
	lead := 0
	if s[0] == ' ' {
		lead = 1
	}
	switch c, _ := class(s[lead:]); {
	case c&(letter|number) != 0:
		return lead + run(s[lead:], c&(letter|number))
	case c&space == 0 && lead < len(s):
		return lead + runOther(s[lead:])
	}
	return blanks(s)
}

// scanLlama3 is the cl100k expression; maxDigits is the longest run of \p{N} in one match: 3 for Llama 3, 1 for Qwen.
func scanLlama3(s string, maxDigits int) int {
	if n := contraction(s, true); n > 0 {
		return n
	}
	c, w := class(s)
	switch {
	case c&letter != 0:
		return run(s, letter)
	case c&number != 0:
		return scanDigits(s, maxDigits)
	case c&newline == 0:
		if n := run(s[w:], letter); n > 0 {
			return w + n
		}
	}
	return scanRest(s, "\r\n")
}

// scanO200K is the expression of GPT-4o and gpt-oss: words break where lower case ends, and take marks and contractions in.
func scanO200K(s string) int {
	c, w := class(s)
	if c&number != 0 {
		return scanDigits(s, 3)
	}
	lead := 0 // of [^\r\n\p{L}\p{N}]?
	if c&(letter|newline) == 0 {
		lead = w
	}
	for _, word := range [...]func(string) int{endsLower, beginsUpper} {
		n := word(s[lead:])
		if n > 0 {
			n += lead
		} else if lead > 0 {
			n = word(s) // a mark may be the word itself
		}
		if n > 0 {
			return n + contraction(s[n:], true)
		}
	}
	return scanRest(s, "\r\n/")
}

// endsLower is upper*lower+. Where no lower follows the run of upper, the run is given back up to its last character that is
// lower too.
func endsLower(s string) int {
	end, both := 0, 0
	for {
		c, w := class(s[end:])
		if c&upper == 0 {
			break
		}
		end += w
		if c&lower != 0 {
			both = end
		}
	}
	if n := run(s[end:], lower); n > 0 {
		return end + n
	}
	return both
}

// beginsUpper is upper+lower*.
func beginsUpper(s string) int {
	n := run(s, upper)
	if n > 0 {
		n += run(s[n:], lower)
	}
	return n
}

// scanDigits is \p{N}{1,most}.
func scanDigits(s string, most int) int {
	n := 0
	for range most {
		c, w := class(s[n:])
		if c&number == 0 {
			break
		}
		n += w
	}
	return n
}

// scanRest is ` ?[^\s\p{L}\p{N}]+[TAIL]*|\s*[\r\n]+|\s+(?!\S)|\s+`.
func scanRest(s, tail string) int {
	lead := 0
	if s[0] == ' ' {
		lead = 1
	}
	if n := runOther(s[lead:]); n > 0 {
		n += lead
		for n < len(s) && strings.IndexByte(tail, s[n]) >= 0 {
			n++
		}
		return n
	}
	return blankLines(s)
}

// blankLines is `\s*[\r\n]+|\s+(?!\S)|\s+`.
func blankLines(s string) int {
	n := run(s, space)
	if k := strings.LastIndexAny(s[:n], "\r\n"); k >= 0 {
		return k + 1
	}
	return blanks(s)
}
