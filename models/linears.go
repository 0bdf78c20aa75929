package models

import (
	"errors"
	"slices"

	"github.com/gomlx/compute/shapes"

	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/safetensors/floats"
	"github.com/loris-ml/loris/quant"
)

// group loads linears that share an input: as one packed or one dense weight; apart where only some of them are
// quantized, or where their quantization blocks would not start at row boundaries of the whole.
func (l *loader) group(b *nn.LayoutBuilder, w *nn.Weights, prefix string, g []nn.Linear) error {
	packed := make([]*quant.Packed, len(g))
	if l.packs() {
		for i, lin := range g {
			if !l.quantizes(prefix + lin.Name) {
				continue
			}
			e, err := l.encode(prefix+lin.Name, lin.Out, lin.In)
			if err != nil {
				return err
			}
			if packed[i], err = e.packed(); err != nil {
				return err
			}
		}
	}
	if !slices.ContainsFunc(packed, func(p *quant.Packed) bool { return p != nil }) {
		return l.dense(b, w, prefix, g)
	}
	if !slices.Contains(packed, nil) {
		one, err := quant.Concat(packed...)
		if err == nil {
			return l.packed(b, w, prefix, g, one)
		}
		if !errors.Is(err, quant.ErrUnaligned) {
			return err
		}
	}
	for i := range g {
		err := error(nil)
		if alone := g[i : i+1]; packed[i] != nil {
			err = l.packed(b, w, prefix, alone, packed[i])
		} else {
			err = l.dense(b, w, prefix, alone)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dense uploads linears as one weight, and their biases.
func (l *loader) dense(b *nn.LayoutBuilder, w *nn.Weights, prefix string, g []nn.Linear) error {
	out := 0
	for _, lin := range g {
		if err := l.checkDense(prefix+lin.Name, lin.Out, lin.In); err != nil {
			return err
		}
		out += lin.Out
	}
	shape := shapes.Make(l.dtype, out, g[0].In)
	raw, err := l.staging.group(int(shape.ByteSize()))
	if err != nil {
		return err
	}
	rest := raw
	for _, lin := range g {
		n := lin.Out * lin.In * l.dtype.Size()
		if err := l.weight(rest[:n], prefix+lin.Name, lin.Out, lin.In); err != nil {
			return err
		}
		rest = rest[n:]
	}
	t, err := l.dev.Upload(shape, raw)
	if err != nil {
		return err
	}
	w.Tensors = append(w.Tensors, t)
	b.Dense(g, l.dtype, l.o.Trainable)
	return l.biases(w, prefix, g)
}

// checkDense checks a linear's weight before memory is taken for it; a quantized one is checked when it is read.
func (r *reader) checkDense(path string, out, in int) error {
	if r.quantizes(path) {
		return nil
	}
	return r.check(path+".weight", []int{out, in})
}

// weight puts a linear's weight into dst: as it is, or as its quantized form stands for it.
func (r *reader) weight(dst []byte, path string, out, in int) error {
	if !r.quantizes(path) {
		return r.fill(dst, path+".weight", out, in)
	}
	e, err := r.encode(path, out, in)
	if err != nil {
		return err
	}
	values, err := e.values()
	if err != nil {
		return err
	}
	return floats.EncodeTo(dst, fileDTypes[r.dtype], values)
}

// packed uploads linears as one weight in its quantized form, and their biases.
func (l *loader) packed(b *nn.LayoutBuilder, w *nn.Weights, prefix string, g []nn.Linear, p *quant.Packed) error {
	var arrays []shapes.Shape
	for _, in := range p.Inputs() {
		t, err := l.dev.Upload(in.Shape, in.Raw)
		if err != nil {
			return err
		}
		arrays, w.Tensors = append(arrays, in.Shape), append(w.Tensors, t)
	}
	b.Packed(g, p.Layout, arrays, l.dtype)
	return l.biases(w, prefix, g)
}

// biases loads the biases of a group into one vector, zeros where a member has none.
func (l *loader) biases(w *nn.Weights, prefix string, g []nn.Linear) error {
	if !slices.ContainsFunc(g, func(lin nn.Linear) bool { return lin.Bias }) {
		return nil
	}
	out := 0
	for _, lin := range g {
		out += lin.Out
	}
	all := make([]byte, out*l.dtype.Size())
	rest := all
	for _, lin := range g {
		n := lin.Out * l.dtype.Size()
		if lin.Bias {
			if err := l.fill(rest[:n], prefix+lin.Name+".bias", lin.Out); err != nil {
				return err
			}
		}
		rest = rest[n:]
	}
	t, err := l.dev.Upload(shapes.Make(l.dtype, out), all)
	if err == nil {
		w.Tensors = append(w.Tensors, t)
	}
	return err
}
