package tokenizer

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// golden is what the Rust library makes of a text: see testdata/make_fixtures.py.
type golden struct {
	Text           string   `json:"text"`
	IDs            []int    `json:"ids"`
	Offsets        [][2]int `json:"offsets"`
	Tokens         []string `json:"tokens"`
	SpecialIDs     []int    `json:"special_ids"`
	SpecialOffsets [][2]int `json:"special_offsets"`
	SpecialTokens  []string `json:"special_tokens"`
	TypeIDs        []int    `json:"type_ids"`
	Mask           []int    `json:"mask"`
	Decoded        string   `json:"decoded"`
	Skipped        string   `json:"skipped"`
}

func readGolden(t testing.TB, name string) []golden {
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
	var g []golden
	if err := json.NewDecoder(z).Decode(&g); err != nil {
		t.Fatal(err)
	}
	if len(g) < 100 {
		t.Fatalf("%s: only %d texts", name, len(g))
	}
	return g
}

var layouts = []string{"gpt2", "roberta", "smollm2", "llama3", "qwen2", "falcon", "o200k", "llama2", "mistral", "gemma", "metaspace",
	"unigram", "bert", "wordlevel", "bpe_suffix",
	"sparse", "sparse_unk", "xlmr", "ctc"}

func TestLayoutsEqualRustWithOffsets(t *testing.T) {
	for _, name := range layouts {
		t.Run(name, func(t *testing.T) {
			tok, err := FromPretrained(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			checkGolden(t, tok, readGolden(t, name))
		})
	}
}

func checkGolden(t *testing.T, tok *Tokenizer, all []golden) {
	t.Helper()
	wrong := 0
	differ := func(text, what string, got, want any) {
		if reflect.DeepEqual(got, want) {
			return
		}
		if wrong++; wrong <= 6 {
			t.Errorf("%.70q: %s\n got %.300s\nwant %.300s", text, what, fmt.Sprint(got), fmt.Sprint(want))
		}
	}
	for _, g := range all {
		e, err := tok.EncodeFull(g.Text, false)
		if err != nil {
			t.Fatalf("%q: %v", g.Text, err)
		}
		differ(g.Text, "ids", e.IDs, g.IDs)
		differ(g.Text, "offsets", e.Offsets, g.Offsets)
		differ(g.Text, "tokens", e.Tokens, g.Tokens)
		if e, err = tok.EncodeFull(g.Text, true); err != nil {
			t.Fatalf("%q: %v", g.Text, err)
		}
		differ(g.Text, "ids with special tokens", e.IDs, g.SpecialIDs)
		differ(g.Text, "offsets with special tokens", e.Offsets, g.SpecialOffsets)
		differ(g.Text, "tokens with special tokens", e.Tokens, g.SpecialTokens)
		differ(g.Text, "type ids", e.TypeIDs, g.TypeIDs)
		differ(g.Text, "mask", e.SpecialTokensMask, g.Mask)
		for _, special := range []bool{false, true} {
			want := g.IDs
			if special {
				want = g.SpecialIDs
			}
			ids, err := tok.Encode(g.Text, special)
			if err != nil {
				t.Fatalf("%q: %v", g.Text, err)
			}
			differ(g.Text, "Encode", ids, want)
		}
		decoded, err := tok.Decode(g.IDs, false)
		if err != nil {
			t.Fatal(err)
		}
		differ(g.Text, "decoded", decoded, g.Decoded)
		if decoded, err = tok.Decode(g.SpecialIDs, true); err != nil {
			t.Fatal(err)
		}
		differ(g.Text, "decoded without special tokens", decoded, g.Skipped)
	}
	if wrong > 0 {
		t.Errorf("%d checks differ over %d texts", wrong, len(all))
	}
}
