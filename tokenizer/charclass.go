package tokenizer

import (
	"strconv"
	"strings"
	"unicode"
)

// The Rust library and Go carry different versions of Unicode, and both change with their releases. The classes that
// decide where words end are therefore tables of our own (unicodetables.go), taken from the library. Not so pinned: \p{...}
// in expressions without a hand-written scanner, and case mapping. Normalization forms treat what Unicode has added since the
// library's tables as it does (unicodeform.go).

// parseClass reads a class as unicodetables.go writes it.
func parseClass(s string) *unicode.RangeTable {
	t := &unicode.RangeTable{}
	fields := strings.Fields(s)
	at := uint32(0)
	for i := 0; i+1 < len(fields); i += 2 {
		lo := at + base36(fields[i])
		hi := lo + base36(fields[i+1])
		at = hi
		if hi <= 0xffff {
			t.R16 = append(t.R16, unicode.Range16{Lo: uint16(lo), Hi: uint16(hi), Stride: 1})
			if hi <= unicode.MaxLatin1 {
				t.LatinOffset++
			}
			continue
		}
		if lo <= 0xffff { // a range across the border
			t.R16 = append(t.R16, unicode.Range16{Lo: uint16(lo), Hi: 0xffff, Stride: 1})
			lo = 0x10000
		}
		t.R32 = append(t.R32, unicode.Range32{Lo: lo, Hi: hi, Stride: 1})
	}
	return t
}

func base36(s string) uint32 {
	n, err := strconv.ParseUint(s, 36, 21)
	if err != nil {
		panic("tokenizer: unicodetables.go is damaged: " + err.Error())
	}
	return uint32(n)
}
