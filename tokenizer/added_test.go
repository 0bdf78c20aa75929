package tokenizer

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// addedCase is what the Rust library makes of a text after tokens were added: see testdata/make_components.py.
type addedCase struct {
	Text    string   `json:"text"`
	IDs     []int    `json:"ids"`
	Tokens  []string `json:"tokens"`
	Offsets [][2]int `json:"offsets"`
	Decoded string   `json:"decoded"`
	Skipped string   `json:"skipped"`
}

func TestAddedTokensEqualRustAlsoWhenSaved(t *testing.T) {
	var all []struct {
		Base  string `json:"base"`
		Calls []struct {
			Tokens []AddedToken `json:"tokens"`
			Count  int          `json:"count"`
			IDs    []int        `json:"ids"`
			Size   int          `json:"size"`
			Cases  []addedCase  `json:"cases"`
		} `json:"calls"`
		Plain [][]int           `json:"plain"`
		Saved []json.RawMessage `json:"saved"`
	}
	readFixture(t, "added", &all)
	for _, c := range all {
		t.Run(c.Base, func(t *testing.T) {
			tok, err := FromPretrained(filepath.Join("testdata", c.Base))
			if err != nil {
				t.Fatal(err)
			}
			for i, call := range c.Calls {
				n, err := tok.AddTokens(call.Tokens...)
				if err != nil {
					t.Fatal(err)
				}
				if n != call.Count || tok.VocabSize() != call.Size {
					t.Errorf("call %d: %d added, %d tokens, want %d, %d", i, n, tok.VocabSize(), call.Count, call.Size)
				}
				for k, a := range call.Tokens {
					if id, ok := tok.TokenToID(a.Content); a.Content != "" && (!ok || id != call.IDs[k]) {
						t.Errorf("call %d: %q has id %d, want %d", i, a.Content, id, call.IDs[k])
					}
				}
				checkAdded(t, tok, call.Cases)
			}
			cases := c.Calls[len(c.Calls)-1].Cases
			for i, want := range c.Plain {
				if e, err := tok.EncodeInput(Text(cases[i].Text), EncodeOptions{PlainSpecial: true}); err != nil || !slices.Equal(e.IDs, want) {
					t.Errorf("special tokens as plain text: %q: %v %v, want %v", cases[i].Text, e.IDs, err, want)
				}
			}
			dir := t.TempDir()
			if err := tok.SavePretrained(dir); err != nil {
				t.Fatal(err)
			}
			saved := savedFields(t, dir)
			var added []json.RawMessage
			if err := json.Unmarshal(saved["added_tokens"], &added); err != nil {
				t.Fatal(err)
			}
			for i := range added {
				if i >= len(c.Saved) || !sameJSON(t, added[i], c.Saved[i]) {
					t.Errorf("saved added_tokens[%d] is %s", i, added[i])
				}
			}
			again, err := FromPretrained(dir)
			if err != nil {
				t.Fatal(err)
			}
			checkAdded(t, again, cases)
			if !reflect.DeepEqual(again.AddedTokens(), tok.AddedTokens()) {
				t.Errorf("reloaded %v, want %v", again.AddedTokens(), tok.AddedTokens())
			}
		})
	}
}

func checkAdded(t *testing.T, tok *Tokenizer, cases []addedCase) {
	t.Helper()
	for _, c := range cases {
		e, err := tok.EncodeFull(c.Text, true)
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := tok.Decode(c.IDs, false)
		if err != nil {
			t.Fatal(err)
		}
		skipped, err := tok.Decode(c.IDs, true)
		if err != nil {
			t.Fatal(err)
		}
		got := addedCase{c.Text, e.IDs, e.Tokens, e.Offsets, decoded, skipped}
		if fmt.Sprint(got) != fmt.Sprint(c) {
			t.Errorf("%q:\n got %q\nwant %q", c.Text, fmt.Sprint(got), fmt.Sprint(c))
		}
	}
}

// savedFields reads the fields of a saved tokenizer.json.
func savedFields(t *testing.T, dir string) map[string]json.RawMessage {
	t.Helper()
	n, err := readJSON(dir, "tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	fields, err := n.fields()
	if err != nil {
		t.Fatal(err)
	}
	return fields
}

func sameJSON(t *testing.T, a, b json.RawMessage) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal(a, &x); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &y); err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(x, y)
}

func TestTokensThatCannotBeAddedOrSavedAreErrors(t *testing.T) {
	load := func() *Tokenizer {
		p, err := newPipeline("f.json", []byte(`{"added_tokens":[],"model":{"type":"BPE","vocab":{"a":0,"b":10},"merges":[]}}`))
		if err != nil {
			t.Fatal(err)
		}
		return &Tokenizer{pipeline: p, files: files{tokenizerJSON: []byte(`{"model":{}}`)}}
	}
	tok := load()
	if _, err := tok.AddSpecialTokens("ok", "\xff"); err == nil || !strings.Contains(err.Error(), "token 1") {
		t.Error(err)
	}
	for _, s := range []string{"b", "<y>", "<z>"} { // one call each, which the numbers in a file cannot tell
		if _, err := tok.AddSpecialTokens(s); err != nil {
			t.Fatal(err)
		}
	}
	if tok.NextTokenID() != 13 {
		t.Errorf("the next id is %d", tok.NextTokenID())
	}
	if err := tok.SavePretrained(t.TempDir()); err == nil || !strings.Contains(err.Error(), `"<y>" has id 11`) {
		t.Error(err)
	}
}

// The Rust library takes the first two, and crashes on the others.
func TestTokensInsideBlanksThatAnotherTookAreNotFound(t *testing.T) {
	tok, err := FromPretrained("testdata/gpt2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tok.AddTokens(AddedToken{Content: "<r>", RStrip: true}, AddedToken{Content: "  ", LStrip: true}, AddedToken{Content: "\t", LStrip: true, RStrip: true}); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"a<r>  b", "a<r>    b", "<r>   b", "<r>     ", "<r>\t  \tb", "<r> \t<r>  <r>"} {
		e, err := tok.EncodeFull(text, false)
		if err != nil {
			t.Fatal(err)
		}
		checkEncoding(t, tok, text, e)
		if slices.Contains(e.Tokens, "") {
			t.Errorf("%q: %q", text, e.Tokens)
		}
	}
}

func TestTokenThatIsNormalizedToNothingIsAnError(t *testing.T) {
	tok, err := FromPretrained("testdata/metaspace") // its normalizer strips blanks
	if err != nil {
		t.Fatal(err)
	}
	before := tok.VocabSize()
	_, err = tok.AddTokens(AddedToken{Content: "<ok>", Normalized: true}, AddedToken{Content: "  ", Normalized: true})
	if err == nil || !strings.Contains(err.Error(), `"  "`) || tok.VocabSize() != before {
		t.Errorf("%v, %d tokens", err, tok.VocabSize())
	}
	if n, err := tok.AddTokens(AddedToken{Content: "  "}); err != nil || n != 1 {
		t.Errorf("%d %v", n, err)
	}
}

func TestChangedTruncationAndPaddingAreSaved(t *testing.T) {
	tok, err := FromPretrained("testdata/bert")
	if err != nil {
		t.Fatal(err)
	}
	trunc := &Truncation{MaxLength: 5, Stride: 1, Strategy: OnlySecond, Direction: Left}
	pad := &Padding{Length: 7, MultipleOf: 4, ID: 3, TypeID: 1, Token: "<p>", Direction: Left}
	if err := tok.SetTruncation(trunc); err != nil {
		t.Fatal(err)
	}
	if err := tok.SetPadding(pad); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := tok.SavePretrained(dir); err != nil {
		t.Fatal(err)
	}
	p, err := readJSON(dir, "tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	again, err := newPipeline("again", p.raw)
	if err != nil || *again.truncation != *trunc || *again.padding != *pad {
		t.Errorf("%+v %+v %v", again.truncation, again.padding, err)
	}
	before, after := savedFields(t, "testdata/bert"), savedFields(t, dir)
	for key, raw := range before {
		if key != "truncation" && key != "padding" && !sameJSON(t, raw, after[key]) {
			t.Errorf("%s changed", key)
		}
	}
}
