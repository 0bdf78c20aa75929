package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// DeepSeek V3 splits three times: digits by threes, then runs of Chinese and Japanese, then words.
const (
	threeDigitsRegex   = `\p{N}{1,3}`
	ideographsRegex    = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
	deepSeekWordsRegex = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)

func skipToDigit(s string) int {
	i := 0
	for i < len(s) {
		c, n := class(s[i:])
		if c&number != 0 {
			break
		}
		i += n
	}
	return i
}

func skipASCII(s string) int {
	i := 0
	for i < len(s) && s[i] < utf8.RuneSelf {
		i++
	}
	return i
}

func scanIdeographs(s string) int {
	for i, r := range s {
		if !('\u4e00' <= r && r <= '\u9fa5' || '\u3040' <= r && r <= '\u30ff') {
			return i
		}
	}
	return len(s)
}

// scanDeepSeekWords matches nothing at a digit that is not followed by a letter.
func scanDeepSeekWords(s string) int {
	if n := asciiLetters(s[1:]); n > 0 && s[0] > ' ' && s[0] < 0x7f && basicClass[s[0]]&(letter|number) == 0 {
		return 1 + n
	}
	c, w := class(s)
	if c&(letter|symbol|newline) == 0 {
		if n := run(s[w:], letter|mark); n > 0 {
			return w + n
		}
	}
	if c&(letter|mark) != 0 {
		return run(s, letter|mark)
	}
	lead := 0
	if s[0] == ' ' {
		lead = 1
	}
	if n := run(s[lead:], symbol); n > 0 {
		n += lead
		return n + len(s[n:]) - len(strings.TrimLeft(s[n:], "\r\n"))
	}
	return blankLines(s)
}

func asciiLetters(s string) int {
	i := 0
	for i < len(s) && 'a' <= s[i]|0x20 && s[i]|0x20 <= 'z' {
		i++
	}
	return i
}
