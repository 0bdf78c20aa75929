package tokenizer

import "unicode/utf8"

// span is a range of bytes of the original text.
type span struct{ lo, hi int32 }

// piece is a run of text on its way to the model, with the way back to the original text.
type piece struct {
	text  string
	align []span // per byte of text, the original range it stands for; nil while text is the original text itself
	start int32  // where the piece begins in the original text
}

// slice returns text[lo:hi] as a piece.
func (p piece) slice(lo, hi int) piece {
	if p.align == nil {
		return piece{text: p.text[lo:hi], start: p.start + int32(lo)}
	}
	if lo == hi {
		return piece{start: p.start}
	}
	return piece{text: p.text[lo:hi], align: p.align[lo:hi], start: p.align[lo].lo}
}

// byteSpan returns the original range of the character that byte i of the text belongs to.
func (p piece) byteSpan(i int) span {
	if p.align != nil {
		return p.align[i]
	}
	lo, hi := i, i+1
	for lo > 0 && !utf8.RuneStart(p.text[lo]) {
		lo--
	}
	for hi < len(p.text) && !utf8.RuneStart(p.text[hi]) {
		hi++
	}
	return span{p.start + int32(lo), p.start + int32(hi)}
}

// origin returns the original range of text[lo:hi]: whole characters, also where the range cuts one.
func (p piece) origin(lo, hi int) span {
	if lo >= hi {
		return span{p.start + int32(lo), p.start + int32(lo)}
	}
	return span{p.byteSpan(lo).lo, p.byteSpan(hi - 1).hi}
}

// rewriter builds a changed copy of a piece and keeps the alignment when track is set.
type rewriter struct {
	src   piece
	track bool
	text  []byte
	align []span
}

func rewrite(src piece, track bool, size int) *rewriter {
	w := &rewriter{src: src, track: track, text: make([]byte, 0, size)}
	if track {
		w.align = make([]span, 0, size)
	}
	return w
}

// keep copies bytes lo to hi of the source.
func (w *rewriter) keep(lo, hi int) {
	w.text = append(w.text, w.src.text[lo:hi]...)
	if !w.track {
		return
	}
	if w.src.align != nil {
		w.align = append(w.align, w.src.align[lo:hi]...)
		return
	}
	for i := lo; i < hi; {
		n := 1
		for i+n < hi && !utf8.RuneStart(w.src.text[i+n]) {
			n++
		}
		s := span{w.src.start + int32(i), w.src.start + int32(i+n)}
		for range n {
			w.align = append(w.align, s)
		}
		i += n
	}
}

// put writes s as standing for the character at source byte at; at -1 it stands for nothing, before the text.
func (w *rewriter) put(s string, at int) {
	w.text = append(w.text, s...)
	if !w.track {
		return
	}
	a := span{w.src.start, w.src.start}
	if at >= 0 {
		a = w.src.byteSpan(at)
	}
	for range len(s) {
		w.align = append(w.align, a)
	}
}

func (w *rewriter) piece() piece {
	p := piece{text: string(w.text), start: w.src.start}
	if w.track {
		if w.align == nil {
			w.align = []span{}
		}
		p.align = w.align
	}
	return p
}

// prepend puts s before a text that is not empty; s stands for the first character.
func prepend(p piece, s string, track bool) piece {
	if p.text == "" || s == "" {
		return p
	}
	if !track {
		p.text = s + p.text
		return p
	}
	w := rewrite(p, track, len(s)+len(p.text))
	w.put(s, 0)
	w.keep(0, len(p.text))
	return w.piece()
}
