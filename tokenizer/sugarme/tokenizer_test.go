package sugarme

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/sft"
	"github.com/loris-ml/loris/tokenizer"
	"github.com/sugarme/tokenizer/pretrained"
)

var (
	_ sft.Tokenizer    = (*Tokenizer)(nil)
	_ models.Tokenizer = (*Tokenizer)(nil)
)

func layout(name string) string { return filepath.Join("..", "testdata", name) }

func TestPanicsOfTheLibraryAreErrors(t *testing.T) {
	for _, name := range []string{"llama3", "qwen2", "o200k"} {
		tok, err := FromPretrained(layout(name))
		if err == nil || tok != nil || !strings.Contains(err.Error(), "panicked") || !strings.Contains(err.Error(), filepath.Join(name, "tokenizer.json")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWrongTokenizersAreRefusedWithTheTextsThatDiffer(t *testing.T) {
	for _, name := range []string{"smollm2", "gemma", "gpt2"} {
		_, err := FromPretrained(layout(name))
		var m *MismatchError
		if !errors.As(err, &m) || m.Checked < 20 || len(m.Differences) == 0 || len(m.Differences) > m.Checked {
			t.Errorf("%s: %v", name, err)
			continue
		}
		reference, err := tokenizer.FromPretrained(layout(name))
		if err != nil {
			t.Fatal(err)
		}
		d := m.Differences[0]
		bare, err1 := reference.Encode(d.Text, false)
		special, err2 := reference.Encode(d.Text, true)
		if err := errors.Join(err1, err2); err != nil || !slices.Equal(d.Want, bare) && !slices.Equal(d.Want, special) || d.Err == nil && slices.Equal(d.Got, d.Want) {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
		if text := m.Error(); !strings.Contains(text, "want [") || strings.Count(text, "\n") > shownDifferences {
			t.Errorf("%s: %s", name, text)
		}
	}
}

// TestEveryPublishedTokenizerIsRefused runs over the folders of LORIS_TOKENIZERS.
func TestEveryPublishedTokenizerIsRefused(t *testing.T) {
	root := os.Getenv("LORIS_TOKENIZERS")
	if root == "" {
		t.Skip("LORIS_TOKENIZERS names no folder of tokenizers")
	}
	files, err := filepath.Glob(filepath.Join(root, "*", "tokenizer.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tokenizers in %s: %v", root, err)
	}
	for _, file := range files {
		name := filepath.Base(filepath.Dir(file))
		_, err := FromPretrained(filepath.Dir(file))
		var m *MismatchError
		switch {
		case errors.As(err, &m):
			t.Logf("%s: %d of %d texts differ", name, len(m.Differences), m.Checked)
		case err != nil && strings.Contains(err.Error(), "panicked"):
			t.Logf("%s: the library panics", name)
		default:
			t.Errorf("%s: not refused: %v", name, err)
		}
	}
}

func TestUncheckedTokenizerWorksWhereATokenizerIsTaken(t *testing.T) {
	tok, err := FromPretrainedUnchecked(layout("gpt2"))
	if err != nil {
		t.Fatal(err)
	}
	reference, err := tokenizer.FromPretrained(layout("gpt2"))
	if err != nil {
		t.Fatal(err)
	}
	const text = "the quick brown fox"
	want, err := reference.EncodeFull(text, false)
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			got, err := tok.EncodeFull(text, false)
			if err != nil || !slices.Equal(got.IDs, want.IDs) || !slices.Equal(got.Tokens, want.Tokens) || len(got.Offsets) != len(want.Offsets) {
				t.Errorf("%+v, want %+v (%v)", got, want, err)
			}
			if back, err := tok.Decode(want.IDs, true); err != nil || back != text {
				t.Errorf("decoded %q, %v", back, err)
			}
		})
	}
	wait.Wait()
	if tok.EOSToken() != reference.EOSToken() || tok.PadToken() != reference.PadToken() || tok.BOSID() != reference.BOSID() || !slices.Equal(tok.EOSIDs(), reference.EOSIDs()) {
		t.Error("tokens with a role differ from the reference's")
	}
	if ids, err := tok.Encode("a\xff", false); err == nil || !strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("text that is not UTF-8: %v, %v", ids, err)
	}
	if _, err := tok.Decode([]int{1, -100}, false); err == nil || !strings.Contains(err.Error(), "ids[1] is -100") {
		t.Errorf("negative id: %v", err)
	}
	dir := t.TempDir()
	if err := tok.SavePretrained(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := tokenizer.FromPretrained(dir); err != nil {
		t.Fatal(err)
	}
}

func TestInstanceWithoutReferenceTakesItsRolesFromOptions(t *testing.T) {
	lib, err := pretrained.FromFile(filepath.Join(layout("gpt2"), "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := New(lib, Options{BOSToken: "the", EOSToken: "!"})
	if err != nil {
		t.Fatal(err)
	}
	the, _ := tok.TokenToID("the")
	if tok.BOSID() != the || tok.EOSToken() != "!" || tok.PadToken() != "" || len(tok.EOSIDs()) != 1 {
		t.Errorf("%d %q %q %v", tok.BOSID(), tok.EOSToken(), tok.PadToken(), tok.EOSIDs())
	}
	if _, err := tok.ApplyChatTemplate(nil, tokenizer.ChatOptions{}); err == nil || !strings.Contains(err.Error(), "Options.Reference") {
		t.Errorf("a chat template from nowhere: %v", err)
	}
	if err := tok.SavePretrained(t.TempDir()); err == nil {
		t.Error("saved without a reference")
	}
	if _, err := New(lib, Options{EOSToken: "no such token"}); err == nil || !strings.Contains(err.Error(), "Options.EOSToken") {
		t.Errorf("a role for a token that is not there: %v", err)
	}
	if _, err := New(nil, Options{}); err == nil {
		t.Error("nil was taken")
	}
}

// TestMeasure counts mismatches over the shared corpus and measures speed, for README.md. LORIS_TOKENIZERS names a folder of
// tokenizers, LORIS_TEST_LONG asks for it: SentencePiece layouts take minutes.
func TestMeasure(t *testing.T) {
	root := os.Getenv("LORIS_TOKENIZERS")
	if root == "" || os.Getenv("LORIS_TEST_LONG") == "" {
		t.Skip("LORIS_TOKENIZERS or LORIS_TEST_LONG is not set")
	}
	data, err := os.ReadFile("../../../shared/testdata/tokenizer_corpus.json")
	if err != nil {
		t.Skip(err)
	}
	var texts []struct{ Text string }
	if err := json.Unmarshal(data, &texts); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gpt2", "smollm2", "llama3", "qwen3", "gpt4o", "bert", "stories260K", "mistral03_like", "gemma3"} {
		tok, err := FromPretrainedUnchecked(filepath.Join(root, name))
		if err != nil {
			t.Logf("%s: %.150v", name, err)
			continue
		}
		reference := tok.o.Reference
		var wrong, failed, n, bytes int
		var slow, fast time.Duration
		for _, c := range texts {
			if slow > 40*time.Second || len(c.Text) > 2000 { // quadratic in the library: 2,000 bytes take a second already
				continue
			}
			start := time.Now()
			got, err := tok.Encode(c.Text, false)
			slow += time.Since(start)
			start = time.Now()
			want, err2 := reference.Encode(c.Text, false)
			fast += time.Since(start)
			if err2 != nil {
				t.Fatal(err2)
			}
			n++
			bytes += len(c.Text)
			if err != nil {
				failed++
			} else if !slices.Equal(got, want) {
				wrong++
			}
		}
		t.Logf("%s: %d of %d texts wrong, %d failed; %.4f MB/s, package tokenizer %.2f MB/s", name, wrong, n, failed,
			float64(bytes)/slow.Seconds()/1e6, float64(bytes)/fast.Seconds()/1e6)
	}
}
