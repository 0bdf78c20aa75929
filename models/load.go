package models

import (
	"context"
	"errors"
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/kernels"
	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/offheap"
	"github.com/loris-ml/loris/internal/safetensors/floats"
)

// FromPretrained loads a model onto the device of o.Backend. path is a folder, a file, or the id of a model that is in the cache
// of the hub; see hub.Find, and hub.Download for what is not there. It is loaded from a folder with config.json and model.safetensors
// (single or sharded), or from a GGUF file of any of the families, with tensors in F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1,
// Q2_K to Q6_K or IQ4_NL. A folder that
// bitsandbytes quantized (its config.json has quantization_config) keeps its bytes, and Options.Quantization may be nil. Weights pass through the
// host one group of linears at a time, quantized on the way where o.Quantization asks for it, so that beside the embedding,
// which stays there, the host holds little more than the largest of them.
func FromPretrained(ctx context.Context, path string, o Options) (*CausalLM, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	arch, src, err := open(path)
	if err != nil {
		return nil, err
	}
	if f, ok := src.(*folder); ok {
		if err := first(f.checkContents(arch), o.settle(f.quantization, path)); err != nil {
			return nil, errors.Join(err, src.Close())
		}
	}
	m, err := load(ctx, arch, src, o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load %s: %w", path, err), src.Close())
	}
	m.path = path
	switch from := src.(type) {
	case *folder:
		m.beside = besideFolder(from.dir)
	case *ggufSource:
		m.beside = besideGGUF(from)
	}
	m.run.Embed.Padding = m.beside.padding()
	if quantized(o.Quantization) {
		m.src = src // to be saved from, since the device holds the weights in another form
		return m, nil
	}
	return m, src.Close()
}

// loader puts the tensors of a source onto a device.
type loader struct {
	reader
	arch    Architecture
	o       Options
	dev     *backend.Device
	compute dtypes.DType
	bar     *loadBar
}

func load(ctx context.Context, arch Architecture, src source, o Options) (_ *CausalLM, err error) {
	d := arch.dims()
	dev, err := openDevice(o)
	if err != nil {
		return nil, err
	}
	l := &loader{reader: reader{src: src, quantization: o.Quantization}, arch: arch, o: o, dev: dev, bar: newLoadBar(o.Progress, d.layers+1)}
	defer func() { err = errors.Join(err, l.staging.free()) }()
	lm := &CausalLM{arch: arch, options: o, packs: l.packs()}
	m := &layerwise.Model{Device: dev, Shape: d.shape, Vocab: d.vocab, Rope: d.rope, Logit: d.logit, Block: arch.block, Trainable: o.Trainable}
	lm.run = m
	defer func() {
		l.bar.finish()
		if err != nil {
			err = errors.Join(err, lm.Close())
		}
	}()
	if err := l.formats(); err != nil {
		return nil, err
	}
	m.Shape.Compute, m.Shape.Float8, m.Shape.Attention = l.compute, o.ComputeDType == Float8E4M3, o.Attention
	l.note(&m.Shape)
	if err := l.ends(lm, d); err != nil {
		return nil, err
	}
	block := arch.tensors()
	for i := range d.layers {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l.bar.step()
		w, err := l.layer(block, i, d.kind(i))
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, w)
	}
	if quantized(o.Quantization) && !l.packs() {
		o.logger().Info("quantized weights are kept dequantized: this backend has no fast kernels for them", "backend", dev.Kind, "see", "models.Options.KeepPacked")
	}
	return lm, nil
}

func openDevice(o Options) (*backend.Device, error) {
	dev, err := backend.Open(o.Backend)
	if err != nil {
		return nil, err
	}
	if o.Attention == attention.RouteCuDNN && dev.Kind != backend.CUDA {
		return nil, errors.Join(fmt.Errorf("Options.Attention is RouteCuDNN on %s: cuDNN is on CUDA only; use RouteAuto or RouteTiled", dev.Kind), dev.Close())
	}
	dev.MemoryLimit = o.MaxDeviceMemory
	if o.ProgramCache == "" {
		return dev, nil
	}
	if _, err := dev.CachePrograms(o.ProgramCache); err != nil {
		return nil, errors.Join(fmt.Errorf("Options.ProgramCache: %w", err), dev.Close())
	}
	return dev, nil
}

// packs reports whether quantized weights stay packed on the device.
func (l *loader) packs() bool { return l.dev.Kind == backend.CUDA || l.o.KeepPacked }

// note says in the log where programs will not go the fastest way.
func (l *loader) note(s *nn.Shape) {
	log := l.o.logger().With("backend", l.dev.Kind)
	if l.dev.Kind == backend.CUDA {
		s.Notices = &nn.Notices{Say: func(text string) { log.Info("attention does not run in cuDNN", "route", text) }}
	}
	switch {
	case !kernels.Available(l.dev.Backend):
		log.Info("layers run without Loris's kernels, which are for NVIDIA GPUs of compute capability 8.0 or more")
	case !s.Fused(l.dev.Backend):
		log.Info("layers run without Loris's kernels, which compute in bfloat16", "dtype", l.compute)
	}
}

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
	if named == Float8E4M3 {
		l.compute = dtypes.BFloat16
		if err := kernels.Float8(l.dev.Backend); err != nil {
			return errors.Join(&UnsupportedError{Field: "ComputeDType", Value: named, Supported: "float32, bfloat16, float16 on this device; float8 needs a GPU of compute capability 8.9 or more, and Loris's kernels"}, err)
		}
		return nil
	}
	if named == DefaultDType && l.o.Quantization != nil {
		named = DType(l.o.Quantization.BNB4BitComputeDType)
		if _, err := named.resolve(l.dev); err != nil {
			return &UnsupportedError{Path: l.src.path(), Field: "bnb_4bit_compute_dtype", Value: named, Supported: "float32, bfloat16, float16; set Options.ComputeDType"}
		}
	}
	if named != DefaultDType {
		l.compute, err = named.resolve(l.dev)
	}
	return err
}

// ends loads embedding, final norm and head.
func (l *loader) ends(lm *CausalLM, d dims) (err error) {
	l.bar.step()
	m := lm.run
	m.Embed.Scale, m.Embed.ScaleVirtual = d.embed.of(l.dtype), !d.embed.rounded
	if m.Norm, err = l.upload("model.norm.weight", d.shape.Hidden); err != nil {
		return err
	}
	if !d.tied {
		if m.Head, err = l.head(d); err != nil {
			return err
		}
		if err := l.staging.free(); err != nil { // before the embedding takes as much
			return err
		}
	}
	if l.o.Trainable {
		m.Embed.Table, err = l.upload(embeddingName, d.vocab, d.shape.Hidden)
		return err
	}
	if err := l.check(embeddingName, []int{d.vocab, d.shape.Hidden}); err != nil {
		return err
	}
	if lm.rows, err = offheap.Alloc(d.vocab * d.shape.Hidden * l.dtype.Size()); err != nil {
		return err
	}
	m.Embed.DType, m.Embed.Rows = l.dtype, lm.rows.Bytes()
	if err := l.fill(m.Embed.Rows, embeddingName, d.vocab, d.shape.Hidden); err != nil {
		return err
	}
	if d.tied {
		m.Embed.Table, err = l.dev.Upload(shapes.Make(l.dtype, d.vocab, d.shape.Hidden), m.Embed.Rows)
	}
	return err
}

// head loads the output embedding, which is dense on the device even where the checkpoint has it quantized.
func (l *loader) head(d dims) (*tensors.Tensor, error) {
	if err := l.checkDense("lm_head", d.vocab, d.shape.Hidden); err != nil {
		return nil, err
	}
	shape := shapes.Make(l.dtype, d.vocab, d.shape.Hidden)
	raw, err := l.staging.group(int(shape.ByteSize()))
	if err != nil {
		return nil, err
	}
	if err := l.weight(raw, "lm_head", d.vocab, d.shape.Hidden); err != nil {
		return nil, err
	}
	return l.dev.Upload(shape, raw)
}

// of is the scale for weights of that dtype.
func (e embedScale) of(dtype dtypes.DType) float64 {
	switch {
	case e.rounded && dtype == dtypes.BFloat16:
		return float64(floats.FromBF16(floats.ToBF16(float32(e.factor))))
	case e.rounded && dtype == dtypes.Float16:
		return float64(floats.FromF16(floats.ToF16(float32(e.factor))))
	}
	return e.factor
}

// upload puts a tensor of the checkpoint onto the device in the dtype of weights.
func (l *loader) upload(name string, dims ...int) (*tensors.Tensor, error) {
	if err := l.check(name, dims); err != nil {
		return nil, err
	}
	shape := shapes.Make(l.dtype, dims...)
	raw, err := l.staging.group(int(shape.ByteSize()))
	if err != nil {
		return nil, err
	}
	if err := l.fill(raw, name, dims...); err != nil {
		return nil, err
	}
	return l.dev.Upload(shape, raw)
}

// layer loads the tensors of layer i.
func (l *loader) layer(block nn.Block, i int, kind string) (_ *nn.Weights, err error) {
	prefix := layerPrefix(i)
	b, w := nn.NewLayout(), &nn.Weights{}
	b.Kind(kind)
	defer func() {
		if err != nil {
			err = errors.Join(err, backend.Free(w.Tensors...))
		}
	}()
	for _, n := range block.Norms {
		t, err := l.upload(prefix+n.Name+".weight", n.Size)
		if err != nil {
			return nil, err
		}
		b.Norm(n, l.dtype, l.o.Trainable)
		w.Tensors = append(w.Tensors, t)
	}
	for _, g := range block.Groups {
		if err := l.group(b, w, prefix, g); err != nil {
			return nil, err
		}
	}
	w.Layout = b.Build()
	return w, nil
}

const layersPrefix = "model.layers."

func layerPrefix(i int) string { return fmt.Sprintf("%s%d.", layersPrefix, i) }
