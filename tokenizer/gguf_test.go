package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func loadTiny(t testing.TB) *Tokenizer {
	t.Helper()
	tok, err := FromPretrained("testdata/tiny.gguf")
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestGGUFEqualsTokenizerJSON(t *testing.T) {
	tok := loadTiny(t)
	checkGolden(t, tok, readGolden(t, "smollm2"))
	if got := []any{tok.BOSToken(), tok.EOSToken(), tok.UnkToken(), tok.PadToken(), tok.BOSID(), tok.EOSID(), tok.PadID(), tok.VocabSize()}; !slices.Equal(got,
		[]any{"<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_end|>", 1, 2, 2, 480}) {
		t.Errorf("special tokens and size: %v", got)
	}
}

// TestSmolLM2EqualsRust runs over the published file named by LORIS_SMOLLM2_GGUF (SmolLM2-135M-Instruct, any quantization).
func TestSmolLM2EqualsRust(t *testing.T) {
	path := os.Getenv("LORIS_SMOLLM2_GGUF")
	if path == "" {
		t.Skip("LORIS_SMOLLM2_GGUF names no file")
	}
	tok, err := FromPretrained(path)
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, tok, readGolden(t, "smollm2_real"))
	text, err := tok.ApplyChatTemplate([]Message{{"role": "user", "content": "Hi"}}, ChatOptions{AddGenerationPrompt: true})
	if err != nil || !strings.HasPrefix(text, "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n") {
		t.Errorf("chat: %q, %v", text, err)
	}
	dir := t.TempDir()
	if err := tok.SavePretrained(dir); err != nil {
		t.Fatal(err)
	}
	if tok, err = FromPretrained(dir); err != nil {
		t.Fatal(err)
	}
	checkGolden(t, tok, readGolden(t, "smollm2_real"))
}

// fakeMetadata holds GGUF values by key.
type fakeMetadata map[string]any

func get[T any](m fakeMetadata, key string) (T, bool) {
	v, ok := m[key].(T)
	return v, ok
}

func (m fakeMetadata) Keys() []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}
func (m fakeMetadata) Bool(k string) (bool, bool)        { return get[bool](m, k) }
func (m fakeMetadata) Floats(k string) ([]float64, bool) { return get[[]float64](m, k) }
func (m fakeMetadata) Ints(k string) ([]int64, bool)     { return get[[]int64](m, k) }
func (m fakeMetadata) String(k string) (string, bool)    { return get[string](m, k) }
func (m fakeMetadata) Strings(k string) ([]string, bool) { return get[[]string](m, k) }
func (m fakeMetadata) Uint(k string) (uint64, bool)      { return get[uint64](m, k) }

// metadataOf writes the vocabulary of a test tokenizer as GGUF metadata.
func metadataOf(t *testing.T, name, model string) fakeMetadata {
	t.Helper()
	return metadataOfFile(t, filepath.Join("testdata", name, "tokenizer.json"), model)
}

// metadataOfFile writes the vocabulary of a tokenizer.json as llama.cpp's converter does.
func metadataOfFile(t *testing.T, file, model string) fakeMetadata {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Added []addedToken `json:"added_tokens"`
		Model struct {
			Vocab  map[string]int  `json:"vocab"`
			Merges json.RawMessage `json:"merges"`
		} `json:"model"`
	}
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	size := len(d.Model.Vocab)
	for _, a := range d.Added {
		size = max(size, a.ID+1)
	}
	tokens := make([]string, size)
	types := make([]int64, len(tokens))
	scores := make([]float64, len(tokens))
	for id := range tokens {
		tokens[id], types[id] = fmt.Sprintf("[PAD%d]", id), ggufUnused
	}
	for s, id := range d.Model.Vocab {
		tokens[id], types[id] = s, ggufNormal
		if _, ok := byteToken(s); ok {
			types[id] = ggufByte
		}
	}
	for _, a := range d.Added {
		tokens[a.ID], types[a.ID] = a.Content, ggufControl
		if !a.Special {
			types[a.ID] = ggufUserDefined
		}
		if a.Content == "<unk>" {
			types[a.ID] = ggufUnknown
		}
	}
	merges, err := decodeMerges(node{file: file, path: "merges", raw: d.Model.Merges})
	if err != nil {
		t.Fatal(err)
	}
	lines := make([]string, len(merges))
	for rank, p := range merges {
		lines[rank] = p[0] + " " + p[1]
		if id := d.Model.Vocab[p[0]+p[1]]; scores[id] == 0 {
			scores[id] = -float64(rank + 1)
		}
	}
	return fakeMetadata{"tokenizer.ggml.model": model, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types,
		"tokenizer.ggml.merges": lines, "tokenizer.ggml.scores": scores}
}

func TestGGUFLayoutsEqualRust(t *testing.T) {
	for _, c := range []struct {
		name, model string
		set         fakeMetadata
	}{
		{"gpt2", "gpt2", fakeMetadata{"tokenizer.ggml.pre": "gpt-2"}},
		{"gpt2", "gpt2", fakeMetadata{"tokenizer.ggml.pre": "default"}},
		{"gpt2", "gpt2", nil},
		{"qwen2", "gpt2", fakeMetadata{"tokenizer.ggml.pre": "qwen2"}},
		{"llama3", "gpt2", fakeMetadata{"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.bos_token_id": uint64(1)}},
		{"llama2", "llama", fakeMetadata{"tokenizer.ggml.bos_token_id": uint64(1)}},
		{"gemma", "llama", fakeMetadata{"tokenizer.ggml.bos_token_id": uint64(1), "tokenizer.ggml.add_space_prefix": false}},
	} {
		m := metadataOf(t, c.name, c.model)
		for k, v := range c.set {
			m[k] = v
		}
		tok, err := newFromMetadata("x.gguf", m)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for _, g := range readGolden(t, c.name) {
			plain, err1 := tok.Encode(g.Text, false)
			special, err2 := tok.Encode(g.Text, true)
			decoded, err3 := tok.Decode(g.IDs, false)
			if err := errors.Join(err1, err2, err3); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(plain, g.IDs) || !slices.Equal(special, g.SpecialIDs) || decoded != g.Decoded {
				t.Errorf("%s %v %.60q:\n got %v %v %q\nwant %v %v %q", c.name, c.set, g.Text, plain, special, decoded, g.IDs, g.SpecialIDs, g.Decoded)
				break
			}
		}
	}
}

// TestGGUFOfPublishedVocabulariesEqualsTokenizerJSON compares over the shared corpus what the pre-tokenizer names stand for
// with the files that the models were published with, in the folder that LORIS_TOKENIZERS names.
func TestGGUFOfPublishedVocabulariesEqualsTokenizerJSON(t *testing.T) {
	root := os.Getenv("LORIS_TOKENIZERS")
	if root == "" {
		t.Skip("LORIS_TOKENIZERS names no folder of tokenizers")
	}
	noBOS := fakeMetadata{"tokenizer.ggml.add_bos_token": false} // files that leave it to a class of transformers
	for _, c := range []struct {
		name, model, pre, bos string
		set                   fakeMetadata
	}{
		{"gpt2", "gpt2", "gpt-2", "", nil},
		{"smollm2", "gpt2", "smollm", "", nil},
		{"smollm2_like", "gpt2", "smollm", "", nil},
		{"llama3", "gpt2", "llama-bpe", "<|begin_of_text|>", noBOS},
		{"llama3_1", "gpt2", "llama-bpe", "<|begin_of_text|>", nil},
		{"qwen3", "gpt2", "qwen2", "", nil},
		{"gpt4o", "gpt2", "gpt-4o", "", nil},
		{"gptoss", "gpt2", "gpt-4o", "", nil},
		{"deepseek_v3", "gpt2", "deepseek-v3", "<｜begin▁of▁sentence｜>", noBOS},
		{"llama2", "llama", "default", "<s>", nil},
		{"gemma3", "llama", "default", "<bos>", fakeMetadata{"tokenizer.ggml.add_space_prefix": false}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(root, c.name, "tokenizer.json")
			m := metadataOfFile(t, file, c.model)
			m["tokenizer.ggml.pre"] = c.pre
			if c.bos != "" {
				m["tokenizer.ggml.bos_token_id"] = uint64(slices.Index(m["tokenizer.ggml.tokens"].([]string), c.bos))
			}
			for k, v := range c.set {
				m[k] = v
			}
			tok, err := newFromMetadata("x.gguf", m)
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p, err := newPipeline(file, data)
			if err != nil {
				t.Fatal(err)
			}
			sameOverCorpus(t, tok, &Tokenizer{pipeline: p})
		})
	}
}

func sameOverCorpus(t *testing.T, a, b *Tokenizer) {
	t.Helper()
	var texts []corpusText
	readShared(t, "tokenizer_corpus.json", &texts)
	wrong := 0
	for _, c := range texts {
		for _, special := range []bool{false, true} {
			got, err1 := a.Encode(c.Text, special)
			want, err2 := b.Encode(c.Text, special)
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			decoded, err1 := a.Decode(got, special)
			back, err2 := b.Decode(got, special)
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) || decoded != back {
				if wrong++; wrong < 4 {
					t.Errorf("%.60q, special tokens %v: got %v %.60q, want %v %.60q", c.Text, special, head(got), decoded, head(want), back)
				}
			}
		}
	}
	t.Logf("%d texts, %d mismatches", len(texts), wrong)
}

func TestGGUFErrorsNameKeyAndValue(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(m fakeMetadata)
		want []string
	}{
		{"no tokenizer", func(m fakeMetadata) { delete(m, "tokenizer.ggml.model") }, []string{"tokenizer.ggml.model", "missing"}},
		{"unknown model", func(m fakeMetadata) { m["tokenizer.ggml.model"] = "rwkv" }, []string{"tokenizer.ggml.model", "rwkv"}},
		{"unknown pre", func(m fakeMetadata) { m["tokenizer.ggml.pre"] = "tekken" }, []string{"tokenizer.ggml.pre", "tekken"}},
		{"no tokens", func(m fakeMetadata) { m["tokenizer.ggml.tokens"] = 3 }, []string{"tokenizer.ggml.tokens"}},
		{"types of another length", func(m fakeMetadata) { m["tokenizer.ggml.token_type"] = []int64{1} }, []string{"token_type", "1 entries for 480"}},
		{"no such type", func(m fakeMetadata) { m["tokenizer.ggml.token_type"].([]int64)[7] = 9 }, []string{"token_type", "[7] is 9"}},
		{"token twice", func(m fakeMetadata) { m["tokenizer.ggml.tokens"].([]string)[7] = "!" }, []string{"tokens", `"!"`}},
		{"merge without a blank", func(m fakeMetadata) { m["tokenizer.ggml.merges"].([]string)[2] = "ab" }, []string{"merges", "[2]", `"ab"`}},
		{"merge of unknown tokens", func(m fakeMetadata) { m["tokenizer.ggml.merges"].([]string)[2] = "zq qz" }, []string{"merges[2]", "zq"}},
		{"bos outside", func(m fakeMetadata) { m["tokenizer.ggml.bos_token_id"] = uint64(480) }, []string{"bos_token_id", "480"}},
	} {
		m := metadataOf(t, "gpt2", "gpt2")
		c.edit(m)
		_, err := newFromMetadata("x.gguf", m)
		if err == nil {
			t.Errorf("%s: no error", c.name)
			continue
		}
		for _, w := range append(c.want, "x.gguf") {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %q does not say %q", c.name, err, w)
			}
		}
	}
	m := metadataOf(t, "llama2", "llama")
	m["tokenizer.ggml.scores"] = []float64{1}
	if _, err := newFromMetadata("x.gguf", m); err == nil || !strings.Contains(err.Error(), "tokenizer.ggml.scores") {
		t.Errorf("scores of another length: %v", err)
	}
	var unsupported *UnsupportedError
	m = metadataOf(t, "gpt2", "gpt2")
	m["tokenizer.ggml.pre"] = "tekken"
	if _, err := newFromMetadata("x.gguf", m); !errors.As(err, &unsupported) || unsupported.Component != "tekken" {
		t.Errorf("unknown pre: %v", fmt.Sprint(err))
	}
}
