package tokenizer

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

var scannedPatterns = []string{gpt2Pattern, llama3Regex, qwen2Regex, o200kRegex, threeDigitsRegex, ideographsRegex, deepSeekWordsRegex}

// twins returns a pattern's hand-written scanner and the general engine.
func twins(t testing.TB, pattern string) (fast, slow *regex) {
	t.Helper()
	fast, err := compileRegex(pattern)
	if err != nil {
		t.Fatal(err)
	}
	if slow, err = compileGeneral(pattern); err != nil {
		t.Fatal(err)
	}
	if fast.scan == nil || slow.scan != nil {
		t.Fatal("not the two ways")
	}
	return fast, slow
}

func checkTwins(t *testing.T, pattern, text string, fast, slow *regex) {
	t.Helper()
	if strings.Contains(text, "ſ") {
		return // in the library ſ equals s where case is ignored; not so in the general engine
	}
	var a, b []int
	if err := fast.each(text, func(lo, hi int) { a = append(a, lo, hi) }); err != nil {
		t.Fatal(err)
	}
	if err := slow.each(text, func(lo, hi int) { b = append(b, lo, hi) }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(a, b) {
		t.Errorf("%.30s... %q: scanner %v, expression %v", pattern, text, a, b)
	}
}

func TestGeneralExpressionsEqualTheScanners(t *testing.T) {
	for _, pattern := range scannedPatterns {
		fast, slow := twins(t, pattern)
		for _, g := range readGolden(t, "gpt2") {
			checkTwins(t, pattern, g.Text, fast, slow)
		}
		for _, text := range []string{"HTTPServer's fooBAR'LL ABCdef ǅabc", "a\u0301B\u0301c \u0301x \u0301\u0301 X\u0301", " \u0301 \u0301", "日本語ABC日本'S", "ʰAʰbʰ", "//\n/x /\r\n//",
			" \n \n  x  ", "१२३४ ½½½½", "!'s ''s 's", "ⅷⅧⅷ",
			"-abc --abc .é 1a 12 a1b2 \u0301 1\u0301 \t\u0301\u0301a ~A~", "カタカナ漢字ひらがな12345 kanji龦", " !!\r\n\n x", "€5 +x = y²z <<≤a>>\n\n", "\u0301"} {
			checkTwins(t, pattern, text, fast, slow)
		}
	}
}

// sameUnicode reports whether both ways class all characters of a text alike: the scanners' tables are the Rust library's.
func sameUnicode(text string) bool {
	for _, r := range text {
		bits, _ := class(string(r))
		if unicode.IsLetter(r) != (bits&letter != 0) || unicode.IsNumber(r) != (bits&number != 0) ||
			unicode.In(r, unicode.Lu, unicode.Lt, unicode.Lm, unicode.Lo, unicode.M) != (bits&upper != 0) ||
			unicode.In(r, unicode.Ll, unicode.Lm, unicode.Lo, unicode.M) != (bits&lower != 0) ||
			unicode.Is(unicode.M, r) != (bits&mark != 0) || unicode.In(r, unicode.P, unicode.S) != (bits&symbol != 0) {
			return false
		}
	}
	return true
}

func FuzzScanners(f *testing.F) {
	var fast, slow []*regex
	for _, pattern := range scannedPatterns {
		a, b := twins(f, pattern)
		fast, slow = append(fast, a), append(slow, b)
	}
	for i, g := range readGolden(f, "gpt2") {
		f.Add(i, g.Text)
	}
	f.Fuzz(func(t *testing.T, which int, text string) {
		if len(text) > 500 || !utf8.ValidString(text) || !sameUnicode(text) {
			return
		}
		k := uint(which) % uint(len(fast))
		checkTwins(t, scannedPatterns[k], text, fast[k], slow[k])
	})
}
