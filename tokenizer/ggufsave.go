package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/loris-ml/loris/internal/gguf"
)

// ggufPreTokenizers are the values of tokenizer.ggml.pre that byteLevelLayout knows, one of each meaning.
var ggufPreTokenizers = [...]string{"gpt-2", "smollm", "llama-bpe", "qwen2", "gpt-4o", "deepseek-v3"}

// GGUFMetadata returns the keys tokenizer.* of a GGUF file for llama.cpp: vocabulary, special tokens and chat templates. rows
// is the number of rows of the model's embedding, up to which the vocabulary is filled with unused tokens; 0: its own size.
// Values are string, bool, uint32, []string, []int32 and []float32.
//
// The format holds byte-level BPE with the pre-tokenizer of a known model, and BPE over ▁ as converted from SentencePiece.
// Others are an [*UnsupportedError]. What is returned was read back and encodes some texts as t does.
func (t *Tokenizer) GGUFMetadata(rows int) (map[string]any, error) {
	g, err := t.newGGUFWriter(rows)
	if err != nil {
		return nil, err
	}
	var tries []map[string]any
	if g.model.ByteFallback {
		tries = g.sentencePiece()
	} else if tries, err = g.byteLevel(); err != nil {
		return nil, err
	}
	for _, keys := range tries {
		if err := g.common(keys); err != nil {
			return nil, err
		}
		if err = t.sameAs(keys); err == nil {
			return keys, nil
		}
	}
	return nil, fmt.Errorf("tokenizer: GGUF cannot hold this tokenizer: %w", err)
}

// ggufWriter is a tokenizer on its way into a file.
type ggufWriter struct {
	t        *Tokenizer
	document jsonDocument
	model    modelFields
	merges   [][2]string
	tokens   []string
	types    []int32
}

// jsonDocument is what of a tokenizer.json decides how GGUF holds it.
type jsonDocument struct {
	Normalizer   any             `json:"normalizer"`
	PreTokenizer any             `json:"pre_tokenizer"`
	Model        json.RawMessage `json:"model"`
}

func (t *Tokenizer) newGGUFWriter(rows int) (*ggufWriter, error) {
	g := &ggufWriter{t: t}
	raw, err := t.document()
	if err != nil {
		return nil, err
	}
	root := node{file: "tokenizer.json", raw: raw}
	if err := root.decode(&g.document); err != nil {
		return nil, err
	}
	n := root.child("model", g.document.Model)
	if err := n.decode(&g.model); err != nil {
		return nil, err
	}
	if kind := g.model.kind(); kind != "BPE" || g.model.Prefix != nil && *g.model.Prefix != "" || g.model.Suffix != nil && *g.model.Suffix != "" {
		return nil, n.unsupported(kind)
	}
	if g.merges, err = readMerges(n.child("merges", g.model.Merges)); err != nil {
		return nil, err
	}
	return g, g.fill(rows)
}

// fill sets tokens and their types.
func (g *ggufWriter) fill(rows int) error {
	size := len(g.t.vocab.tokens)
	for _, a := range g.t.added {
		size = max(size, a.ID+1)
	}
	if rows != 0 && size > rows {
		return fmt.Errorf("tokenizer: ids up to %d, but the model's embedding has %d rows", size-1, rows)
	}
	size = max(size, rows)
	g.tokens, g.types = make([]string, size), make([]int32, size)
	for id := range g.tokens {
		g.tokens[id], g.types[id] = fmt.Sprintf("[PAD%d]", id), ggufUnused
	}
	for id, s := range g.t.vocab.tokens {
		if s == "" {
			continue
		}
		g.tokens[id], g.types[id] = s, ggufNormal
		if _, ok := byteToken(s); ok && g.model.ByteFallback {
			g.types[id] = ggufByte
		}
	}
	for _, a := range g.t.added {
		g.tokens[a.ID], g.types[a.ID] = a.Content, ggufUserDefined
		if a.Special {
			g.types[a.ID] = ggufControl
		}
	}
	if g.model.UnkToken != nil && g.model.ByteFallback {
		if id := slices.Index(g.tokens, *g.model.UnkToken); id >= 0 {
			g.types[id] = ggufUnknown
		}
	}
	return nil
}

// byteLevel names the pre-tokenizer: the one whose components are the tokenizer's.
func (g *ggufWriter) byteLevel() ([]map[string]any, error) {
	lines := make([]string, len(g.merges))
	for rank, p := range g.merges {
		lines[rank] = p[0] + " " + p[1]
	}
	for _, pre := range ggufPreTokenizers {
		keys := map[string]any{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.merges": lines}
		l, err := (&ggufTokenizer{metadata: gguf.NewMetadata(keys)}).byteLevelLayout()
		if err != nil {
			return nil, err
		}
		if l.ignoreMerges == g.model.IgnoreMerges && sameComponent(l.normalizer, g.document.Normalizer) && sameComponent(l.preTokenizer, g.document.PreTokenizer) {
			return []map[string]any{keys}, nil
		}
	}
	return nil, &UnsupportedError{File: "tokenizer.json", Field: "pre_tokenizer", Component: fmt.Sprintf("%.200v", g.document.PreTokenizer)}
}

// sameComponent compares two components but for what changes offsets only.
func sameComponent(known json.RawMessage, c any) bool {
	var k any
	if len(known) > 0 && json.Unmarshal(known, &k) != nil {
		return false
	}
	return reflect.DeepEqual(withoutOffsets(k), withoutOffsets(c))
}

// withoutOffsets leaves trim_offsets out and writes the default of use_regex.
func withoutOffsets(c any) any {
	switch c := c.(type) {
	case []any:
		out := make([]any, len(c))
		for i, v := range c {
			out[i] = withoutOffsets(v)
		}
		return out
	case map[string]any:
		out := map[string]any{}
		if c["type"] == "ByteLevel" {
			out["use_regex"] = true
		}
		for key, v := range c {
			if key != "trim_offsets" {
				out[key] = withoutOffsets(v)
			}
		}
		return out
	}
	return c
}

// sentencePiece gives the tokens scores in the order in which merges make them, and tries both ways of beginning a text, the
// likelier first: with large vocabularies a try takes seconds.
func (g *ggufWriter) sentencePiece() []map[string]any {
	id := make(map[string]int, len(g.tokens))
	for i, s := range g.tokens {
		id[s] = i
	}
	scores := make([]float32, len(g.tokens))
	for rank, p := range g.merges {
		if i, ok := id[p[0]+p[1]]; ok && scores[i] == 0 {
			scores[i] = -float32(rank + 1)
		}
	}
	parts := fmt.Sprint(g.document.Normalizer, g.document.PreTokenizer)
	prefixes := strings.Contains(parts, "Prepend") || strings.Contains(parts, "Metaspace")
	var tries []map[string]any
	for _, prefix := range []bool{prefixes, !prefixes} {
		tries = append(tries, map[string]any{"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default",
			"tokenizer.ggml.scores": scores, "tokenizer.ggml.add_space_prefix": prefix})
	}
	return tries
}

// common adds what both kinds have.
func (g *ggufWriter) common(keys map[string]any) error {
	keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"] = g.tokens, g.types
	s := g.t.special
	for role, token := range map[string]string{"bos": s.bos, "eos": s.eos, "padding": s.pad, "unknown": s.unk} {
		if id := slices.Index(g.tokens, token); token != "" && id >= 0 {
			keys["tokenizer.ggml."+role+"_token_id"] = uint32(id)
		}
	}
	plain, err1 := g.t.Encode("a", false)
	special, err2 := g.t.Encode("a", true)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	keys["tokenizer.ggml.add_bos_token"] = len(special) > len(plain) && special[0] == g.t.BOSID()
	keys["tokenizer.ggml.add_eos_token"] = len(special) > len(plain) && special[len(special)-1] == g.t.EOSID()
	if text := g.t.templates.standard; text != "" {
		keys["tokenizer.chat_template"] = text
	}
	var names []string
	for name, text := range g.t.templates.named {
		keys["tokenizer.chat_template."+name] = text
		names = append(names, name)
	}
	if slices.Sort(names); names != nil {
		keys["tokenizer.chat_templates"] = names
	}
	return nil
}

// ggufProbes are texts that tell layouts apart: blanks, digits, letters outside ASCII and in two spellings, contractions, code.
var ggufProbes = [...]string{
	"", " ", "a", " a", "Hello world", "  two  blanks and\ttabs \n\n lines\r\n ", "It's 1234567 o'clock; we'LL pay $5.00!", "déjà vu e\u0301 Ünïcödé",
	"日本語の文章、中文 한국어", "🙂👩‍👩‍👧 ½ ² ①", "func f(x int) { return x[0] += 1 }\n\t\t// end", "HTTPServer camelCase XMLs", "مرحبا नमस्ते สวัสดี", "...---!!!???  ",
}

// sameAs reads the keys back and reports a text that they would encode otherwise than t does.
func (t *Tokenizer) sameAs(keys map[string]any) error {
	back, err := newFromMetadata("the GGUF metadata", gguf.NewMetadata(keys))
	if err != nil {
		return err
	}
	texts := ggufProbes[:]
	for _, a := range t.added[:min(len(t.added), 8)] {
		texts = append(texts, "before "+a.Content+"after "+a.Content)
	}
	for _, text := range texts {
		for _, special := range []bool{false, true} {
			want, err1 := t.Encode(text, special)
			got, err2 := back.Encode(text, special)
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("%q would be read back as %v, not %v", text, got, want)
			}
		}
	}
	return nil
}
