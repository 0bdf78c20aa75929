package tokenizer

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func readFixture(t testing.TB, name string, v any) {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".golden.json.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(z).Decode(v); err != nil {
		t.Fatal(err)
	}
}

func TestComponentsEqualRust(t *testing.T) {
	var all []struct {
		Kind   string            `json:"kind"`
		Config json.RawMessage   `json:"config"`
		Cases  []json.RawMessage `json:"cases"`
	}
	readFixture(t, "components", &all)
	kinds := map[string]int{}
	for i, c := range all {
		n := node{file: "components", path: c.Kind, raw: c.Config}
		kinds[c.Kind] += len(c.Cases)
		t.Run(fmt.Sprintf("%s %d", c.Kind, i), func(t *testing.T) {
			check := map[string]func(*testing.T, node) func(json.RawMessage) error{
				"normalizer": checkNormalizer, "pre_tokenizer": checkPreTokenizer, "decoder": checkDecoder}[c.Kind](t, n)
			wrong := 0
			for _, raw := range c.Cases {
				if err := check(raw); err != nil {
					if wrong++; wrong < 4 {
						t.Errorf("%s: %v", c.Config, err)
					}
				}
			}
			if wrong > 3 {
				t.Errorf("%s: %d of %d texts differ", c.Config, wrong, len(c.Cases))
			}
		})
	}
	if kinds["normalizer"] < 1500 || kinds["pre_tokenizer"] < 2500 || kinds["decoder"] < 300 {
		t.Errorf("the fixture lacks cases: %v", kinds)
	}
}

// piecesOf is what the Rust library makes of a text with one component: see testdata/make_components.py.
type piecesOf struct {
	Text    string   `json:"text"`
	Pieces  []string `json:"pieces"`
	Offsets [][2]int `json:"offsets"`
}

func checkNormalizer(t *testing.T, n node) func(json.RawMessage) error {
	f, err := loadNormalizer(n)
	if err != nil {
		t.Fatal(err)
	}
	chars, err := loadFixedLength(node{raw: json.RawMessage(`{"length":1}`)})
	if err != nil {
		t.Fatal(err)
	}
	return func(raw json.RawMessage) error {
		var c piecesOf
		if err := json.Unmarshal(raw, &c); err != nil {
			return err
		}
		tracked, err := f(piece{text: c.Text}, true)
		if err != nil {
			return err
		}
		plain, err := f(piece{text: c.Text}, false)
		if err != nil {
			return err
		}
		offsets := [][2]int{}
		chars(nil, tracked, func(p piece) {
			o := p.origin(0, len(p.text))
			offsets = append(offsets, [2]int{int(o.lo), int(o.hi)})
		})
		switch {
		case tracked.text != c.Pieces[0] || plain.text != c.Pieces[0]:
			return fmt.Errorf("%q: got %q and, without offsets, %q, want %q", c.Text, tracked.text, plain.text, c.Pieces[0])
		case !slices.Equal(offsets, c.Offsets):
			return fmt.Errorf("%q: offsets\n got %v\nwant %v", c.Text, offsets, c.Offsets)
		}
		return nil
	}
}

func checkPreTokenizer(t *testing.T, n node) func(json.RawMessage) error {
	l := preLoader{}
	f, err := l.load(n, true)
	if err != nil {
		t.Fatal(err)
	}
	return func(raw json.RawMessage) error {
		var c piecesOf
		if err := json.Unmarshal(raw, &c); err != nil {
			return err
		}
		e := &encoder{full: true, track: true}
		pieces, offsets := []string{}, [][2]int{}
		f(e, piece{text: c.Text}, func(p piece) {
			if p.text != "" {
				o := p.origin(0, len(p.text))
				pieces, offsets = append(pieces, p.text), append(offsets, [2]int{int(o.lo), int(o.hi)})
			}
		})
		if e.err != nil {
			return e.err
		}
		if c.Text == "" {
			c.Pieces, c.Offsets = nil, nil // the library hands on an empty piece, of which nothing comes
		}
		if !slices.Equal(pieces, c.Pieces) || !slices.Equal(offsets, c.Offsets) {
			return fmt.Errorf("%q:\n got %q %v\nwant %q %v", c.Text, pieces, offsets, c.Pieces, c.Offsets)
		}
		return nil
	}
}

func checkDecoder(t *testing.T, n node) func(json.RawMessage) error {
	f, err := loadDecoder(n)
	if err != nil {
		t.Fatal(err)
	}
	return func(raw json.RawMessage) error {
		var c struct {
			Tokens []string `json:"tokens"`
			Text   *string  `json:"text"` // null: the library crashed
		}
		if err := json.Unmarshal(raw, &c); err != nil {
			return err
		}
		got, err := f(c.Tokens)
		if err != nil {
			return err
		}
		if s := strings.Join(got, ""); c.Text != nil && s != *c.Text {
			return fmt.Errorf("%q: got %q, want %q", c.Tokens, s, *c.Text)
		}
		return nil
	}
}

// wholeEncoding is an encoding as the Rust library has it, offsets in characters, with the first parts of what overflows.
type wholeEncoding struct {
	IDs         []int           `json:"ids"`
	TypeIDs     []int           `json:"type_ids"`
	Tokens      []string        `json:"tokens"`
	Offsets     [][2]int        `json:"offsets"`
	Mask        []int           `json:"mask"`
	Attention   []int           `json:"attention"`
	Words       []int           `json:"words"`
	Sequences   []int           `json:"sequences"`
	Parts       int             `json:"parts"`
	Overflowing []wholeEncoding `json:"overflowing"`
}

func TestPairsTruncationAndPaddingEqualRust(t *testing.T) {
	var all []struct {
		Base   string                     `json:"base"`
		Fields map[string]json.RawMessage `json:"fields"`
		Cases  []struct {
			Text      string         `json:"text"`
			Pair      *string        `json:"pair"`
			Words     []string       `json:"words"`
			PairWords []string       `json:"pair_words"`
			Add       bool           `json:"add"`
			Encoding  *wholeEncoding `json:"encoding"`
			Error     string         `json:"error"`
			Find      []findings     `json:"find"`
		} `json:"cases"`
	}
	readFixture(t, "encodings", &all)
	compared, failed, refused, found := 0, 0, 0, 0
	for i, setting := range all {
		tok := patched(t, setting.Base, setting.Fields)
		for k, c := range setting.Cases {
			in := Text(c.Text)
			texts := []string{c.Text}
			switch {
			case c.PairWords != nil:
				in, texts = WordsPair(c.Words, c.PairWords), append(c.Words, c.PairWords...)
			case c.Words != nil:
				in, texts = Words(c.Words), c.Words
			case c.Pair != nil:
				in, texts = Pair(c.Text, *c.Pair), append(texts, *c.Pair)
			}
			o := tok.FileOptions()
			o.NoSpecialTokens = !c.Add
			e, err := tok.EncodeInput(in, o)
			if err != nil && strings.Contains(err.Error(), "the post-processor alone adds") {
				refused++ // the library wraps around and does not truncate at all
			} else if (err != nil) != (c.Encoding == nil) {
				t.Errorf("%d.%d %s %s: %+v: error %v, want %q", i, k, setting.Base, setting.Fields, c, err, c.Error)
			} else if err == nil {
				compared++
				err := equalWhole(e, c.Encoding, texts, false)
				for sequence, f := range c.Find {
					if err == nil {
						err = f.check(e, texts[sequence], sequence)
						found++
					}
				}
				if err != nil {
					if failed++; failed < 8 {
						t.Errorf("%d.%d %s %s\n%+v add %v: %v", i, k, setting.Base, setting.Fields, in.sequences, c.Add, err)
					}
				}
			}
		}
	}
	if failed > 0 || compared < 2000 || refused > 100 || found < 300 {
		t.Errorf("%d of %d encodings differ, %d refused, %d texts searched", failed, compared, refused, found)
	}
}

// findings are the token of every character, and the tokens and characters of the first words; -1 for none.
type findings struct {
	Chars []int    `json:"chars"`
	Words [][4]int `json:"words"`
}

func (f *findings) check(e *Encoding, text string, sequence int) error {
	at := 0
	for i, want := range f.Chars {
		token, ok := e.TokenAt(at, sequence)
		if !ok {
			token = -1
		}
		if token != want {
			return fmt.Errorf("sequence %d: character %d, byte %d, is in token %d, want %d", sequence, i, at, token, want)
		}
		_, n := utf8.DecodeRuneInString(text[at:])
		at += n
	}
	for word, want := range f.Words {
		got := [4]int{-1, -1, -1, -1}
		if lo, hi, ok := e.WordTokens(word, sequence); ok {
			start, end, _ := e.WordBytes(word, sequence)
			chars := charOffsets(text, [2]int{start, end})
			got = [4]int{lo, hi, chars[0], chars[1]}
		}
		if got != want {
			return fmt.Errorf("sequence %d: word %d has tokens and characters %v, want %v", sequence, word, got, want)
		}
	}
	return nil
}

// patched loads a tokenizer of testdata with some fields of its tokenizer.json replaced.
func patched(t testing.TB, name string, fields map[string]json.RawMessage) *Tokenizer {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name, "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d map[string]json.RawMessage
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	for k, v := range fields {
		d[k] = v
	}
	if data, err = json.Marshal(d); err != nil {
		t.Fatal(err)
	}
	p, err := newPipeline(name, data)
	if err != nil {
		t.Fatal(err)
	}
	return &Tokenizer{pipeline: p, files: files{tokenizerJSON: data}}
}

// equalWhole compares but what overflows of a part: the library lists combinations of a pair's parts there that it has in the
// outer list too.
func equalWhole(got *Encoding, want *wholeEncoding, texts []string, nested bool) error {
	for _, f := range []struct {
		name      string
		got, want any
	}{{"ids", got.IDs, want.IDs}, {"type ids", got.TypeIDs, want.TypeIDs}, {"tokens", got.Tokens, want.Tokens}, {"special tokens mask", got.SpecialTokensMask, want.Mask},
		{"attention mask", got.AttentionMask, want.Attention}, {"word ids", got.WordIDs, want.Words}, {"sequence ids", got.SequenceIDs, want.Sequences}} {
		if !reflect.DeepEqual(f.got, f.want) && fmt.Sprint(f.got) != fmt.Sprint(f.want) {
			return fmt.Errorf("%s\n got %v\nwant %v", f.name, f.got, f.want)
		}
	}
	for i, o := range got.Offsets {
		if o == want.Offsets[i] && o == [2]int{} {
			continue
		}
		if !slices.ContainsFunc(texts, func(s string) bool { return charOffsets(s, o) == want.Offsets[i] }) {
			return fmt.Errorf("offsets of token %d, %q: got bytes %v, want characters %v", i, got.Tokens[i], o, want.Offsets[i])
		}
	}
	if len(got.Overflowing) != want.Parts && !nested {
		return fmt.Errorf("%d parts overflow, want %d", len(got.Overflowing), want.Parts)
	}
	for i := range min(len(want.Overflowing), len(got.Overflowing)) {
		if err := equalWhole(got.Overflowing[i], &want.Overflowing[i], texts, true); err != nil {
			return fmt.Errorf("overflowing %d: %w", i, err)
		}
	}
	return nil
}

// charOffsets converts offsets in bytes to characters; {-1, -1} outside the text.
func charOffsets(s string, o [2]int) [2]int {
	if o[0] > o[1] || o[1] > len(s) {
		return [2]int{-1, -1}
	}
	return [2]int{utf8.RuneCountInString(s[:o[0]]), utf8.RuneCountInString(s[:o[1]])}
}
