package tokenizer

import "encoding/json"

// document is the JSON object of a tokenizer.json.
type document struct {
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
	needsOrigin   bool  // the pre-tokenizer asks where pieces begin, so that normalizers must keep the alignment

	added      []addedToken // with the ids they have
	byContent  map[string]int
	byID       map[int]int // index in added
	verbatim   matcher     // added tokens found in the text as it is
	normalized matcher     // added tokens found after normalization
}

// newPipeline builds the steps from the bytes of a tokenizer.json; file is for error texts.
func newPipeline(file string, data []byte) (*pipeline, error) {
	root := node{file: file, raw: data}
	d, err := readDocument(root)
	if err != nil {
		return nil, err
	}
	p := &pipeline{}
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
		p.needsOrigin = l.needsOrigin
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
	return p, p.addTokens(d.AddedTokens)
}

// addTokens registers the added tokens. As in the reference, a token that the model has takes the model's id, and the
// others are numbered from the end of the vocabulary: the ids in the file only record that.
func (p *pipeline) addTokens(tokens []addedToken) error {
	p.byContent, p.byID = map[string]int{}, map[int]int{}
	next := len(p.vocab.ids)
	for _, t := range tokens {
		if _, seen := p.byContent[t.Content]; seen || t.Content == "" {
			continue
		}
		if id, ok := p.vocab.lookup(t.Content); ok {
			t.ID = int(id)
		} else {
			t.ID = next
		}
		next = max(next, t.ID+1)
		p.byContent[t.Content] = len(p.added)
		p.byID[t.ID] = len(p.added)
		p.added = append(p.added, t)
	}
	for i := range p.added {
		t := &p.added[i]
		if !t.Normalized {
			p.verbatim.add(t.Content, t)
			continue
		}
		n, err := p.normalize(piece{text: t.Content}, false)
		if err != nil {
			return err
		}
		p.normalized.add(n.text, t)
	}
	return nil
}

func (p *pipeline) normalize(q piece, track bool) (piece, error) {
	if p.normalizer == nil {
		return q, nil
	}
	return p.normalizer(q, track)
}

func (p *pipeline) tokenToID(s string) (int, bool) {
	if i, ok := p.byContent[s]; ok {
		return p.added[i].ID, true
	}
	id, ok := p.vocab.lookup(s)
	return int(id), ok
}

func (p *pipeline) idToToken(id int) (string, bool) {
	if i, ok := p.byID[id]; ok {
		return p.added[i].Content, true
	}
	if id < 0 || id >= len(p.vocab.tokens) {
		return "", false
	}
	s := p.vocab.tokens[id]
	return s, s != ""
}

func (p *pipeline) isSpecial(id int) bool {
	i, ok := p.byID[id]
	return ok && p.added[i].Special
}

// size is the number of tokens with the added ones.
func (p *pipeline) size() int {
	n := len(p.vocab.ids)
	for _, t := range p.added {
		if _, ok := p.vocab.lookup(t.Content); !ok {
			n++
		}
	}
	return n
}
