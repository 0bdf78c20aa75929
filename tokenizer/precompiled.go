package tokenizer

import (
	"encoding/base64"
	"encoding/binary"
	"strings"
	"unicode/utf8"

	"github.com/rivo/uniseg"
)

// charsmap is SentencePiece's table of replacements: a double-array trie of UTF-8 keys (darts-clone) whose values are where
// in texts the replacement begins; a NUL ends it.
type charsmap struct {
	n     node
	units []uint32
	texts string
}

func loadPrecompiled(n node) (normalizer, error) {
	var c struct {
		Charsmap string `json:"precompiled_charsmap"`
	}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	field := n.child("precompiled_charsmap", nil)
	data, err := base64.StdEncoding.DecodeString(c.Charsmap)
	if err != nil {
		return nil, field.errorf("want base64: %w", err)
	}
	if len(data) < 4 {
		return nil, field.errorf("%d bytes; want the size of the trie (4 bytes), the trie and the texts", len(data))
	}
	size := binary.LittleEndian.Uint32(data)
	if data = data[4:]; uint64(size) > uint64(len(data)) || size < 4 {
		return nil, field.errorf("the trie has %d bytes by its header, %d bytes follow; the file is damaged", size, len(data))
	}
	m := &charsmap{n: field, units: make([]uint32, size/4)}
	for i := range m.units {
		m.units[i] = binary.LittleEndian.Uint32(data[4*i:])
	}
	m.texts = string(data[4*len(m.units):])
	if !utf8.ValidString(m.texts) {
		return nil, field.errorf("the replacements are not UTF-8; the file is damaged")
	}
	return m.normalize, nil
}

// replacement returns what the shortest key that s begins with becomes. As in the reference, what s has beyond the key is
// replaced with it.
func (m *charsmap) replacement(s string) (with string, ok bool, err error) {
	const label = 1<<31 | 0xff
	offset := func(unit uint32) uint32 { return unit >> 10 << (unit & (1 << 9) >> 6) }
	at := offset(m.units[0])
	for i := 0; i < len(s) && s[i] != 0; i++ {
		at ^= uint32(s[i])
		if at >= uint32(len(m.units)) || m.units[at]&label != uint32(s[i]) {
			return "", false, nil
		}
		unit := m.units[at]
		at ^= offset(unit)
		if unit>>8&1 == 0 {
			continue
		}
		if at >= uint32(len(m.units)) || m.units[at]&(1<<31-1) >= uint32(len(m.texts)) {
			return "", false, m.n.errorf("the replacement of %q is outside the table; the file is damaged", s[:i+1])
		}
		with = m.texts[m.units[at]&(1<<31-1):]
		if end := strings.IndexByte(with, 0); end >= 0 {
			with = with[:end]
		}
		return with, true, nil
	}
	return "", false, nil
}

// longestCluster is the size in bytes (of the clusters of Unicode 15; marks that are newer are not part of one here) from which a grapheme cluster is only looked up character by character.
const longestCluster = 6

func (m *charsmap) normalize(p piece, track bool) (piece, error) {
	chars := make([]formChar, 0, len(p.text))
	changed := false
	replace := func(s string) (bool, error) {
		with, ok, err := m.replacement(s)
		if ok {
			changed = true
			chars = appendReplaced(chars, s, with)
		}
		return ok, err
	}
	for rest, state := p.text, -1; rest != ""; {
		var cluster string
		cluster, rest, _, state = uniseg.FirstGraphemeClusterInString(rest, state)
		if len(cluster) < longestCluster {
			if ok, err := replace(cluster); err != nil {
				return piece{}, err
			} else if ok {
				continue
			}
		}
		for _, r := range cluster {
			ok, err := replace(string(r))
			if err != nil {
				return piece{}, err
			}
			if !ok {
				chars = append(chars, formChar{r: r})
			}
		}
	}
	if !changed {
		return p, nil
	}
	w := rewrite(p, track, len(p.text))
	w.transform(0, len(p.text), chars)
	return w.piece(), nil
}

// appendReplaced appends the characters of with. Of more characters than s has, the last ones count as added; of fewer, the
// last one, whichever it is, takes the rest of s.
func appendReplaced(chars []formChar, s, with string) []formChar {
	more := -utf8.RuneCountInString(s)
	for _, r := range with {
		chars = append(chars, formChar{r: r})
		more++
	}
	for k := 1; k <= more; k++ {
		chars[len(chars)-k].change = 1
	}
	if more < 0 && len(chars) > 0 {
		chars[len(chars)-1].change += more
	}
	return chars
}
