package tokenizer

import (
	"strings"
	"testing"
)

// The forms ask for no joiner after 30 marks, which golang.org/x/text puts in. Wanted is what the Rust library makes.
func TestLongRunsOfMarksAreNotBroken(t *testing.T) {
	const acute, below = "\u0301", "\u0323"
	many := strings.Repeat
	for _, c := range []struct{ form, text, want string }{
		{"NFC", "e" + many(acute, 40), "é" + many(acute, 39)},
		{"NFD", "é" + many(acute, 39), "e" + many(acute, 40)},
		{"NFKC", "ﬁe" + many(acute, 40) + "x", "fié" + many(acute, 39) + "x"},
		{"NFD", "a" + many(acute+below, 35), "a" + many(below, 35) + many(acute, 35)},
		{"NFC", "a" + many(acute+below, 35) + "o" + acute, "ạ" + many(below, 34) + many(acute, 35) + "ó"},
		{"NFC", "\u034f" + many(acute, 40), "\u034f" + many(acute, 40)},
		{"NFC", many(acute, 70) + "e" + acute, many(acute, 70) + "é"},
		{"NFC", "a\u05b4\u0c3c", "a\u05b4\u0c3c"},                     // a mark of Unicode 14: does not move
		{"NFC", "e\u0c3c" + acute + below, "e\u0c3c" + below + acute}, // others do not pass it
		{"NFC", "\U000105d2\u0307", "\U000105d2\u0307"},               // a composition of Unicode 16
		{"NFKC", "\u32ff" + "ﬁ", "\u32ff" + "fi"},                     // a decomposition of Unicode 12.1
		{"NFC", "e" + many(acute, 40) + "\u034f" + acute, "é" + many(acute, 39) + "\u034f" + acute},
	} {
		for _, track := range []bool{false, true} {
			got := unicodeForms[c.form].normalize(piece{text: c.text}, track)
			if got.text != c.want || track && len(got.align) != len(got.text) {
				t.Errorf("%s of %+q, track %v: %+q, want %+q", c.form, c.text, track, got.text, c.want)
			}
		}
	}
}

func TestMillionsOfMarksTakeLinearTime(t *testing.T) {
	if testing.Short() {
		t.Skip("a measurement")
	}
	for name, mark := range map[string]string{"equal": "\u0301", "reordered": "\u0301\u0323"} {
		takesLinearTime(t, name, func(part int) {
			unicodeForms["NFC"].normalize(piece{text: "e" + strings.Repeat(mark, 2_000_000/part)}, false)
		})
	}
}
