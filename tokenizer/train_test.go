package tokenizer

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func gunzip(t testing.TB, file string) []byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func trainingTexts(t testing.TB) []string {
	return strings.Split(string(gunzip(t, "testdata/train/corpus.txt.gz")), "\n\n")
}

// trained is the model of a tokenizer's tokenizer.json.
type trained struct {
	Vocab  map[string]int `json:"vocab"`
	Merges [][2]string    `json:"merges"`
}

func trainedModel(t testing.TB, tok *Tokenizer) (m trained, tokens []string) {
	t.Helper()
	var doc struct{ Model trained }
	if err := json.Unmarshal(tok.files.tokenizerJSON, &doc); err != nil {
		t.Fatal(err)
	}
	tokens = make([]string, len(doc.Model.Vocab))
	for s, id := range doc.Model.Vocab {
		tokens[id] = s
	}
	return doc.Model, tokens
}

// The cases are those of scripts/tokenizers/make_train_fixtures.py.
var trainCases = map[string]func() BPEConfig{
	"bytelevel": func() BPEConfig {
		c := ByteLevelBPE()
		c.VocabSize, c.SpecialTokens = 2000, []string{"<|endoftext|>", "<|im_start|>"}
		return c
	},
	"bytelevel_all": func() BPEConfig {
		c := ByteLevelBPE()
		c.VocabSize, c.MinFrequency, c.InitialAlphabet = 1_000_000, 2, nil
		return c
	},
	"bytelevel_short": func() BPEConfig {
		c := ByteLevelBPE()
		c.VocabSize, c.MinFrequency, c.MaxTokenLength = 1500, 3, 5
		return c
	},
	"bytelevel_limit": func() BPEConfig {
		c := ByteLevelBPE()
		c.VocabSize, c.LimitAlphabet, c.InitialAlphabet = 900, 50, nil
		return c
	},
	"sentencepiece": func() BPEConfig {
		c := SentencePieceBPE()
		c.VocabSize = 1500
		return c
	},
	"sentencepiece_nfkc": func() BPEConfig {
		c := SentencePieceBPE()
		c.VocabSize, c.LimitAlphabet, c.Normalizer = 1200, 90, `{"type":"NFKC"}`
		return c
	},
	"sentencepiece_whole": func() BPEConfig {
		c := SentencePieceBPE()
		c.VocabSize, c.MaxTokenLength = 1200, 12
		c.PreTokenizer = strings.Replace(c.PreTokenizer, `"split":true`, `"split":false`, 1)
		return c
	},
	"prefix": func() BPEConfig {
		return BPEConfig{PreTokenizer: `{"type":"Whitespace"}`, VocabSize: 700, ContinuingSubwordPrefix: "##"}
	},
	"suffix": func() BPEConfig {
		return BPEConfig{PreTokenizer: `{"type":"Whitespace"}`, VocabSize: 700, EndOfWordSuffix: "</w>", MinFrequency: 2}
	},
}

func TestTrainedVocabularyAndMergesEqualRust(t *testing.T) {
	texts := trainingTexts(t)
	for name, config := range trainCases {
		t.Run(name, func(t *testing.T) {
			var want struct {
				Tokens []string
				Merges [][2]string
				Of     int // set where the library leaves ids to chance: Tokens is then what all its runs have, sorted
			}
			if err := json.Unmarshal(gunzip(t, filepath.Join("testdata/train", name+".json.gz")), &want); err != nil {
				t.Fatal(err)
			}
			tok, err := TrainBPE(slices.Values(texts), config())
			if err != nil {
				t.Fatal(err)
			}
			m, tokens := trainedModel(t, tok)
			if want.Of > 0 {
				slices.Sort(tokens)
				for _, s := range want.Tokens {
					if _, found := slices.BinarySearch(tokens, s); !found {
						t.Errorf("token %q is missing", s)
					}
				}
				if len(tokens) != want.Of {
					t.Errorf("%d tokens, want %d", len(tokens), want.Of)
				}
				return
			}
			if !slices.Equal(tokens, want.Tokens) {
				t.Errorf("%d tokens, want %d; the first that differ: %q", len(tokens), len(want.Tokens), firstDifferent(tokens, want.Tokens))
			}
			if !slices.Equal(m.Merges, want.Merges) {
				t.Errorf("%d merges, want %d; the first that differ: %q", len(m.Merges), len(want.Merges), firstDifferent(m.Merges, want.Merges))
			}
		})
	}
}

func firstDifferent[T comparable](a, b []T) []T {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return []T{a[i], b[i]}
		}
	}
	return nil
}

// The tokenizer of examples/pretrain was trained by the Rust library on books that scripts/tiny/fetch-corpus.sh obtains.
func TestTinyTokenizerIsMadeByteForByte(t *testing.T) {
	corpus, err := os.ReadFile("../.cache/tiny/corpus.txt")
	if err != nil {
		t.Skipf("scripts/tiny/fetch-corpus.sh has not been run: %v", err)
	}
	want, err := os.ReadFile("../examples/pretrain/data/tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	c := ByteLevelBPE()
	c.PreTokenizer = `{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},` + c.PreTokenizer + `]}`
	c.VocabSize, c.SpecialTokens = 1024, []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
	special := regexp.MustCompile(`<\|(endoftext|im_start|im_end)\|>`)
	tok, err := TrainBPE(func(yield func(string) bool) {
		for document := range strings.SplitSeq(string(corpus), "\n\n") {
			for _, s := range special.Split(document, -1) {
				if !yield(s) {
					return
				}
			}
		}
	}, c)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(tok.files.tokenizerJSON, want) {
		t.Error("the file differs")
	}
}

func TestTrainingTwiceMakesTheSameFile(t *testing.T) {
	texts := trainingTexts(t)
	for _, name := range []string{"suffix", "bytelevel_limit", "sentencepiece"} {
		a, err := TrainBPE(slices.Values(texts), trainCases[name]())
		if err != nil {
			t.Fatal(err)
		}
		b, err := TrainBPE(slices.Values(texts), trainCases[name]())
		if err != nil || !bytes.Equal(a.files.tokenizerJSON, b.files.tokenizerJSON) {
			t.Errorf("%s: the files differ (%v)", name, err)
		}
	}
}

func TestTrainedTokenizerKeepsTextAndSurvivesSaving(t *testing.T) {
	texts := trainingTexts(t)
	for _, name := range []string{"bytelevel", "sentencepiece"} {
		c := trainCases[name]()
		var stages []string
		c.Progress = func(stage string, done, total int) {
			if done < 0 || total > 0 && done > total {
				t.Errorf("%s: %d of %d", stage, done, total)
			}
			if !slices.Contains(stages, stage) {
				stages = append(stages, stage)
			}
		}
		tok, err := TrainBPE(slices.Values(texts), c)
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{"count words", "count pairs", "merge"}; !slices.Equal(stages, want) {
			t.Errorf("stages %q, want %q", stages, want)
		}
		dir := t.TempDir()
		if err := tok.SavePretrained(dir); err != nil {
			t.Fatal(err)
		}
		again, err := FromPretrained(dir)
		if err != nil {
			t.Fatal(err)
		}
		if again.BOSToken() != tok.BOSToken() || again.EOSToken() != c.EOSToken || again.UnkToken() != c.UnkToken {
			t.Errorf("%s: tokens with a role are lost", name)
		}
		for _, text := range []string{"The tokenizer, 日本語 and 👍🏽 \t\n x", "func main() {}", texts[len(texts)-1]} {
			ids, err := tok.Encode(text, true)
			if err != nil {
				t.Fatal(err)
			}
			ids2, err := again.Encode(text, true)
			if err != nil || !reflect.DeepEqual(ids, ids2) {
				t.Errorf("%s: %.40q: %v saved, %v (%v)", name, text, ids2, ids, err)
			}
			if got, err := again.Decode(ids, true); err != nil || got != text {
				t.Errorf("%s: decoded %.60q, want %.60q (%v)", name, got, text, err)
			}
		}
	}
}

func TestTrainBPEErrorsNameTheField(t *testing.T) {
	hello := slices.Values([]string{"hello hello"})
	for name, c := range map[string]struct {
		change func(*BPEConfig)
		want   string
	}{
		"negative size":           {func(c *BPEConfig) { c.VocabSize = -1 }, "BPEConfig.VocabSize: -1"},
		"negative frequency":      {func(c *BPEConfig) { c.MinFrequency = -2 }, "BPEConfig.MinFrequency: -2"},
		"empty special token":     {func(c *BPEConfig) { c.SpecialTokens = []string{"a", ""} }, "BPEConfig.SpecialTokens: [1]"},
		"unknown unknown":         {func(c *BPEConfig) { c.UnkToken = "<unk>" }, `BPEConfig.UnkToken: "<unk>" is not one of SpecialTokens`},
		"unknown EOS":             {func(c *BPEConfig) { c.EOSToken = "</s>" }, "BPEConfig.EOSToken"},
		"bad pre-tokenizer":       {func(c *BPEConfig) { c.PreTokenizer = `{"type":"Spli"}` }, "BPEConfig: PreTokenizer"},
		"bad normalizer":          {func(c *BPEConfig) { c.Normalizer = `{` }, "BPEConfig: Normalizer"},
		"bad decoder":             {func(c *BPEConfig) { c.Decoder = `{"type":"x"}` }, "decoder"},
		"bytes and a prefix":      {func(c *BPEConfig) { c.ByteFallback, c.ContinuingSubwordPrefix = true, "##" }, "BPEConfig.ByteFallback"},
		"decoder that is no JSON": {func(c *BPEConfig) { c.Decoder = `{` }, "TrainBPE"},
	} {
		config := ByteLevelBPE()
		c.change(&config)
		if tok, err := TrainBPE(hello, config); err == nil || !strings.Contains(err.Error(), c.want) || tok != nil {
			t.Errorf("%s: %v; want %q in it", name, err, c.want)
		}
	}
	if _, err := TrainBPE(slices.Values([]string{"a", "b\xff"}), ByteLevelBPE()); err == nil || !strings.Contains(err.Error(), "text 1") {
		t.Errorf("text that is not UTF-8: %v", err)
	}
	if _, err := TrainBPE(slices.Values([]string{""}), BPEConfig{}); err == nil || !strings.Contains(err.Error(), "no words") {
		t.Errorf("nothing to learn from: %v", err)
	}
}

func BenchmarkTrainBPE(b *testing.B) {
	texts := trainingTexts(b)
	n := 0
	for _, s := range texts {
		n += len(s)
	}
	b.SetBytes(int64(n))
	for b.Loop() {
		if _, err := TrainBPE(slices.Values(texts), trainCases["bytelevel"]()); err != nil {
			b.Fatal(err)
		}
	}
}
