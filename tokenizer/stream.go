package tokenizer

import (
	"fmt"
	"strings"
)

// DecodeStream decodes ids as they come, as from a model that generates. The texts that it returns, one after the other, are
// Decode of all ids; each ends between characters, and none is taken back. One exception: where bytes of byte fallback make
// a character and later ones of the same run are not UTF-8, Decode replaces all of the run, the stream only the later ones.
//
// A stream is for one sequence and one goroutine.
type DecodeStream struct {
	t           *Tokenizer
	skipSpecial bool

	// Decoders look at the token before and at the beginning of a text, so a window of the last ids is decoded.
	window []int
	shown  string // what is returned of the window's text
	seen   int    // ids of the window that are shown whole
	mark   int    // where the window begins once the next text is returned

	all  []int
	text strings.Builder // all that was returned
}

// NewDecodeStream returns a stream for one sequence of ids.
func (t *Tokenizer) NewDecodeStream(skipSpecialTokens bool) *DecodeStream {
	return &DecodeStream{t: t, skipSpecial: skipSpecialTokens}
}

// Step takes the next ids and returns the text that is certain now: "" while a character is not complete.
func (s *DecodeStream) Step(ids ...int) (string, error) {
	for i, id := range ids {
		if id < 0 {
			return "", fmt.Errorf("tokenizer: DecodeStream: ids[%d] is %d; want an id of 0 or more", i, id)
		}
	}
	s.all = append(s.all, ids...)
	s.window = append(s.window, ids...)
	text, err := s.t.Decode(s.window, s.skipSpecial)
	if err != nil || strings.HasSuffix(text, "\ufffd") {
		return "", err // perhaps the beginning of a character
	}
	if !strings.HasPrefix(text, s.shown) {
		s.window = s.window[s.seen:]
		s.shown, s.seen, s.mark = "", 0, 0
		if text, err = s.t.Decode(s.window, s.skipSpecial); err != nil {
			return "", err
		}
	}
	certain := text[:len(text)-s.uncertain(text)]
	if len(certain) <= len(s.shown) {
		return "", nil
	}
	out := certain[len(s.shown):]
	s.text.WriteString(out)
	s.shown = certain
	if certain == text {
		err = s.advance()
	}
	return out, err
}

// uncertain returns how many bytes at the end of a text can still change: clean-up takes out blanks by what follows them.
func (s *DecodeStream) uncertain(text string) int {
	const longest = len(" n't") // of what clean-up looks for
	if i := strings.LastIndexByte(text, ' '); s.t.settings.cleanUp && i >= 0 && len(text)-i < longest {
		return len(text) - i
	}
	return 0
}

// advance lets the window begin with the ids of the text before the last one, if they have text to begin with.
func (s *DecodeStream) advance() error {
	s.seen = len(s.window)
	last, err := s.t.Decode(s.window[s.mark:], s.skipSpecial)
	if err != nil {
		return err
	}
	if last != "" {
		s.window = append([]int(nil), s.window[s.mark:]...)
		s.shown, s.seen = last, len(s.window)
	}
	s.mark = len(s.window)
	return nil
}

// Flush returns the text that is left when no more ids come: U+FFFD for a character that was not completed.
func (s *DecodeStream) Flush() (string, error) {
	text, err := s.t.Decode(s.all, s.skipSpecial)
	if err != nil {
		return "", err
	}
	out, ok := strings.CutPrefix(text, s.text.String())
	if !ok {
		if text, err = s.t.Decode(s.window[s.seen:], s.skipSpecial); err != nil {
			return "", err
		}
		out = text
	}
	s.text.WriteString(out)
	s.window, s.shown, s.seen, s.mark = nil, "", 0, 0
	return out, nil
}
