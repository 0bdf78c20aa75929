package tokenizer

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestRandomTextsEqualRust compares with what scripts/tokenizers/make_fuzz.py wrote.
func TestRandomTextsEqualRust(t *testing.T) {
	root, folder := os.Getenv("LORIS_TOKENIZERS"), os.Getenv("LORIS_TOKENIZER_FUZZ")
	if root == "" || folder == "" {
		t.Skip("LORIS_TOKENIZERS and LORIS_TOKENIZER_FUZZ name no folders")
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.jsonl.gz"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no *.jsonl.gz in %s (%v)", folder, err)
	}
	for _, file := range files {
		name, _, _ := strings.Cut(filepath.Base(file), ".")
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(root, name, "tokenizer.json")
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			p, err := newPipeline(path, data)
			if err != nil {
				t.Fatal(err)
			}
			checkRandom(t, &Tokenizer{pipeline: p}, file)
		})
	}
}

func checkRandom(t *testing.T, tok *Tokenizer, file string) {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	texts, tokens, wrong := 0, 0, 0
	for d := json.NewDecoder(z); ; texts++ {
		var g golden
		if err := d.Decode(&g); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if s := differences(tok, g); s != "" {
			if wrong++; wrong <= 8 {
				t.Errorf("%q: %s", g.Text, s)
			}
		}
		tokens += len(g.IDs)
	}
	t.Logf("%d texts, %d tokens, %d mismatches", texts, tokens, wrong)
	if wrong > 0 || texts == 0 {
		t.Errorf("%d of %d texts differ", wrong, texts)
	}
}

// differences says what is not as in g; "" if all is.
func differences(tok *Tokenizer, g golden) string {
	var out strings.Builder
	check := func(what string, got, want any, err error) {
		if err != nil || !reflect.DeepEqual(got, want) {
			fmt.Fprintf(&out, "\n%s: got %.300s\nwant %.300s (%v)", what, fmt.Sprintf("%q", got), fmt.Sprintf("%q", want), err)
		}
	}
	ids, err := tok.Encode(g.Text, false)
	check("ids", ids, g.IDs, err)
	e, err := tok.EncodeFull(g.Text, false)
	if err == nil {
		check("full ids", e.IDs, g.IDs, nil)
		check("offsets", e.Offsets, g.Offsets, nil)
	}
	if e, err = tok.EncodeFull(g.Text, true); err == nil {
		check("ids with special tokens", e.IDs, g.SpecialIDs, nil)
		check("offsets with special tokens", e.Offsets, g.SpecialOffsets, nil)
	}
	check("EncodeFull", err, nil, err)
	decoded, err := tok.Decode(g.IDs, false)
	check("decoded", decoded, g.Decoded, err)
	decoded, err = tok.Decode(g.SpecialIDs, true)
	check("decoded without special tokens", decoded, g.Skipped, err)
	return out.String()
}
