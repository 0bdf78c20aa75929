package tokenizer

import (
	"os"
	"regexp"
	"strconv"
	"testing"
	"unicode"
)

func TestClassesHoldAsManyCodePointsAsTheLibrary(t *testing.T) {
	source, err := os.ReadFile("unicodetables.go")
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string]*unicode.RangeTable{"letters": letters, "numbers": numbers, "normalizes": normalizes, "upperCase": upperCase, "lowerCase": lowerCase, "regexMarks": regexMarks, "symbols": symbols, "digits": digits, "punctuation": punctuation,
		"marks": marks, "accentMarks": accentMarks, "controls": controls, "wordChars": wordChars, "regexWord": regexWord}
	counts := regexp.MustCompile(`(?m)^// (\w+): .*; (\d+) code points`).FindAllStringSubmatch(string(source), -1)
	if len(counts) != len(tables) {
		t.Fatalf("%d tables in the source, %d here", len(counts), len(tables))
	}
	for _, c := range counts {
		want, n := 0, 0
		if want, err = strconv.Atoi(c[2]); err != nil {
			t.Fatal(err)
		}
		for r := rune(0); r <= unicode.MaxRune; r++ {
			if (r < 0xd800 || r > 0xdfff) && unicode.Is(tables[c[1]], r) {
				n++
			}
		}
		if n != want {
			t.Errorf("%s: %d code points, want %d", c[1], n, want)
		}
	}
}

func TestClassesHoldWhatOldUnicodeSaid(t *testing.T) {
	for _, c := range []struct {
		name  string
		table *unicode.RangeTable
		r     rune
		want  bool
	}{
		{"letters", letters, 'é', true}, {"letters", letters, '日', true}, {"letters", letters, '1', false}, {"letters", letters, 0x323b0, false},
		{"numbers", numbers, '½', true}, {"numbers", numbers, 'Ⅷ', true}, {"punctuation", punctuation, '。', true},
		{"punctuation", punctuation, 0x61d, false}, {"accentMarks", accentMarks, 0x301, true}, {"wordChars", wordChars, '_', true}, {"wordChars", wordChars, 0x200d, true},
	} {
		if unicode.Is(c.table, c.r) != c.want {
			t.Errorf("%s %U: %v", c.name, c.r, !c.want)
		}
	}
}
