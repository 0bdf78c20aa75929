package tokenizer

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// The shared corpus: 249 strings in 19 classes with the ids and decoded texts of the Rust library (tokenizers 0.22.2).
const sharedData = "../../shared/testdata"

type corpusText struct {
	Class string `json:"cls"`
	Text  string `json:"text"`
}

type corpusReference struct {
	IDs     []int  `json:"ids"`  // add_special_tokens=false
	Special []int  `json:"ids2"` // add_special_tokens=true
	Decoded string `json:"dec"`  // decode(ids, skip_special_tokens=false)
	Skipped string `json:"decs"` // decode(ids2, skip_special_tokens=true)
}

// TestCorpusEqualsRust runs over the tokenizers in the folder named by LORIS_TOKENIZERS (one folder each, as
// get-tokenizers.sh of the shared test data leaves them).
func TestCorpusEqualsRust(t *testing.T) {
	root := os.Getenv("LORIS_TOKENIZERS")
	if root == "" {
		t.Skip("LORIS_TOKENIZERS names no folder of tokenizers")
	}
	dirs, err := filepath.Glob(filepath.Join(root, "*", "tokenizer.json"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no tokenizer.json under %s (%v)", root, err)
	}
	for _, file := range dirs {
		name := filepath.Base(filepath.Dir(file))
		t.Run(name, func(t *testing.T) {
			texts, refs := readCorpus(t, name)
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p, err := newPipeline(file, data) // without the configuration beside it, as the reference was made
			if err != nil {
				t.Fatal(err)
			}
			checkCorpus(t, &Tokenizer{pipeline: p}, texts, refs)
		})
	}
}

func TestStories260KEqualsRust(t *testing.T) {
	tok, err := FromPretrained("testdata/stories260K")
	if err != nil {
		t.Fatal(err)
	}
	texts, refs := readCorpus(t, "stories260K")
	checkCorpus(t, tok, texts, refs)
}

func readCorpus(t *testing.T, name string) ([]corpusText, []corpusReference) {
	t.Helper()
	var texts []corpusText
	var refs []corpusReference
	readShared(t, "tokenizer_corpus.json", &texts)
	readShared(t, "tokenizer_ref/"+name+".json.gz", &refs)
	if len(texts) != len(refs) || len(texts) == 0 {
		t.Fatalf("%d texts but %d references", len(texts), len(refs))
	}
	return texts, refs
}

func readShared(t testing.TB, name string, v any) {
	t.Helper()
	f, err := os.Open(filepath.Join(sharedData, name))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("shared test data absent: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := json.NewDecoder(f)
	if filepath.Ext(name) == ".gz" {
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		d = json.NewDecoder(z)
	}
	if err := d.Decode(v); err != nil {
		t.Fatal(err)
	}
}

func checkCorpus(t *testing.T, tok *Tokenizer, texts []corpusText, refs []corpusReference) {
	t.Helper()
	wrong := 0
	for i, text := range texts {
		ref := refs[i]
		for _, c := range []struct {
			special bool
			want    []int
		}{{false, ref.IDs}, {true, ref.Special}} {
			got, err := tok.Encode(text.Text, c.special)
			full, err2 := tok.EncodeFull(text.Text, c.special)
			if err := errors.Join(err, err2); err != nil {
				t.Fatalf("%s %d: %v", text.Class, i, err)
			}
			if !slices.Equal(got, c.want) || !slices.Equal(full.IDs, c.want) {
				if wrong++; wrong < 5 {
					t.Errorf("%s %d %.60q special %v:\n got %v\nfull %v\nwant %v", text.Class, i, text.Text, c.special, head(got), head(full.IDs), head(c.want))
				}
			}
		}
		for _, c := range []struct {
			ids  []int
			skip bool
			want string
		}{{ref.IDs, false, ref.Decoded}, {ref.Special, true, ref.Skipped}} {
			got, err := tok.Decode(c.ids, c.skip)
			if err != nil {
				t.Fatal(err)
			}
			if got != c.want {
				if wrong++; wrong < 5 {
					t.Errorf("%s %d: decode(skip %v) = %.80q, want %.80q", text.Class, i, c.skip, got, c.want)
				}
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d checks differ", wrong, 4*len(texts))
	}
}

func head(ids []int) []int { return ids[:min(len(ids), 40)] }
