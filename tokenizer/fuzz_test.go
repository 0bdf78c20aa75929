package tokenizer

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"unicode/utf8"
)

func FuzzLoad(f *testing.F) {
	for _, name := range layouts {
		data, err := os.ReadFile(filepath.Join("testdata", name, "tokenizer.json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(document1("PRE", `{"type":"Metaspace","replacement":"_","prepend_scheme":"first"}`)))
	f.Add([]byte(document1("MODEL", `{"type":"Unigram","vocab":[["a",-1],["<0x41>",-2]],"unk_id":0,"byte_fallback":true}`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := newPipeline("fuzz.json", data)
		if err != nil {
			return
		}
		tok := &Tokenizer{pipeline: p}
		for _, text := range []string{"", "Hello 日本 123\n\n x", "<s> a"} {
			e, err := tok.EncodeFull(text, true)
			if err != nil {
				continue
			}
			checkEncoding(t, tok, text, e)
		}
	})
}

func FuzzEncode(f *testing.F) {
	var toks []*Tokenizer
	for _, name := range layouts {
		tok, err := FromPretrained(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		toks = append(toks, tok)
	}
	for i, g := range readGolden(f, "gpt2") {
		f.Add(i, g.Text)
	}
	f.Fuzz(func(t *testing.T, which int, text string) {
		tok := toks[uint(which)%uint(len(toks))]
		e, err := tok.EncodeFull(text, true)
		if (err != nil) != !utf8.ValidString(text) {
			t.Fatalf("%q: %v", text, err)
		}
		if err == nil {
			checkEncoding(t, tok, text, e)
		}
	})
}

// FuzzRoundTrip holds that layouts which keep everything decode to what was encoded.
func FuzzRoundTrip(f *testing.F) {
	var toks []*Tokenizer
	for _, name := range []string{"gpt2", "smollm2", "llama3"} { // no normalizer
		tok, err := FromPretrained(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		toks = append(toks, tok)
	}
	for i, g := range readGolden(f, "gpt2") {
		f.Add(i, g.Text)
	}
	f.Fuzz(func(t *testing.T, which int, text string) {
		tok := toks[uint(which)%uint(len(toks))]
		ids, err := tok.Encode(text, false)
		if err != nil {
			return
		}
		if got, err := tok.Decode(ids, false); err != nil || got != text {
			t.Fatalf("%q came back as %q (%v)", text, got, err)
		}
	})
}

// checkEncoding holds what is true of every encoding: equal lengths, offsets inside the text and at character boundaries,
// Encode agrees, Decode works.
func checkEncoding(t *testing.T, tok *Tokenizer, text string, e *Encoding) {
	t.Helper()
	n := len(e.IDs)
	if len(e.Offsets) != n || len(e.TypeIDs) != n || len(e.SpecialTokensMask) != n || len(e.Tokens) != n {
		t.Fatalf("%q: lengths %d %d %d %d %d", text, n, len(e.Offsets), len(e.TypeIDs), len(e.SpecialTokensMask), len(e.Tokens))
	}
	for i, o := range e.Offsets {
		if o[0] < 0 || o[0] > o[1] || o[1] > len(text) {
			t.Fatalf("%q: offsets[%d] %v", text, i, o)
		}
	}
	ids, err := tok.Encode(text, true)
	if err != nil || !slices.Equal(ids, e.IDs) {
		t.Fatalf("%q: Encode %v %v, EncodeFull %v", text, ids, err, e.IDs)
	}
	for _, skip := range []bool{false, true} {
		if s, err := tok.Decode(ids, skip); err != nil || !utf8.ValidString(s) {
			t.Fatalf("%q: decoded %q, %v", text, s, err)
		}
	}
}
