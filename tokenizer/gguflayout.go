package tokenizer

import "encoding/json"

// layout is the components around a BPE vocabulary.
type layout struct {
	normalizer, preTokenizer, decoder json.RawMessage
	ignoreMerges, addBOS              bool
}

const byteLevelRegex = `{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}`

// layout returns the components for the file's kind of vocabulary and, for byte-level BPE, its pre-tokenizer name.
func (g *ggufTokenizer) layout() (*layout, error) {
	var l *layout
	if g.kind == "llama" {
		l = g.sentencePieceLayout()
	} else {
		var err error
		if l, err = g.byteLevelLayout(); err != nil {
			return nil, err
		}
	}
	if add, ok := g.Bool("tokenizer.ggml.add_bos_token"); ok {
		l.addBOS = add
	}
	return l, nil
}

// sentencePieceLayout is Llama 2's: ▁ for spaces, one before the text unless add_space_prefix says otherwise.
func (g *ggufTokenizer) sentencePieceLayout() *layout {
	l := &layout{
		normalizer: json.RawMessage(`{"type":"Replace","pattern":{"String":" "},"content":"▁"}`),
		decoder:    json.RawMessage(`{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"}]}`),
		addBOS:     true,
	}
	if prefix, ok := g.Bool("tokenizer.ggml.add_space_prefix"); !ok || prefix {
		l.normalizer = json.RawMessage(`{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},` + string(l.normalizer) + `]}`)
		l.decoder = json.RawMessage(`{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}`)
	}
	return l
}

func (g *ggufTokenizer) byteLevelLayout() (*layout, error) {
	l := &layout{decoder: json.RawMessage(`{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}`)}
	pre, ok := g.String("tokenizer.ggml.pre")
	if !ok {
		pre = "default"
	}
	var err error
	switch pre {
	case "gpt-2", "default":
		l.preTokenizer = json.RawMessage(byteLevelRegex)
	case "smollm":
		l.preTokenizer = json.RawMessage(`{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},` + byteLevelRegex + `]}`)
	case "llama-bpe", "llama3", "llama-v3":
		l.ignoreMerges, l.addBOS = true, true
		l.preTokenizer, err = splitThenByteLevel(llama3Regex)
	case "qwen2":
		l.normalizer = json.RawMessage(`{"type":"NFC"}`)
		l.preTokenizer, err = splitThenByteLevel(qwen2Regex)
	case "gpt-4o":
		l.preTokenizer, err = splitThenByteLevel(o200kRegex)
	case "deepseek-v3":
		l.preTokenizer, err = splitThenByteLevel(threeDigitsRegex, ideographsRegex, deepSeekWordsRegex)
	default:
		return nil, &UnsupportedError{File: g.path, Field: "tokenizer.ggml.pre", Component: pre}
	}
	return l, err
}

// splitThenByteLevel splits by one expression after the other.
func splitThenByteLevel(patterns ...string) (json.RawMessage, error) {
	type component map[string]any
	var steps []component
	for _, p := range patterns {
		steps = append(steps, component{"type": "Split", "pattern": map[string]string{"Regex": p}, "behavior": "Isolated", "invert": false})
	}
	steps = append(steps, component{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})
	return json.Marshal(component{"type": "Sequence", "pretokenizers": steps})
}

// postProcessor puts BOS before and EOS after a text where the file asks for them.
func (g *ggufTokenizer) postProcessor(addBOS bool) (json.RawMessage, error) {
	addEOS, _ := g.Bool("tokenizer.ggml.add_eos_token")
	type ref struct {
		ID     string `json:"id"`
		TypeID int    `json:"type_id"`
	}
	type special struct {
		ID     string   `json:"id"`
		IDs    []uint64 `json:"ids"`
		Tokens []string `json:"tokens"`
	}
	sides := map[string]bool{"bos": addBOS, "eos": addEOS}
	specials := map[string]special{}
	single := func(typeID int, seq string) (parts []map[string]ref, err error) {
		for _, role := range []string{"bos", "", "eos"} {
			if role == "" {
				parts = append(parts, map[string]ref{"Sequence": {seq, typeID}})
				continue
			}
			token, err := g.tokenOf(role)
			if err != nil {
				return nil, err
			}
			if !sides[role] || token == "" {
				continue
			}
			id, _ := g.Uint("tokenizer.ggml." + role + "_token_id")
			specials[token] = special{token, []uint64{id}, []string{token}}
			parts = append(parts, map[string]ref{"SpecialToken": {token, typeID}})
		}
		return parts, nil
	}
	a, err := single(0, "A")
	if err != nil || len(a) == 1 {
		return nil, err
	}
	b, err := single(1, "B")
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"type": "TemplateProcessing", "single": a, "pair": append(a[:len(a):len(a)], b...), "special_tokens": specials})
}
