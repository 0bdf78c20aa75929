package tokenizer

import (
	"strings"
	"unicode"
)

// runeTable maps characters to ids: a page for every 256 code points that have one.
type runeTable [unicode.MaxRune>>8 + 1]*[256]int32 // id + 1; 0: none

func (t *runeTable) put(r rune, id int32) {
	page := &t[r>>8]
	if *page == nil {
		*page = new([256]int32)
	}
	(*page)[r&0xff] = id + 1
}

func (t *runeTable) get(r rune) (int32, bool) {
	page := t[r>>8]
	if page == nil {
		return 0, false
	}
	id := page[r&0xff] - 1
	return id, id >= 0
}

// wordMark is what SentencePiece writes for a space.
const wordMark = "▁"

// wordCuts says where a text of a SentencePiece model, which comes in one piece, can be cut into words without changing its
// tokens: before a wordMark that follows another character, as nearly no merge joins the two. Where a merge makes a token with
// such a place inside, there is no cut if the text around has that token's characters.
type wordCuts struct {
	inside [][2]string // before and from the mark on, of the tokens that have one inside
}

// maxInside is the number of tokens above which looking for each of them is not worth it.
const maxInside = 16

// findCuts returns nil where pieces cannot be cut: where they are words already, or what is unknown is dropped, which changes
// the offsets of all that follows.
func (m *bpe) findCuts(merges [][2]string) *wordCuts {
	if _, ok := m.vocab.lookup(wordMark); !ok || m.byteLevel || m.ignoreMerges || m.prefix != "" || m.suffix != "" {
		return nil
	}
	if m.unk < 0 && m.unkErr == nil {
		for _, id := range m.bytes {
			if id < 0 || !m.byteFallback {
				return nil
			}
		}
	}
	return wordCutsOf(merges, maxInside)
}

// wordCutsOf returns nil when more than most merges have a cut inside what they make.
func wordCutsOf(merges [][2]string, most int) *wordCuts {
	c := &wordCuts{}
	for _, p := range merges {
		if !strings.Contains(p[1], wordMark) && !strings.Contains(p[0], wordMark) {
			continue
		}
		joined := p[0] + p[1]
		for i := 1; i < len(joined); i++ {
			if strings.HasPrefix(joined[i:], wordMark) && !strings.HasSuffix(joined[:i], wordMark) {
				c.inside = append(c.inside, [2]string{joined[:i], joined[i:]})
			}
		}
		if len(c.inside) > most {
			return nil
		}
	}
	return c
}

// next returns where the word that begins at lo ends.
func (c *wordCuts) next(text string, lo int) int {
	for i := lo + 1; ; i += len(wordMark) {
		if i >= len(text) {
			return len(text)
		}
		k := strings.Index(text[i:], wordMark)
		if k < 0 {
			return len(text)
		}
		if i += k; !strings.HasSuffix(text[lo:i], wordMark) && !c.isInside(text[lo:i], text[i:]) {
			return i
		}
	}
}

func (c *wordCuts) isInside(before, after string) bool {
	for _, s := range c.inside {
		if strings.HasSuffix(before, s[0]) && strings.HasPrefix(after, s[1]) {
			return true
		}
	}
	return false
}
