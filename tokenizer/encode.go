package tokenizer

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
)

// Input is what one encoding is made of: see [Text], [Pair], [Words] and [WordsPair].
type Input struct {
	sequences [2]sequence
	pair      bool
}

// sequence is a text, whole or cut into words.
type sequence struct {
	text  string
	words []string
	cut   bool
}

// Text is a single text.
func Text(text string) Input { return Input{sequences: [2]sequence{{text: text}}} }

// Pair is two texts in one encoding, such as a question and the passage that answers it.
func Pair(text, pair string) Input {
	return Input{sequences: [2]sequence{{text: text}, {text: pair}}, pair: true}
}

// Words is a text that was cut into words before (is_split_into_words): each goes through the pipeline alone, so that
// Encoding.WordIDs are positions in words.
func Words(words []string) Input {
	return Input{sequences: [2]sequence{{words: words, cut: true}}}
}

// WordsPair is a pair of texts that were cut into words before.
func WordsPair(words, pair []string) Input {
	return Input{sequences: [2]sequence{{words: words, cut: true}, {words: pair, cut: true}}, pair: true}
}

// EncodeOptions are the options of transformers' __call__. The zero value adds special tokens and neither cuts nor fills.
type EncodeOptions struct {
	NoSpecialTokens bool        // leave out the special tokens of the post-processor
	PlainSpecial    bool        // text that spells a special token is plain text (split_special_tokens), as text of strangers should be
	Truncation      *Truncation // nil: none
	Padding         *Padding    // nil: none
	Overflowing     bool        // keep what truncation cuts off (return_overflowing_tokens)
}

// FileOptions are the options that the Rust library's encode takes from tokenizer.json: its truncation and padding.
// Transformers applies these only where a call asks for them.
func (t *Tokenizer) FileOptions() EncodeOptions {
	o := EncodeOptions{Truncation: t.Truncation(), Padding: t.Padding()}
	o.Overflowing = o.Truncation != nil
	return o
}

// EncodePair returns the encoding of a pair of texts, without truncation and padding.
func (t *Tokenizer) EncodePair(text, pair string, addSpecialTokens bool) (*Encoding, error) {
	return t.EncodeInput(Pair(text, pair), EncodeOptions{NoSpecialTokens: !addSpecialTokens})
}

// EncodeInput encodes a text or a pair. The error reports text that is not UTF-8, options out of range, and a text that the
// truncation strategy cannot make short enough.
func (t *Tokenizer) EncodeInput(in Input, o EncodeOptions) (*Encoding, error) {
	if err := t.checkOptions(&o); err != nil {
		return nil, err
	}
	e, err := t.encodeInput(&in, &o)
	if err == nil && o.Padding != nil {
		o.Padding.apply([]*Encoding{e})
		e.finish()
	}
	return e, err
}

// checkOptions fills in what the options leave to the tokenizer.
func (t *Tokenizer) checkOptions(o *EncodeOptions) error {
	if o.Padding != nil {
		if err := o.Padding.Validate(); err != nil {
			return err
		}
	}
	if o.Truncation == nil {
		return nil
	}
	if err := o.Truncation.Validate(); err != nil {
		return err
	}
	if o.Truncation.MaxLength > 0 {
		return nil
	}
	c := *o.Truncation
	if c.MaxLength = t.ModelMaxLength(); c.MaxLength == 0 {
		return errors.New("tokenizer: Truncation.MaxLength is 0, and tokenizer_config.json has no model_max_length to use instead; set it")
	}
	o.Truncation = &c
	return nil
}

// encodeInput does all but padding.
func (t *Tokenizer) encodeInput(in *Input, o *EncodeOptions) (*Encoding, error) {
	parts := make([]*Encoding, 1, 2)
	if in.pair {
		parts = parts[:2]
	}
	for i := range parts {
		e := t.newEncoder(true, i)
		e.plainSpecial = e.plainSpecial || o.PlainSpecial
		s := &in.sequences[i]
		var err error
		if s.cut {
			err = e.encodeWords(s.words)
		} else {
			err = e.encode(s.text)
		}
		if err != nil {
			return nil, err
		}
		parts[i] = e.out
	}
	if o.Truncation != nil {
		room := o.Truncation.MaxLength
		if t.postProcessor != nil && !o.NoSpecialTokens {
			n := t.postProcessor.addedTokens(in.pair)
			if room -= n; room < 0 {
				return nil, fmt.Errorf("tokenizer: Truncation.MaxLength is %d, but the post-processor alone adds %d tokens; raise it, or set NoSpecialTokens", o.Truncation.MaxLength, n)
			}
		}
		if err := o.Truncation.apply(parts, room, o.Overflowing); err != nil {
			return nil, err
		}
	}
	return t.process(parts, !o.NoSpecialTokens)
}

// EncodeBatch encodes many texts on all cores, in order; padding makes all of them, and what overflows, equally long. The
// error is that of the first input that has one. Cancelling ctx stops the work.
func (t *Tokenizer) EncodeBatch(ctx context.Context, inputs []Input, o EncodeOptions) ([]*Encoding, error) {
	if err := t.checkOptions(&o); err != nil {
		return nil, err
	}
	out := make([]*Encoding, len(inputs))
	err := forEach(ctx, len(inputs), func(i int) (err error) {
		if out[i], err = t.encodeInput(&inputs[i], &o); err != nil {
			return fmt.Errorf("inputs[%d]: %w", i, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if o.Padding != nil {
		o.Padding.apply(out)
		for _, e := range out {
			e.finish()
		}
	}
	return out, nil
}

// DecodeBatch decodes many sequences of ids on all cores, in order.
func (t *Tokenizer) DecodeBatch(ctx context.Context, ids [][]int, skipSpecialTokens bool) ([]string, error) {
	out := make([]string, len(ids))
	err := forEach(ctx, len(ids), func(i int) (err error) {
		if out[i], err = t.Decode(ids[i], skipSpecialTokens); err != nil {
			return fmt.Errorf("sequence %d: %w", i, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// forEach runs do for 0 to n-1 with one goroutine for each core, and returns the error of the lowest index. Indices are
// handed out in order, so none below a failed one is skipped.
func forEach(ctx context.Context, n int, do func(i int) error) error {
	const run = 8 // indices taken at once
	var next atomic.Int64
	var mu sync.Mutex
	var first error
	failed := n // index of first
	var stop atomic.Bool
	work := func() {
		for !stop.Load() && ctx.Err() == nil {
			lo := int(next.Add(run)) - run
			if lo >= n {
				return
			}
			for i := lo; i < min(lo+run, n) && ctx.Err() == nil; i++ {
				if err := do(i); err != nil {
					stop.Store(true)
					mu.Lock()
					if i < failed {
						failed, first = i, err
					}
					mu.Unlock()
					return
				}
			}
		}
	}
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), (n+run-1)/run) - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
	if first != nil {
		return first
	}
	return ctx.Err()
}
