package tokenizer

import (
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// streamed decodes ids one by one, and checks that no text ends inside a character.
func streamed(t *testing.T, tok *Tokenizer, ids []int, skip bool) string {
	t.Helper()
	s := tok.NewDecodeStream(skip)
	var b strings.Builder
	for _, id := range ids {
		text, err := s.Step(id)
		if err != nil {
			t.Fatal(err)
		}
		if !utf8.ValidString(text) {
			t.Fatalf("%v: %q is cut inside a character", ids, text)
		}
		b.WriteString(text)
	}
	rest, err := s.Flush()
	if err != nil {
		t.Fatal(err)
	}
	return b.String() + rest
}

func TestStreamEqualsDecode(t *testing.T) {
	for _, name := range append(layouts, "stories260K") {
		t.Run(name, func(t *testing.T) {
			tok, err := FromPretrained(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			golden := name
			if name == "stories260K" {
				golden = "llama2"
			}
			for _, g := range readGolden(t, golden) {
				for _, skip := range []bool{false, true} {
					ids, err := tok.Encode(g.Text, true)
					if err != nil {
						t.Fatal(err)
					}
					want, err := tok.Decode(ids, skip)
					if err != nil {
						t.Fatal(err)
					}
					if got := streamed(t, tok, ids, skip); got != want {
						t.Errorf("%q skip %v:\n got %q\nwant %q", g.Text, skip, got, want)
					}
				}
			}
		})
	}
}

// Random ids are mostly not UTF-8. For byte-level models the stream is Decode all the same.
func TestStreamOfRandomIDsEqualsDecodeOfByteLevelModels(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{"gpt2", "llama3", "falcon", "bert", "unigram", "wordlevel", "bpe_suffix"} {
		tok, err := FromPretrained(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			ids := make([]int, r.IntN(30))
			for i := range ids {
				ids[i] = r.IntN(tok.VocabSize())
			}
			want, err := tok.Decode(ids, true)
			if err != nil {
				t.Fatal(err)
			}
			if got := streamed(t, tok, ids, true); got != want {
				t.Errorf("%s %v:\n got %q\nwant %q", name, ids, got, want)
			}
		}
	}
}

func TestStreamReturnsCharactersAsSoonAsTheyAreComplete(t *testing.T) {
	tok, err := FromPretrained("testdata/llama2")
	if err != nil {
		t.Fatal(err)
	}
	var ids []int
	for _, token := range []string{"▁a", "<0xF0>", "<0x9F>", "<0x8E>", "<0x89>", "<0xE2>", "<0x82>", "<0xAC>", "<0xFF>", "▁the"} {
		id, ok := tok.TokenToID(token)
		if !ok {
			t.Fatalf("no token %q", token)
		}
		ids = append(ids, id)
	}
	s := tok.NewDecodeStream(false)
	var got []string
	for _, id := range ids {
		text, err := s.Step(id)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, text)
	}
	rest, err := s.Flush()
	if err != nil {
		t.Fatal(err)
	}
	// Decode would make U+FFFD of all eight bytes, because the last one is not UTF-8.
	want := "a||||🎉|||€||\ufffd the|"
	if s := strings.Join(append(got, rest), "|"); s != want {
		t.Errorf("got %q, want %q", s, want)
	}
	if _, err := s.Step(-100); err == nil || !strings.Contains(err.Error(), "-100") {
		t.Error(err)
	}
}

func TestStreamWaitsForCleanUp(t *testing.T) {
	tok, err := FromPretrained("testdata/bert")
	if err != nil {
		t.Fatal(err)
	}
	tok.settings.cleanUp = true
	for _, text := range []string{"it ' s a dog ' s , no ?", "the dog isn ' t , they ' re .", "a . b ! c ?"} {
		ids, err := tok.Encode(text, false)
		if err != nil {
			t.Fatal(err)
		}
		want, err := tok.Decode(ids, true)
		if err != nil {
			t.Fatal(err)
		}
		if got := streamed(t, tok, ids, true); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
