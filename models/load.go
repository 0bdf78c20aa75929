package models

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/quant"
)

// FromPretrained loads a model onto the device of o.Backend: from a folder with config.json and model.safetensors
// (single or sharded), or from a GGUF file with tensors in F32, F16, BF16, Q8_0, Q4_0 or Q4_1. Weights pass through the
// host one group of linears at a time, quantized on the way where o.Quantization asks for it.
func FromPretrained(ctx context.Context, path string, o Options) (*CausalLM, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	arch, src, err := open(path)
	if err != nil {
		return nil, err
	}
	m, err := load(ctx, arch, src, o)
	if err = errors.Join(err, src.Close()); err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	m.path = path
	return m, nil
}

// loader puts the tensors of a source onto a device.
type loader struct {
	arch    Architecture
	src     source
	o       Options
	dev     *backend.Device
	dtype   dtypes.DType
	compute dtypes.DType
	bar     *loadBar
}

func load(ctx context.Context, arch Architecture, src source, o Options) (_ *CausalLM, err error) {
	d := arch.dims()
	dev, err := backend.Open(o.Backend)
	if err != nil {
		return nil, err
	}
	l := &loader{arch: arch, src: src, o: o, dev: dev, bar: newLoadBar(o.Progress, d.layers+1)}
	m := &layerwise.Model{Device: dev, Shape: d.shape, Vocab: d.vocab, Inverse: d.inverse, Block: arch.block, Trainable: o.Trainable}
	defer func() {
		l.bar.finish()
		if err != nil {
			err = errors.Join(err, m.Close(), dev.Close())
		}
	}()
	if err := l.formats(); err != nil {
		return nil, err
	}
	m.Shape.Compute = l.compute
	if err := l.ends(m, d); err != nil {
		return nil, err
	}
	block := arch.tensors()
	for i := range d.layers {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l.bar.step()
		w, err := l.layer(block, i)
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, w)
	}
	if o.Quantization != nil && o.Quantization.LoadIn4Bit && !l.packs() {
		o.logger().Info("4-bit weights are kept dequantized: this backend has no fast 4-bit kernels", "backend", dev.Kind, "see", "models.Options.KeepPacked")
	}
	return &CausalLM{arch: arch, run: m, options: o}, nil
}

// packs reports whether 4-bit weights stay packed on the device.
func (l *loader) packs() bool { return l.dev.Kind == backend.CUDA || l.o.KeepPacked }

// formats settles the dtypes of weights and of computation.
func (l *loader) formats() (err error) {
	if l.dtype, err = l.o.DType.resolve(l.dev); err != nil {
		return err
	}
	l.compute = l.dtype
	if l.o.Trainable && l.o.DType == DefaultDType {
		l.dtype = dtypes.Float32 // what is trained is kept in full precision
	}
	named := l.o.ComputeDType
	if named == DefaultDType && l.o.Quantization != nil {
		named = DType(l.o.Quantization.BNB4BitComputeDType)
	}
	if named != DefaultDType {
		l.compute, err = named.resolve(l.dev)
	}
	return err
}

// read reads a tensor and checks its shape.
func (l *loader) read(name string, dims ...int) ([]float32, error) {
	got, ok := l.src.shape(name)
	if !ok {
		return nil, fmt.Errorf("%s: tensor %q is missing", l.src.path(), name)
	}
	if !slices.Equal(got, dims) {
		return nil, fmt.Errorf("%s: tensor %q has shape %v, want %v as the model's config says", l.src.path(), name, got, dims)
	}
	return l.src.float32s(name)
}

// ends loads embedding, final norm and head.
func (l *loader) ends(m *layerwise.Model, d dims) (err error) {
	l.bar.step()
	rows, err := l.read("model.embed_tokens.weight", d.vocab, d.shape.Hidden)
	if err != nil {
		return err
	}
	gain, err := l.read("model.norm.weight", d.shape.Hidden)
	if err != nil {
		return err
	}
	if m.Norm, err = backend.UploadFloats(l.dev, l.dtype, gain, d.shape.Hidden); err != nil {
		return err
	}
	raw, err := backend.EncodeFloats(l.dtype, rows)
	if err != nil {
		return err
	}
	if !l.o.Trainable {
		m.Embed.DType, m.Embed.Rows = l.dtype, raw
	}
	if l.o.Trainable || d.tied {
		if m.Embed.Table, err = l.dev.Upload(shapes.Make(l.dtype, d.vocab, d.shape.Hidden), raw); err != nil {
			return err
		}
	}
	if d.tied {
		return nil
	}
	head, err := l.read("lm_head.weight", d.vocab, d.shape.Hidden)
	if err != nil {
		return err
	}
	m.Head, err = backend.UploadFloats(l.dev, l.dtype, head, d.vocab, d.shape.Hidden)
	return err
}

// layer loads the tensors of layer i.
func (l *loader) layer(block nn.Block, i int) (_ *nn.Weights, err error) {
	prefix := layerPrefix(i)
	b, w := nn.NewLayout(), &nn.Weights{}
	defer func() {
		if err != nil {
			err = errors.Join(err, backend.Free(w.Tensors...))
		}
	}()
	for _, n := range block.Norms {
		values, err := l.read(prefix+n.Name+".weight", n.Size)
		if err != nil {
			return nil, err
		}
		b.Norm(n, l.dtype, l.o.Trainable)
		if err := l.put(w, l.dtype, values, n.Size); err != nil {
			return nil, err
		}
	}
	for _, g := range block.Groups {
		if err := l.group(b, w, prefix, g); err != nil {
			return nil, err
		}
	}
	w.Layout = b.Build()
	return w, nil
}

func layerPrefix(i int) string { return fmt.Sprintf("model.layers.%d.", i) }

// put uploads values as the next slot of w.
func (l *loader) put(w *nn.Weights, dtype dtypes.DType, values []float32, dims ...int) error {
	t, err := backend.UploadFloats(l.dev, dtype, values, dims...)
	if err == nil {
		w.Tensors = append(w.Tensors, t)
	}
	return err
}

// group loads linears that share an input: as one packed or one dense weight; apart where only some of them are
// quantized, or where their quantization blocks would not start at row boundaries of the whole.
func (l *loader) group(b *nn.LayoutBuilder, w *nn.Weights, prefix string, g []nn.Linear) error {
	var packed []*quant.Packed
	var dense [][]float32
	for _, lin := range g {
		values, err := l.read(prefix+lin.Name+".weight", lin.Out, lin.In)
		if err != nil {
			return err
		}
		p, values, err := l.quantize(prefix+lin.Name, lin, values)
		if err != nil {
			return err
		}
		packed, dense = append(packed, p), append(dense, values)
	}
	if !slices.ContainsFunc(packed, func(p *quant.Packed) bool { return p != nil }) {
		return l.store(b, w, prefix, g, nil, concat(dense))
	}
	if !slices.Contains(packed, nil) {
		one, err := quant.Concat(packed...)
		if !errors.Is(err, quant.ErrUnaligned) {
			if err != nil {
				return err
			}
			return l.store(b, w, prefix, g, one, nil)
		}
	}
	for i, lin := range g {
		if err := l.store(b, w, prefix, []nn.Linear{lin}, packed[i], dense[i]); err != nil {
			return err
		}
	}
	return nil
}

// store uploads linears as one weight, p where they are packed, else values, and their biases.
func (l *loader) store(b *nn.LayoutBuilder, w *nn.Weights, prefix string, g []nn.Linear, p *quant.Packed, values []float32) error {
	if p != nil {
		return l.packed(b, w, prefix, g, p)
	}
	b.Dense(g, l.dtype, l.o.Trainable)
	return errors.Join(l.put(w, l.dtype, values, len(values)/g[0].In, g[0].In), l.biases(w, prefix, g))
}

// quantize returns the weight in four bits, or its values: as they are, or as four bits stand for them.
func (l *loader) quantize(path string, lin nn.Linear, values []float32) (*quant.Packed, []float32, error) {
	if !l.o.quantizes(path) {
		return nil, values, nil
	}
	q := l.o.Quantization
	codes, state, err := quant.Quantize4Bit(values, q.QuantType(), quant.DefaultBlocksize, q.BNB4BitUseDoubleQuant)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: tensor %q: %w", l.src.path(), path+".weight", err)
	}
	if l.packs() {
		state.Shape = []int{lin.Out, lin.In}
		p, err := quant.NewPacked(codes, state)
		return p, nil, err
	}
	values, err = quant.Dequantize4Bit(codes, state)
	return nil, values, err
}

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
	var all []float32
	for _, lin := range g {
		values := make([]float32, lin.Out)
		if lin.Bias {
			var err error
			if values, err = l.read(prefix+lin.Name+".bias", lin.Out); err != nil {
				return err
			}
		}
		all = append(all, values...)
	}
	return l.put(w, l.dtype, all, len(all))
}

func concat(parts [][]float32) []float32 {
	if len(parts) == 1 {
		return parts[0]
	}
	return slices.Concat(parts...)
}
