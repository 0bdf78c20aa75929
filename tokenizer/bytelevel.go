package tokenizer

import "unicode/utf8"

// The byte-level alphabet of GPT-2 gives every byte a printable character: itself for printable Latin-1, the next free
// code point from U+0100 on for the rest.

// byteChar[b] is the character of byte b as a string.
var byteChar = func() (t [256]string) {
	next := rune(256)
	for b := range t {
		if printableLatin1(b) {
			t[b] = string(rune(b))
		} else {
			t[b] = string(next)
			next++
		}
	}
	return t
}()

// charByte[r] is the byte of character r, or -1.
var charByte = func() (t [324]int16) {
	for i := range t {
		t[i] = -1
	}
	for b, s := range byteChar {
		r, _ := utf8.DecodeRuneInString(s)
		t[r] = int16(b)
	}
	return t
}()

func printableLatin1(b int) bool {
	return '!' <= b && b <= '~' || 0xa1 <= b && b <= 0xac || 0xae <= b
}

// toByteLevel writes the text of p in the byte-level alphabet.
func toByteLevel(p piece, track bool) piece {
	w := rewrite(p, track, len(p.text)+len(p.text)/2)
	for i := 0; i < len(p.text); i++ {
		w.put(byteChar[p.text[i]], i)
	}
	return w.piece()
}

// appendFromByteLevel appends the bytes that s writes in the byte-level alphabet; s itself where it is not in that alphabet.
func appendFromByteLevel(dst []byte, s string) []byte {
	n := len(dst)
	for _, r := range s {
		if int(r) >= len(charByte) || charByte[r] < 0 {
			return append(dst[:n], s...)
		}
		dst = append(dst, byte(charByte[r]))
	}
	return dst
}
