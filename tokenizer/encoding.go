package tokenizer

import "slices"

// Encoding is a tokenized text or pair of texts. All fields but Overflowing have one entry for every token.
//
// Offsets count bytes of UTF-8, where Python's count characters. Those of a pair are inside the text that SequenceIDs
// names; those of words ([Words]) are inside the word that WordIDs names.
type Encoding struct {
	IDs               []int
	Offsets           [][2]int // the bytes of the text that the token stands for, [start, end); {0, 0} for added tokens
	TypeIDs           []int    // segment ids, as the post-processor gives them
	SpecialTokensMask []int    // 1 for tokens added by the post-processor and for padding
	AttentionMask     []int    // 0 for padding
	Tokens            []string // as spelled in the vocabulary; added tokens, and unknown text of a Unigram model, as found in the text
	WordIDs           []int    // the piece of the pre-tokenizer that the token is part of, or the word that was given; -1: none
	SequenceIDs       []int    // 0 for the text, 1 for its pair; -1: none

	// Overflowing holds what truncation cut off, in parts of the same maximal length, where EncodeOptions.Overflowing asks
	// for it. For a pair these are all combinations of the parts of both. Parts have nothing here themselves.
	Overflowing []*Encoding

	texts  []string // what was encoded: a text, or words
	ranges []sequenceRange
}

// sequenceRange says that tokens lo to hi are of a sequence.
type sequenceRange struct{ sequence, lo, hi int }

// newEncoding has room for n tokens; only the ids without full.
func newEncoding(n int, full bool) *Encoding {
	e := &Encoding{IDs: make([]int, 0, n)}
	if full {
		e.Offsets, e.Tokens = make([][2]int, 0, n), make([]string, 0, n)
		numbers := make([]int, 4*n)
		for k, field := range []*[]int{&e.TypeIDs, &e.SpecialTokensMask, &e.AttentionMask, &e.WordIDs} {
			*field = numbers[k*n : k*n : (k+1)*n]
		}
	}
	return e
}

// addedEncoding is a run of tokens that the post-processor adds.
func addedEncoding(ids []int, tokens []string, typeID int) *Encoding {
	n := len(ids)
	return &Encoding{IDs: ids, Tokens: tokens, Offsets: make([][2]int, n), TypeIDs: slices.Repeat([]int{typeID}, n),
		SpecialTokensMask: slices.Repeat([]int{1}, n), AttentionMask: slices.Repeat([]int{1}, n), WordIDs: slices.Repeat([]int{-1}, n)}
}

// full reports whether the encoding has more than ids.
func (e *Encoding) full() bool { return e.Offsets != nil }

func (e *Encoding) len() int { return len(e.IDs) }

func (e *Encoding) clone() *Encoding {
	c := newEncoding(e.len(), e.full())
	c.append(e)
	c.texts = e.texts
	for _, o := range e.Overflowing {
		c.Overflowing = append(c.Overflowing, o.clone())
	}
	return c
}

// slice returns tokens lo to hi as an encoding of its own, without the ranges of sequences.
func (e *Encoding) slice(lo, hi int) *Encoding {
	c := newEncoding(hi-lo, e.full())
	c.texts = e.texts
	c.IDs = append(c.IDs, e.IDs[lo:hi]...)
	if e.full() {
		c.Offsets = append(c.Offsets, e.Offsets[lo:hi]...)
		c.TypeIDs = append(c.TypeIDs, e.TypeIDs[lo:hi]...)
		c.SpecialTokensMask = append(c.SpecialTokensMask, e.SpecialTokensMask[lo:hi]...)
		c.AttentionMask = append(c.AttentionMask, e.AttentionMask[lo:hi]...)
		c.Tokens = append(c.Tokens, e.Tokens[lo:hi]...)
		c.WordIDs = append(c.WordIDs, e.WordIDs[lo:hi]...)
	}
	return c
}

// append adds the tokens of another encoding, not what overflows.
func (e *Encoding) append(o *Encoding) {
	n := e.len()
	for _, r := range o.ranges {
		e.setRange(r.sequence, n+r.lo, n+r.hi)
	}
	e.IDs = append(e.IDs, o.IDs...)
	if !e.full() {
		return
	}
	e.Offsets = append(e.Offsets, o.Offsets...)
	e.TypeIDs = append(e.TypeIDs, o.TypeIDs...)
	e.SpecialTokensMask = append(e.SpecialTokensMask, o.SpecialTokensMask...)
	e.AttentionMask = append(e.AttentionMask, o.AttentionMask...)
	e.Tokens = append(e.Tokens, o.Tokens...)
	e.WordIDs = append(e.WordIDs, o.WordIDs...)
}

// setRange replaces the range of a sequence.
func (e *Encoding) setRange(sequence, lo, hi int) {
	if !e.full() {
		return
	}
	for i := range e.ranges {
		if e.ranges[i].sequence == sequence {
			e.ranges[i] = sequenceRange{sequence, lo, hi}
			return
		}
	}
	e.ranges = append(e.ranges, sequenceRange{sequence, lo, hi})
}

func (e *Encoding) setTypeIDs(typeID int) {
	for i := range e.TypeIDs {
		e.TypeIDs[i] = typeID
	}
}

// merge joins encodings to one. Every combination of what overflows with the parts beside it overflows.
func merge(parts []*Encoding) *Encoding {
	if len(parts) == 1 {
		return parts[0]
	}
	n, overflows := 0, false
	for _, p := range parts {
		n += p.len()
		overflows = overflows || len(p.Overflowing) > 0
	}
	if overflows {
		out := parts[0]
		for _, p := range parts[1:] {
			out = mergeTwo(out, p)
		}
		return out
	}
	out := newEncoding(n, len(parts) == 0 || parts[0].full())
	for _, p := range parts {
		out.append(p)
	}
	return out
}

// mergeTwo lists the combinations in the order of the reference.
func mergeTwo(a, b *Encoding) *Encoding {
	out := concat(a, b)
	for _, o := range a.Overflowing {
		out.Overflowing = append(out.Overflowing, concat(o, b))
		for _, q := range b.Overflowing {
			out.Overflowing = append(out.Overflowing, concat(o, q))
		}
	}
	for _, q := range b.Overflowing {
		out.Overflowing = append(out.Overflowing, concat(a, q))
	}
	return out
}

func concat(a, b *Encoding) *Encoding {
	out := newEncoding(a.len()+b.len(), a.full())
	out.append(a)
	out.append(b)
	return out
}

// finish derives SequenceIDs from the ranges: those of sequences 0 to n-1 where there are n ranges, and a sequence without a
// range covers everything, as in the reference.
func (e *Encoding) finish() {
	e.texts = nil // only the post-processor needs them
	if e.full() {
		e.SequenceIDs = slices.Repeat([]int{-1}, e.len())
		for sequence := range max(len(e.ranges), 1) {
			lo, hi := 0, e.len()
			for _, r := range e.ranges {
				if r.sequence == sequence {
					lo, hi = r.lo, r.hi
				}
			}
			for i := lo; i < hi; i++ {
				e.SequenceIDs[i] = sequence
			}
		}
	}
	for _, o := range e.Overflowing {
		o.finish()
	}
}

// TokenAt returns the token that holds a byte of a sequence, 0 for the text and 1 for its pair: the first one whose offsets
// do. It is char_to_token of the Rust library, in bytes.
func (e *Encoding) TokenAt(at, sequence int) (token int, ok bool) {
	lo, hi := e.tokensOf(sequence)
	for i := lo; i < hi; i++ {
		if o := e.Offsets[i]; o[0] <= at && at < o[1] {
			return i, true
		}
	}
	return 0, false
}

// tokensOf returns the range of a sequence's tokens.
func (e *Encoding) tokensOf(sequence int) (lo, hi int) {
	for _, r := range e.ranges {
		if r.sequence == sequence {
			return r.lo, r.hi
		}
	}
	if len(e.ranges) == 0 && sequence == 0 {
		return 0, e.len()
	}
	return 0, 0
}

// WordTokens returns the tokens [start, end) of a word of a sequence, with WordIDs' numbers.
func (e *Encoding) WordTokens(word, sequence int) (start, end int, ok bool) {
	lo, hi := e.tokensOf(sequence)
	for i := lo; i < hi; i++ {
		if e.WordIDs[i] == word && word >= 0 {
			if !ok {
				start = i
			}
			end, ok = i+1, true
		}
	}
	return start, end, ok
}

// WordBytes returns the bytes [start, end) of a word of a sequence.
func (e *Encoding) WordBytes(word, sequence int) (start, end int, ok bool) {
	lo, hi, ok := e.WordTokens(word, sequence)
	if !ok {
		return 0, 0, false
	}
	return e.Offsets[lo][0], e.Offsets[hi-1][1], true
}
