package sugarme

import (
	"fmt"
	"slices"
	"strings"

	"github.com/loris-ml/loris/tokenizer"
)

// Difference is a text that the two libraries encode differently.
type Difference struct {
	Text      string
	Got, Want []int // ids of github.com/sugarme/tokenizer, of package tokenizer
	Err       error // instead of Got
}

// MismatchError says where github.com/sugarme/tokenizer differs from package tokenizer.
type MismatchError struct {
	Checked     int // texts
	Differences []Difference
}

// shownDifferences is how many of them the text of a MismatchError has.
const shownDifferences = 3

func (e *MismatchError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "sugarme: %d of %d texts are encoded differently than by package tokenizer; use that package, or set Options.Unchecked if these do not matter:",
		len(e.Differences), e.Checked)
	for _, d := range e.Differences[:min(len(e.Differences), shownDifferences)] {
		if d.Err != nil {
			fmt.Fprintf(&b, "\n%.60q: %v", d.Text, d.Err)
			continue
		}
		fmt.Fprintf(&b, "\n%.60q: %v, want %v", d.Text, head(d.Got), head(d.Want))
	}
	return b.String()
}

func head(ids []int) []int { return ids[:min(len(ids), 12)] }

// probes are short texts of the kinds that tokenizers differ on, and the first special tokens of the reference in a text.
func probes(reference *tokenizer.Tokenizer) []string {
	out := []string{
		"Hello world", " Hello  world ", "It isn't; WE'RE sure they'll know.", "1234567 3.14 0x1F", "naïve café, Größe", "nai\u0308ve cafe\u0301",
		"日本語の文章です。", "中文字符", "한국어", "Русский, Ελληνικά, עברית", "👍🏽 👨‍👩‍👧‍👦", "a\n\nb\n", "\tx\r\n", "   ", "def f(x):\n    return x\n", "!!! ??? ...", "x\u00a0y\u3000z", "CamelCase snake_case",
		"a  \n\n  b  ", " \n \n x", "x   y\n\n\n\nend   ", "\n", "\n  \n", "it'S x'll", "\x00a\x07", "a\u200bb\ufeff", "½ Ⅷ １２", strings.Repeat("a", 40), strings.Repeat(" ", 30) + "x",
	}
	const most = 4
	special := 0
	for id := 0; id < reference.VocabSize() && special < most; id++ {
		if token, ok := reference.IDToToken(id); ok && reference.IsSpecial(id) {
			out = append(out, token, "user"+token+" text", token+token+"\n"+token)
			special++
		}
	}
	return out
}

// check compares the ids of texts, without and with the tokens that the post-processor adds.
func (t *Tokenizer) check(reference *tokenizer.Tokenizer, texts []string) error {
	e := &MismatchError{Checked: len(texts)}
	for _, text := range texts {
		for _, add := range []bool{false, true} {
			want, err := reference.Encode(text, add)
			if err != nil {
				return fmt.Errorf("sugarme: the reference: %w", err)
			}
			got, err := t.Encode(text, add)
			if err != nil || !slices.Equal(got, want) {
				e.Differences = append(e.Differences, Difference{text, got, want, err})
				break
			}
		}
	}
	if len(e.Differences) > 0 {
		return e
	}
	return nil
}
