package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"unicode/utf8"
)

// BPEConfig says what [TrainBPE] makes. Start from [ByteLevelBPE] or [SentencePieceBPE]. The fields of the training are those of
// the BpeTrainer of Hugging Face's tokenizers, with its defaults.
type BPEConfig struct {
	// The components around the model, as JSON objects of a tokenizer.json; "" for none.
	Normalizer, PreTokenizer, PostProcessor, Decoder string

	UnkToken     string // for text that the vocabulary cannot spell; "": such text is dropped
	FuseUnk      bool   // neighbouring unknown characters become one token
	ByteFallback bool   // the vocabulary has <0x00> to <0xFF>, after the special tokens, for characters that it lacks
	IgnoreMerges bool   // a word that is a token is taken whole

	VocabSize               int      // tokens wanted, all included; 0 is 30000. Special tokens and alphabet are kept even if they are more
	MinFrequency            int      // how often a pair must occur to be merged
	SpecialTokens           []string // the first ids, in this order
	InitialAlphabet         []rune   // characters to have whether or not they occur
	LimitAlphabet           int      // the most characters; the rarest are left out, of equally rare ones the last. 0: no limit
	ContinuingSubwordPrefix string   // such as ##, put before what does not begin a word
	EndOfWordSuffix         string   // such as </w>, put after what ends a word
	MaxTokenLength          int      // a token must have fewer characters, unless it has only two. 0: no limit

	BOSToken, EOSToken, PadToken string // special tokens with a role; "" for none

	// Progress, if set, is told how far each stage is: "count words" (total 0: not known), "count pairs", "merge".
	Progress func(stage string, done, total int)
}

// ByteLevelBPE is the layout of GPT-2: words with the space before them, spelled in an alphabet of 256 bytes.
func ByteLevelBPE() BPEConfig {
	const byteLevel = `{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}`
	return BPEConfig{PreTokenizer: byteLevel, Decoder: strings.Replace(byteLevel, "false", "true", 1), InitialAlphabet: ByteLevelAlphabet()}
}

// SentencePieceBPE is the layout of Llama 2 and Mistral: ▁ for spaces, one before the text, and bytes for characters that the
// vocabulary lacks. Its special tokens are <unk>, <s> and </s>; <s> begins every text.
func SentencePieceBPE() BPEConfig {
	return BPEConfig{
		PreTokenizer: `{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}`,
		PostProcessor: `{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],` +
			`"pair":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"<s>","type_id":1}},{"Sequence":{"id":"B","type_id":1}}],` +
			`"special_tokens":{"<s>":{"id":"<s>","ids":[1],"tokens":["<s>"]}}}`,
		Decoder: `{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},` +
			`{"type":"Strip","content":" ","start":1,"stop":0}]}`,
		UnkToken: "<unk>", FuseUnk: true, ByteFallback: true, SpecialTokens: []string{"<unk>", "<s>", "</s>"}, BOSToken: "<s>", EOSToken: "</s>",
	}
}

// ByteLevelAlphabet returns the 256 characters that byte-level BPE spells bytes with, in order of code points.
func ByteLevelAlphabet() []rune {
	out := make([]rune, len(byteChar))
	for b, s := range byteChar {
		out[b], _ = utf8.DecodeRuneInString(s)
	}
	slices.Sort(out)
	return out
}

// TrainBPE learns a vocabulary from texts by byte-pair encoding (Sennrich et al., arXiv:1508.07909): the two neighbours that
// occur together most often become one token, until there are VocabSize. The texts pass the normalizer and the pre-tokenizer;
// no pair crosses the words that these make. Ids and merges are those of Hugging Face's BpeTrainer, of equally frequent pairs
// the one with the lower ids first. Where that leaves the order to chance (the marked characters of ContinuingSubwordPrefix and
// EndOfWordSuffix, the characters that LimitAlphabet drops) words and characters go by code points.
//
// The texts are read once; what is kept is one entry for every different word. The errors name a field of c, or the text that
// is not UTF-8.
func TrainBPE(texts iter.Seq[string], c BPEConfig) (*Tokenizer, error) {
	if c.VocabSize == 0 {
		c.VocabSize = 30000
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	words, err := c.countWords(texts)
	if err != nil {
		return nil, err
	}
	if len(words) == 0 && len(c.InitialAlphabet) == 0 {
		return nil, errors.New("tokenizer: TrainBPE: the texts hold no words to learn from, and InitialAlphabet is empty")
	}
	t := newBPETrainer(&c)
	t.train(words)
	return c.tokenizer(t)
}

func (c *BPEConfig) errorf(field, format string, args ...any) error {
	return fmt.Errorf("tokenizer: TrainBPE: BPEConfig."+field+": "+format, args...)
}

func (c *BPEConfig) check() error {
	for field, n := range map[string]int{"VocabSize": c.VocabSize, "MinFrequency": c.MinFrequency, "LimitAlphabet": c.LimitAlphabet, "MaxTokenLength": c.MaxTokenLength} {
		if n < 0 {
			return c.errorf(field, "%d; want 0 or more", n)
		}
	}
	for i, s := range c.SpecialTokens {
		if s == "" || !utf8.ValidString(s) {
			return c.errorf("SpecialTokens", "[%d] is %q; want text in UTF-8", i, s)
		}
	}
	for field, s := range map[string]string{"UnkToken": c.UnkToken, "BOSToken": c.BOSToken, "EOSToken": c.EOSToken, "PadToken": c.PadToken} {
		if s != "" && !slices.Contains(c.SpecialTokens, s) {
			return c.errorf(field, "%q is not one of SpecialTokens %q; add it there", s, c.SpecialTokens)
		}
	}
	if c.ByteFallback && c.ContinuingSubwordPrefix+c.EndOfWordSuffix != "" {
		return c.errorf("ByteFallback", "does not go with ContinuingSubwordPrefix or EndOfWordSuffix")
	}
	return nil
}

func (c *BPEConfig) progress(stage string, done, total int) {
	if c.Progress != nil {
		c.Progress(stage, done, total)
	}
}

// countWords returns how often each word of the texts occurs.
func (c *BPEConfig) countWords(texts iter.Seq[string]) (map[string]int64, error) {
	p := &pipeline{}
	var err error
	root := node{file: "TrainBPE: BPEConfig"}
	if c.Normalizer != "" {
		if p.normalizer, err = loadNormalizer(root.child("Normalizer", json.RawMessage(c.Normalizer))); err != nil {
			return nil, err
		}
	}
	if c.PreTokenizer != "" {
		l := preLoader{}
		if p.preTokenizer, err = l.load(root.child("PreTokenizer", json.RawMessage(c.PreTokenizer)), true); err != nil {
			return nil, err
		}
		p.needsOrigin = l.needsOrigin
	}
	n, counts := 0, wordCounts{}
	for text := range texts {
		if !utf8.ValidString(text) {
			return nil, fmt.Errorf("tokenizer: TrainBPE: text %d is not valid UTF-8: byte %#x at offset %d; convert it first", n, text[invalidAt(text)], invalidAt(text))
		}
		e := encoder{pipeline: p, track: p.normalizer != nil && p.needsOrigin}
		if e.trainingWords(text, counts.add); e.err != nil {
			return nil, e.err
		}
		n++
		if n%1024 == 0 {
			c.progress("count words", n, 0)
		}
	}
	c.progress("count words", n, n)
	out := make(map[string]int64, len(counts))
	for w, count := range counts {
		out[w] = *count
	}
	return out, nil
}

// trainingWords hands out what the normalizer and the pre-tokenizer make of a text.
func (e *encoder) trainingWords(text string, emit func(piece)) {
	p, err := e.normalize(piece{text: text}, e.track)
	if err != nil {
		e.fail(err)
		return
	}
	if len(p.align) > 0 {
		p.start = p.align[0].lo
	}
	if e.preTokenizer == nil {
		emit(p)
		return
	}
	e.preTokenizer(e, p, emit)
}

// wordCounts has pointers so that a word that is there already is not stored again: the key would keep its whole text alive.
type wordCounts map[string]*int64

func (w wordCounts) add(p piece) {
	if p.text == "" {
		return
	}
	if n := w[p.text]; n != nil {
		*n++
		return
	}
	one := int64(1)
	w[strings.Clone(p.text)] = &one
}

// tokenizer builds the tokenizer.json and loads it.
func (c *BPEConfig) tokenizer(t *bpeTrainer) (*Tokenizer, error) {
	component := func(s string) json.RawMessage {
		if s == "" {
			return json.RawMessage("null")
		}
		return json.RawMessage(s)
	}
	text := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	doc := jsonTokenizer{
		Version: "1.0", AddedTokens: []addedToken{},
		Normalizer: component(c.Normalizer), PreTokenizer: component(c.PreTokenizer), PostProcessor: component(c.PostProcessor), Decoder: component(c.Decoder),
		Model: jsonBPE{
			Type: "BPE", UnkToken: text(c.UnkToken), Prefix: text(c.ContinuingSubwordPrefix), Suffix: text(c.EndOfWordSuffix),
			FuseUnk: c.FuseUnk, ByteFallback: c.ByteFallback, IgnoreMerges: c.IgnoreMerges,
			Vocab: jsonVocab(t.tokens), Merges: t.mergedPairs(),
		},
	}
	for _, s := range c.SpecialTokens {
		id := int(t.ids[s])
		if !slices.ContainsFunc(doc.AddedTokens, func(a addedToken) bool { return a.ID == id }) {
			doc.AddedTokens = append(doc.AddedTokens, addedToken{ID: id, Content: s, Special: true})
		}
	}
	data, err := indented(doc)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: TrainBPE: %w", err)
	}
	p, err := newPipeline("TrainBPE", data)
	if err != nil {
		return nil, err
	}
	tok := &Tokenizer{pipeline: p, files: files{tokenizerJSON: data, config: map[string]json.RawMessage{}}}
	tok.files.config["tokenizer_class"] = json.RawMessage(`"PreTrainedTokenizerFast"`)
	tok.files.config["clean_up_tokenization_spaces"] = json.RawMessage(`false`)
	tok.special = specialTokens{bos: c.BOSToken, eos: c.EOSToken, pad: c.PadToken, unk: c.UnkToken}
	for key, token := range tok.special.named() {
		if *token != "" {
			if tok.files.config[key], err = indented(*token); err != nil {
				return nil, fmt.Errorf("tokenizer: TrainBPE: %s: %w", key, err)
			}
		}
	}
	return tok, nil
}
