package tokenizer

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// decoder rewrites the texts of tokens; their concatenation is the decoded text.
type decoder func(tokens []string) ([]string, error)

func loadDecoder(n node) (decoder, error) {
	kind, err := n.kind()
	if err != nil {
		return nil, err
	}
	switch kind {
	case "Sequence":
		return loadDecoders(n)
	case "ByteLevel":
		return decodeByteLevel, nil
	case "ByteFallback":
		return decodeByteFallback, nil
	case "Fuse":
		return func(tokens []string) ([]string, error) { return []string{strings.Join(tokens, "")}, nil }, nil
	case "Replace":
		return loadReplaceDecoder(n)
	case "Strip":
		return loadStripDecoder(n)
	case "Metaspace":
		c, err := decodeMetaspace(n)
		if err != nil {
			return nil, err
		}
		return perToken(func(i int, s string) string {
			if i == 0 && c.scheme != "never" {
				return strings.ReplaceAll(s, c.Replacement, "")
			}
			return strings.ReplaceAll(s, c.Replacement, " ")
		}), nil
	case "WordPiece":
		return loadWordPieceDecoder(n)
	case "CTC":
		return loadCTCDecoder(n)
	case "BPEDecoder":
		c := struct {
			Suffix string `json:"suffix"`
		}{"</w>"}
		if err := n.decode(&c); err != nil {
			return nil, err
		}
		return func(tokens []string) ([]string, error) {
			out := make([]string, len(tokens))
			for i, s := range tokens {
				blank := " "
				if i == len(tokens)-1 {
					blank = ""
				}
				out[i] = strings.ReplaceAll(s, c.Suffix, blank)
			}
			return out, nil
		}, nil
	}
	return nil, n.unsupported(kind)
}

func loadDecoders(n node) (decoder, error) {
	var c struct {
		Decoders []json.RawMessage `json:"decoders"`
	}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	all, err := loadAll(n.items("decoders", c.Decoders), loadDecoder)
	if err != nil {
		return nil, err
	}
	return func(tokens []string) ([]string, error) {
		var err error
		for _, f := range all {
			if tokens, err = f(tokens); err != nil {
				return nil, err
			}
		}
		return tokens, nil
	}, nil
}

func perToken(f func(i int, s string) string) decoder {
	return func(tokens []string) ([]string, error) {
		out := make([]string, len(tokens))
		for i, s := range tokens {
			out[i] = f(i, s)
		}
		return out, nil
	}
}

func decodeByteLevel(tokens []string) ([]string, error) {
	var b []byte
	for _, s := range tokens {
		b = appendFromByteLevel(b, s)
	}
	return []string{lossyUTF8(b)}, nil
}

// decodeByteFallback joins runs of <0x..> tokens; a run that is not UTF-8 becomes one U+FFFD for every byte.
func decodeByteFallback(tokens []string) ([]string, error) {
	out := make([]string, 0, len(tokens))
	var run []byte
	flush := func() {
		if utf8.Valid(run) {
			if len(run) > 0 {
				out = append(out, string(run))
			}
		} else {
			for range run {
				out = append(out, "\ufffd")
			}
		}
		run = run[:0]
	}
	for _, s := range tokens {
		if b, ok := byteToken(s); ok {
			run = append(run, b)
			continue
		}
		flush()
		out = append(out, s)
	}
	flush()
	return out, nil
}

// byteToken reads <0x0A>.
func byteToken(s string) (byte, bool) {
	if len(s) != 6 || s[:3] != "<0x" || s[5] != '>' {
		return 0, false
	}
	hi, ok1 := hexDigit(s[3])
	lo, ok2 := hexDigit(s[4])
	return hi<<4 | lo, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

func loadReplaceDecoder(n node) (decoder, error) {
	var c struct {
		Pattern pattern `json:"pattern"`
		Content string  `json:"content"`
	}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	find, err := c.Pattern.find(n)
	if err != nil {
		return nil, err
	}
	return func(tokens []string) ([]string, error) {
		out := make([]string, len(tokens))
		for i, s := range tokens {
			var b strings.Builder
			done := 0
			err := find(s, func(lo, hi int) {
				b.WriteString(s[done:lo])
				b.WriteString(c.Content)
				done = hi
			})
			if err != nil {
				return nil, n.errorf("%w", err)
			}
			b.WriteString(s[done:])
			out[i] = b.String()
		}
		return out, nil
	}, nil
}

func loadStripDecoder(n node) (decoder, error) {
	var c struct {
		Content string `json:"content"`
		Start   int    `json:"start"`
		Stop    int    `json:"stop"`
	}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	if utf8.RuneCountInString(c.Content) != 1 {
		return nil, n.errorf("content: want one character, got %q", c.Content)
	}
	return perToken(func(_ int, s string) string {
		for k := 0; k < c.Start && strings.HasPrefix(s, c.Content); k++ {
			s = s[len(c.Content):]
		}
		for k := 0; k < c.Stop && strings.HasSuffix(s, c.Content); k++ {
			s = s[:len(s)-len(c.Content)]
		}
		return s
	}), nil
}

func loadWordPieceDecoder(n node) (decoder, error) {
	c := struct {
		Prefix  string `json:"prefix"`
		Cleanup bool   `json:"cleanup"`
	}{"##", true}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	return perToken(func(i int, s string) string {
		if i > 0 {
			if rest, ok := strings.CutPrefix(s, c.Prefix); ok {
				s = rest
			} else {
				s = " " + s
			}
		}
		if c.Cleanup {
			s = cleanUp(s, true)
		}
		return s
	}), nil
}

// loadCTCDecoder is for the output of models trained with connectionist temporal classification: repeated tokens are one,
// and the pad token parts those that are not.
func loadCTCDecoder(n node) (decoder, error) {
	c := struct {
		PadToken  string `json:"pad_token"`
		Delimiter string `json:"word_delimiter_token"`
		Cleanup   bool   `json:"cleanup"`
	}{"<pad>", "|", true}
	if err := n.decode(&c); err != nil {
		return nil, err
	}
	return func(tokens []string) ([]string, error) {
		var out []string
		for i, s := range tokens {
			if i > 0 && s == tokens[i-1] {
				continue
			}
			s = strings.ReplaceAll(s, c.PadToken, "")
			if c.Cleanup {
				s = strings.ReplaceAll(cleanUp(s, true), c.Delimiter, " ")
			}
			if s != "" {
				out = append(out, s)
			}
		}
		return out, nil
	}, nil
}

// cleanUp takes out the blanks that English spelling has not, one rule after the other. The library's decoders contract
// "do not" too; transformers' clean_up_tokenization_spaces does not.
func cleanUp(s string, contract bool) string {
	for _, r := range [...][2]string{{" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"}, {" 'm", "'m"},
		{" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}} {
		if contract || r[0] != " do not" {
			s = strings.ReplaceAll(s, r[0], r[1])
		}
	}
	return s
}

// lossyUTF8 replaces every maximal part of an ill-formed sequence by one U+FFFD (Unicode 15, section 3.9, table 3-8), as
// Rust's String::from_utf8_lossy does; Go's conversions replace byte by byte.
func lossyUTF8(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var out strings.Builder
	for len(b) > 0 {
		if r, n := utf8.DecodeRune(b); r != utf8.RuneError || n > 1 {
			out.Write(b[:n])
			b = b[n:]
			continue
		}
		out.WriteString("\ufffd")
		b = b[illFormed(b):]
	}
	return out.String()
}

// illFormed returns the length of the longest prefix of b that begins a well-formed sequence; at least 1.
func illFormed(b []byte) int {
	need, lo, hi := 0, byte(0x80), byte(0xbf)
	switch c := b[0]; {
	case 0xc2 <= c && c <= 0xdf:
		need = 1
	case c == 0xe0:
		need, lo = 2, 0xa0
	case c == 0xed:
		need, hi = 2, 0x9f
	case 0xe1 <= c && c <= 0xef:
		need = 2
	case c == 0xf0:
		need, lo = 3, 0x90
	case c == 0xf4:
		need, hi = 3, 0x8f
	case 0xf1 <= c && c <= 0xf3:
		need = 3
	}
	k := 1
	for ; k <= need && k < len(b) && lo <= b[k] && b[k] <= hi; k++ {
		lo, hi = 0x80, 0xbf
	}
	return k
}
