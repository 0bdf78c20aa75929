package tokenizer

import "encoding/json"

// document is the JSON object of a tokenizer.json.
type document struct {
	Truncation    json.RawMessage `json:"truncation"`
	Padding       json.RawMessage `json:"padding"`
	AddedTokens   []addedToken    `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         json.RawMessage `json:"model"`
}

// pipeline is what a tokenizer.json says: the steps from a text to its ids and back.
type pipeline struct {
	normalizer    normalizer    // nil: none
	preTokenizer  preTokenizer  // nil: none
	postProcessor postProcessor // nil: none
	decoder       decoder       // nil: tokens joined by spaces
	model         model
	vocab         *vocabulary
	unspelled     int32 // the unknown token, where Encoding.Tokens shows the text instead; -1: no such token
	needsOrigin   bool  // the pre-tokenizer asks where pieces begin after their text was changed, so that all must keep the alignment

	addedVocabulary
	plainSpecial bool // text that spells a special token is plain text in every call

	truncation *Truncation // of the file; nil: none
	padding    *Padding
}

// newPipeline builds the steps from the bytes of a tokenizer.json; file is for error texts.
func newPipeline(file string, data []byte) (*pipeline, error) {
	root := node{file: file, raw: data}
	d, err := readDocument(root)
	if err != nil {
		return nil, err
	}
	p := &pipeline{}
	if p.truncation, err = loadTruncation(root.child("truncation", d.Truncation)); err != nil {
		return nil, err
	}
	if p.padding, err = loadPadding(root.child("padding", d.Padding)); err != nil {
		return nil, err
	}
	if n := root.child("normalizer", d.Normalizer); !n.absent() {
		if p.normalizer, err = loadNormalizer(n); err != nil {
			return nil, err
		}
	}
	pre := root.child("pre_tokenizer", d.PreTokenizer)
	var raw bool
	p.model, p.vocab, raw, err = loadModel(root.child("model", d.Model), !pre.absent() && endsInByteLevel(pre))
	if err != nil {
		return nil, err
	}
	p.unspelled = -1
	if u, ok := p.model.(*unigram); ok {
		p.unspelled = u.unk
	}
	if !pre.absent() {
		l := preLoader{rawBytes: raw}
		if p.preTokenizer, err = l.load(pre, true); err != nil {
			return nil, err
		}
		p.needsOrigin = l.rewritten || l.needsOrigin && p.normalizer != nil
	}
	if n := root.child("post_processor", d.PostProcessor); !n.absent() {
		if p.postProcessor, err = loadPostProcessor(n); err != nil {
			return nil, err
		}
	}
	if n := root.child("decoder", d.Decoder); !n.absent() {
		if p.decoder, err = loadDecoder(n); err != nil {
			return nil, err
		}
	}
	_, err = p.addTokens(d.AddedTokens)
	return p, err
}

func (p *pipeline) normalize(q piece, track bool) (piece, error) {
	if p.normalizer == nil {
		return q, nil
	}
	return p.normalizer(q, track)
}
