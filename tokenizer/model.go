package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// token is what a model makes of text[lo:hi] of a piece.
type token struct{ id, lo, hi int32 }

// model turns a piece that is not empty into tokens. Implementations may be used by several goroutines at once.
type model interface {
	appendTokens(dst []token, text string) ([]token, error)
}

// maxTokenID bounds the ids of a file; the largest published vocabularies have 2^18 entries.
const maxTokenID = 1<<24 - 1

// maxVocabularyID bounds the ids of a vocabulary of so many tokens. A table has an entry for every id, so that a small file
// with a large id would take much memory.
func maxVocabularyID(tokens int) int { return min(maxTokenID, 1<<20+4*tokens) }

// vocabulary maps the texts of a model's tokens to ids and back.
type vocabulary struct {
	ids    map[string]int32
	tokens []string // by id; "" where the model has no such id
}

func (v *vocabulary) lookup(s string) (int32, bool) {
	id, ok := v.ids[s]
	return id, ok
}

// lookupJoined looks a+b up. Merges mostly make one token after the other, so that last, what the merge before made, and the id
// after it are tried first: a comparison is cheaper than a hash and its cache misses.
func (v *vocabulary) lookupJoined(a, b string, last int32) (int32, bool) {
	for id := max(last, 0); id <= last+1 && int(id) < len(v.tokens); id++ {
		if s := v.tokens[id]; s != "" && len(s) == len(a)+len(b) && s[:len(a)] == a && s[len(a):] == b {
			return id, true
		}
	}
	return v.lookup(a + b)
}

// readVocabulary reads an object of tokens and their ids.
func readVocabulary(n node) (*vocabulary, error) {
	if v, ok := fastVocabulary(n.raw); ok {
		return v, nil
	}
	return decodeVocabulary(n)
}

func decodeVocabulary(n node) (*vocabulary, error) {
	var ids map[string]int
	if err := n.decode(&ids); err != nil {
		return nil, err
	}
	top, most := -1, maxVocabularyID(len(ids))
	for s, id := range ids {
		if id < 0 || id > most {
			return nil, n.errorf("token %q has id %d; want 0 to %d in a vocabulary of %d tokens", s, id, most, len(ids))
		}
		top = max(top, id)
	}
	v := &vocabulary{make(map[string]int32, len(ids)), make([]string, top+1)}
	taken := make([]bool, top+1)
	for s, id := range ids {
		if old := v.tokens[id]; taken[id] {
			return nil, n.errorf("tokens %q and %q share id %d", min(old, s), max(old, s), id)
		}
		taken[id] = true
		v.tokens[id] = s
		v.ids[s] = int32(id)
	}
	return v, nil
}

// modelFields are the fields of the "model" object of any kind.
type modelFields struct {
	Type         string          `json:"type"`
	Vocab        json.RawMessage `json:"vocab"`
	Merges       json.RawMessage `json:"merges"`
	UnkToken     *string         `json:"unk_token"`
	UnkID        *int            `json:"unk_id"`
	FuseUnk      bool            `json:"fuse_unk"`
	ByteFallback bool            `json:"byte_fallback"`
	IgnoreMerges bool            `json:"ignore_merges"`
	Dropout      *float64        `json:"dropout"`
	Prefix       *string         `json:"continuing_subword_prefix"`
	Suffix       *string         `json:"end_of_word_suffix"`
	MaxChars     *int            `json:"max_input_chars_per_word"`
}

func (f *modelFields) kind() string {
	switch {
	case f.Type != "":
		return f.Type
	case len(f.Merges) > 0: // files older than the "type" field
		return "BPE"
	case f.UnkID != nil:
		return "Unigram"
	}
	return "WordPiece"
}

// loadModel builds the model. byteLevel says that pieces reach it before the byte-level mapping, if it can take them so;
// the second result tells whether it does.
func loadModel(n node, byteLevel bool) (model, *vocabulary, bool, error) {
	if n.absent() {
		return nil, nil, false, n.errorf("missing; is this a tokenizer.json?")
	}
	f, err := readModelFields(n)
	if err != nil {
		return nil, nil, false, err
	}
	vn := n.child("vocab", f.Vocab)
	kind := f.kind()
	switch kind {
	case "Unigram":
		m, v, err := loadUnigram(n, vn, &f)
		return m, v, false, err
	case "BPE", "WordPiece", "WordLevel":
	default:
		return nil, nil, false, n.unsupported(kind)
	}
	if vn.absent() {
		return nil, nil, false, vn.errorf("missing")
	}
	v, err := readVocabulary(vn)
	if err != nil {
		return nil, nil, false, err
	}
	switch kind {
	case "BPE":
		merges, err := readMerges(n.child("merges", f.Merges))
		if err != nil {
			return nil, nil, false, err
		}
		m, err := newBPE(n, v, merges, &f, byteLevel)
		if err != nil {
			return nil, nil, false, err
		}
		return m, v, m.byteLevel, nil
	case "WordPiece":
		return newWordPiece(n, v, &f), v, false, nil
	}
	return newWordLevel(n, v, &f), v, false, nil
}

// readMerges reads both spellings: "a b" and ["a", "b"].
func readMerges(n node) ([][2]string, error) {
	if n.absent() {
		return nil, n.errorf("missing")
	}
	if pairs, ok := fastMerges(n.raw); ok {
		return pairs, nil
	}
	return decodeMerges(n)
}

func decodeMerges(n node) ([][2]string, error) {
	raw := bytes.TrimLeft(n.raw, " \t\r\n")
	raw = bytes.TrimLeft(raw[1:], " \t\r\n")
	if len(raw) == 0 || raw[0] != '"' {
		var lists [][]string
		if err := n.decode(&lists); err != nil {
			return nil, err
		}
		pairs := make([][2]string, len(lists))
		for i, l := range lists {
			if len(l) != 2 {
				return nil, n.errorf("[%d]: want two tokens, got %q", i, l)
			}
			pairs[i] = [2]string{l[0], l[1]}
		}
		return pairs, nil
	}
	var lines []string
	if err := n.decode(&lines); err != nil {
		return nil, err
	}
	pairs := make([][2]string, len(lines))
	for i, l := range lines {
		pair, err := splitMerge(l)
		if err != nil {
			return nil, n.errorf("[%d]: %w", i, err)
		}
		pairs[i] = pair
	}
	return pairs, nil
}

// splitMerge reads the "a b" spelling: exactly one space, which the byte-level alphabet and ▁ leave free.
func splitMerge(line string) (pair [2]string, err error) {
	k := strings.IndexByte(line, ' ')
	if k < 0 || strings.IndexByte(line[k+1:], ' ') >= 0 {
		return pair, fmt.Errorf("want two tokens with one space between them, got %q", line)
	}
	return [2]string{line[:k], line[k+1:]}, nil
}
