package tokenizer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/loris-ml/loris/internal/gguf"
)

// Token types of tokenizer.ggml.token_type.
const (
	ggufNormal      = 1
	ggufUnknown     = 2
	ggufControl     = 3
	ggufUserDefined = 4
	ggufUnused      = 5
	ggufByte        = 6
)

func fromGGUF(path string) (*Tokenizer, error) {
	f, err := gguf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	m := f.Metadata()
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("tokenizer: %s: %w", path, err)
	}
	return newFromMetadata(path, m)
}

// metadata is what a GGUF file says about its tokenizer.
type metadata interface {
	Keys() []string
	Bool(key string) (bool, bool)
	Floats(key string) ([]float64, bool)
	Ints(key string) ([]int64, bool)
	String(key string) (string, bool)
	Strings(key string) ([]string, bool)
	Uint(key string) (uint64, bool)
}

// newFromMetadata writes the tokenizer.json that the metadata describes and loads that.
func newFromMetadata(path string, m metadata) (*Tokenizer, error) {
	g := &ggufTokenizer{path: path, metadata: m}
	if err := g.read(); err != nil {
		return nil, err
	}
	data, err := g.document()
	if err != nil {
		return nil, err
	}
	p, err := newPipeline(path, data)
	if err != nil {
		return nil, err
	}
	t := &Tokenizer{pipeline: p, files: files{tokenizerJSON: data, config: map[string]json.RawMessage{}}}
	t.files.config["tokenizer_class"] = json.RawMessage(`"PreTrainedTokenizerFast"`)
	t.files.config["clean_up_tokenization_spaces"] = json.RawMessage(`false`)
	for key, to := range map[string]*string{"bos": &t.special.bos, "eos": &t.special.eos, "padding": &t.special.pad, "unknown": &t.special.unk} {
		if *to, err = g.tokenOf(key); err != nil {
			return nil, err
		}
	}
	for key, token := range t.special.named() {
		if *token != "" {
			if t.files.config[key], err = indented(*token); err != nil {
				return nil, fmt.Errorf("tokenizer: %s: %s: %w", path, key, err)
			}
		}
	}
	t.templates.standard, _ = m.String("tokenizer.chat_template")
	for _, key := range m.Keys() {
		if name, ok := strings.CutPrefix(key, "tokenizer.chat_template."); ok {
			if text, ok := m.String(key); ok {
				t.templates.set(name, text)
			}
		}
	}
	return t, nil
}

// ggufTokenizer is the vocabulary of a GGUF file.
type ggufTokenizer struct {
	metadata
	path   string
	kind   string // gpt2: byte-level BPE; llama: SentencePiece BPE
	tokens []string
	types  []int64
}

func (g *ggufTokenizer) errorf(key, format string, args ...any) error {
	return fmt.Errorf("tokenizer: %s: tokenizer.%s: "+format, append([]any{g.path, key}, args...)...)
}

func (g *ggufTokenizer) read() error {
	var ok bool
	if g.kind, ok = g.String("tokenizer.ggml.model"); !ok {
		return g.errorf("ggml.model", "missing; the file holds no tokenizer, load the tokenizer.json of the model instead")
	}
	if g.kind != "gpt2" && g.kind != "llama" {
		return &UnsupportedError{File: g.path, Field: "tokenizer.ggml.model", Component: g.kind}
	}
	if g.tokens, ok = g.Strings("tokenizer.ggml.tokens"); !ok || len(g.tokens) == 0 {
		return g.errorf("ggml.tokens", "missing or not a list of texts")
	}
	if g.types, ok = g.Ints("tokenizer.ggml.token_type"); !ok {
		return g.errorf("ggml.token_type", "missing or not a list of integers")
	}
	if len(g.types) != len(g.tokens) {
		return g.errorf("ggml.token_type", "%d entries for %d tokens", len(g.types), len(g.tokens))
	}
	first := make(map[string]int, len(g.tokens))
	for id, s := range g.tokens {
		if g.types[id] < ggufNormal || g.types[id] > ggufByte {
			return g.errorf("ggml.token_type", "[%d] is %d; want 1 to 6", id, g.types[id])
		}
		if s == "" || !utf8.ValidString(s) {
			return g.errorf("ggml.tokens", "[%d] is %q; want text in UTF-8", id, s)
		}
		if old, dup := first[s]; dup {
			return g.errorf("ggml.tokens", "[%d] and [%d] are both %q", old, id, s)
		}
		first[s] = id
	}
	return nil
}

// size is the number of real tokens: converters fill the vocabulary up to the rows of the embedding with unused ones.
func (g *ggufTokenizer) size() int {
	n := len(g.tokens)
	for n > 0 && g.types[n-1] == ggufUnused {
		n--
	}
	return n
}

// tokenOf returns the token whose id a key such as tokenizer.ggml.bos_token_id names, "" for none.
func (g *ggufTokenizer) tokenOf(role string) (string, error) {
	key := "ggml." + role + "_token_id"
	id, ok := g.Uint("tokenizer." + key)
	if !ok {
		return "", nil
	}
	if id >= uint64(len(g.tokens)) {
		return "", g.errorf(key, "%d is outside the vocabulary of %d tokens", id, len(g.tokens))
	}
	return g.tokens[id], nil
}

// document writes the tokenizer.json, with the components of the layout that the model was published with.
func (g *ggufTokenizer) document() ([]byte, error) {
	layout, err := g.layout()
	if err != nil {
		return nil, err
	}
	post, err := g.postProcessor(layout.addBOS)
	if err != nil {
		return nil, err
	}
	merges, err := g.merges()
	if err != nil {
		return nil, err
	}
	var unk *string
	if g.kind == "llama" {
		for id, t := range g.types {
			if t == ggufUnknown {
				unk = &g.tokens[id]
				break
			}
		}
	}
	doc := jsonTokenizer{
		Version: "1.0", AddedTokens: g.addedTokens(),
		Normalizer: layout.normalizer, PreTokenizer: layout.preTokenizer, PostProcessor: post, Decoder: layout.decoder,
		Model: jsonBPE{
			Type: "BPE", UnkToken: unk, FuseUnk: g.kind == "llama", ByteFallback: g.kind == "llama", IgnoreMerges: layout.ignoreMerges,
			Vocab: jsonVocab(g.tokens[:g.size()]), Merges: merges,
		},
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %s: %w", g.path, err)
	}
	return data, nil
}

func (g *ggufTokenizer) addedTokens() []addedToken {
	out := []addedToken{}
	for id, s := range g.tokens[:g.size()] {
		switch g.types[id] {
		case ggufControl, ggufUserDefined:
		case ggufUnknown:
			if g.kind != "llama" { // a byte-level vocabulary has no unknown text; its converters do not write this type
				continue
			}
		default:
			continue
		}
		out = append(out, addedToken{ID: id, AddedToken: AddedToken{Content: s, Special: g.types[id] != ggufUserDefined}})
	}
	return out
}

// merges returns the rules in order of rank: as listed, or for SentencePiece derived from the scores: every token is made
// from each pair of tokens that spell it, the better score first.
func (g *ggufTokenizer) merges() ([][2]string, error) {
	if g.kind == "gpt2" {
		lines, ok := g.Strings("tokenizer.ggml.merges")
		if !ok {
			return nil, g.errorf("ggml.merges", "missing or not a list of texts")
		}
		out := make([][2]string, len(lines))
		for i, l := range lines {
			pair, err := splitMerge(l)
			if err != nil {
				return nil, g.errorf("ggml.merges", "[%d]: %w", i, err)
			}
			out[i] = pair
		}
		return out, nil
	}
	scores, ok := g.Floats("tokenizer.ggml.scores")
	if !ok || len(scores) != len(g.tokens) {
		return nil, g.errorf("ggml.scores", "want %d numbers, one for every token; got %d", len(g.tokens), len(scores))
	}
	return g.mergesFromScores(scores), nil
}

func (g *ggufTokenizer) mergesFromScores(scores []float64) [][2]string {
	id := make(map[string]int, len(g.tokens))
	for i, s := range g.tokens {
		if g.types[i] == ggufNormal || g.types[i] == ggufUserDefined {
			id[s] = i
		}
	}
	type rule struct {
		left, right string
		score       float64
	}
	var rules []rule
	for i, s := range g.tokens {
		if _, ok := id[s]; !ok {
			continue
		}
		first := len(rules)
		for k := range s {
			if k == 0 {
				continue
			}
			_, ok1 := id[s[:k]]
			_, ok2 := id[s[k:]]
			if ok1 && ok2 {
				rules = append(rules, rule{s[:k], s[k:], scores[i]})
			}
		}
		slices.SortStableFunc(rules[first:], func(a, b rule) int {
			return cmp.Or(id[a.left]-id[b.left], id[a.right]-id[b.right])
		})
	}
	slices.SortStableFunc(rules, func(a, b rule) int { return cmp.Compare(b.score, a.score) })
	out := make([][2]string, len(rules))
	for i, r := range rules {
		out[i] = [2]string{r.left, r.right}
	}
	return out
}
