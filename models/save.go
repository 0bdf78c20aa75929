package models

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/atomicfile"
	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/safetensors"
	"github.com/loris-ml/loris/internal/safetensors/floats"
	"github.com/loris-ml/loris/quant"
)

// SavePretrained writes config.json and model.safetensors (sharded above 5 GB) as transformers reads them, in the
// format that the weights have on the device. The folder is made if it does not exist.
//
// A quantized model is written as bitsandbytes stores it, with quantization_config: the bytes of the checkpoint if that
// was quantized, else those that quantizing its weights gives. Its file is read again for that, and must still be there.
func (m *CausalLM) SavePretrained(dir string) error { return m.SaveAs(dir, DefaultDType) }

// SaveAs is SavePretrained in another format, of a quantized model for the weights that are not quantized. The zero
// DType keeps the weights' own.
func (m *CausalLM) SaveAs(dir string, dtype DType) error {
	return m.SaveWith(dir, SaveOptions{DType: dtype})
}

// SaveOptions says how a model is saved. The zero value is [CausalLM.SavePretrained].
type SaveOptions struct {
	// DType is the format of the weights that are not quantized. Zero: the one that they have on the device.
	DType DType
	// Dequantize writes quantized weights as the values that they stand for, in DType.
	Dequantize bool
	// Merge is added to the weights of its linears: W + Scaling·B·A in float32. Those that are written quantized are
	// decoded first and quantized again, which loses most of a small adapter.
	//
	// Before anything is written, the merged weights are loaded, and the save refused with a [*MergeError] where their logits
	// are not those of the model with the adapters beside its weights: up to 0.1 % in float32, 1 % where something is
	// float16, 5 % where something is bfloat16. Weights that are written quantized are not checked.
	Merge []LoRA
	// SkipCheck merges unchecked, where the device has no memory for the merged weights.
	SkipCheck bool
}

// SaveWith is [CausalLM.SavePretrained] with options; it is what package peft saves merged models with.
func (m *CausalLM) SaveWith(dir string, o SaveOptions) (err error) {
	s, err := m.newSaver(o)
	if err != nil {
		return fmt.Errorf("save model: %w", err)
	}
	defer func() { err = errors.Join(err, s.reader.staging.free()) }()
	config, err := m.configJSON(s.format, s.quantization, s.untied)
	if err != nil {
		return err
	}
	if len(o.Merge) > 0 && !o.SkipCheck && s.quantization == nil {
		if err := s.checkLogits(o.Merge); err != nil {
			return fmt.Errorf("save model: %w", err)
		}
	}
	sources, err := s.sources()
	if err != nil {
		return fmt.Errorf("save model: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save model: %w", err)
	}
	if err := safetensors.WriteSharded(dir, sources, 0, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	if m.beside.generation != nil {
		if err := atomicfile.WriteBytes(filepath.Join(dir, generationName), m.beside.generation); err != nil {
			return err
		}
	}
	return atomicfile.WriteBytes(filepath.Join(dir, "config.json"), config)
}

// configJSON is the configuration with what transformers wants beside it, and what the checkpoint's config said beyond it.
func (m *CausalLM) configJSON(format DType, q *quant.BitsAndBytesConfig, untied bool) ([]byte, error) {
	raw, err := json.Marshal(m.arch)
	if err != nil {
		return nil, fmt.Errorf("save model: %w", err)
	}
	all := map[string]any{}
	for key, value := range m.beside.config {
		all[key] = value
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, err
	}
	all["model_type"] = m.arch.ModelType()
	all["architectures"] = []string{classes[m.arch.ModelType()]}
	if r, ok := m.arch.(interface{ ropeJSON() map[string]any }); ok {
		maps.Copy(all, r.ropeJSON())
	}
	for _, name := range floatFields {
		if v, ok := all[name]; ok {
			all[name] = decimals(v)
		}
	}
	all["torch_dtype"] = format
	if untied {
		all["tie_word_embeddings"] = false
	}
	if q != nil {
		stored := *q
		if stored.BNB4BitComputeDType == "" { // whoever reads it would take that for float32
			stored.BNB4BitComputeDType = string(formatOf(m.run.Shape.Compute))
		}
		all["quantization_config"] = stored
	}
	out, err := json.MarshalIndent(all, "", "  ")
	return append(out, '\n'), err
}

// saver makes the tensors of a checkpoint.
type saver struct {
	m            *CausalLM
	format       DType
	dtype        dtypes.DType              // format's
	quantization *quant.BitsAndBytesConfig // of what is written; nil: nothing is quantized
	merge        map[string]LoRA           // by path
	arch         Architecture              // what is saved: the model's, unless merging unties the head
	untied       bool
	reader       *reader
}

func (m *CausalLM) newSaver(o SaveOptions) (*saver, error) {
	s := &saver{m: m, format: o.DType, merge: map[string]LoRA{}, arch: m.arch, reader: m.newReader()}
	if s.format == DefaultDType {
		s.format = m.format()
	}
	var err error
	if s.dtype, err = s.format.resolve(m.run.Device); err != nil {
		return nil, err
	}
	for _, l := range o.Merge {
		if _, double := s.merge[l.Path]; double {
			return nil, fmt.Errorf("module %q has two adapters", l.Path)
		}
		s.merge[l.Path] = l
	}
	if quantized(m.options.Quantization) && !o.Dequantize {
		q := *m.options.Quantization
		if q.LLMInt8SkipModules != nil && !q.Skips("lm_head") && !s.reader.quantizes("lm_head") {
			q.LLMInt8SkipModules = append(slices.Clone(q.LLMInt8SkipModules), "lm_head")
		}
		s.quantization = &q
	}
	if err := s.checkMerge(); err != nil {
		return nil, err
	}
	return s, s.untie()
}

// format is that of the weights on the device.
func (m *CausalLM) format() DType { return formatOf(m.run.Norm.DType()) }

// formatOf is the name of a dtype of weights and activations.
func formatOf(dtype dtypes.DType) DType {
	switch dtype {
	case dtypes.BFloat16:
		return BFloat16
	case dtypes.Float16:
		return Float16
	}
	return Float32
}

// checkMerge reports adapters that fit no linear.
func (s *saver) checkMerge() error {
	known, shapes := map[string]Linear{}, tensorShapes(s.m.arch)
	for _, l := range s.m.Linears() {
		known[l.Path] = l
	}
	for path, a := range s.merge {
		if d := s.m.arch.dims(); path == HeadPath || path == EmbeddingPath {
			if err := a.checkEnd(d); err != nil {
				return fmt.Errorf("merge: %w", err)
			}
			continue
		}
		if a.Virtual != nil {
			return errors.New("merge: virtual tokens are in no weight: save them as an adapter (SavePretrained)")
		}
		if a.Full != nil {
			if err := a.checkMergedCopy(shapes); err != nil {
				return fmt.Errorf("merge: %w", err)
			}
			continue
		}
		switch l, ok := known[path]; {
		case !ok:
			return fmt.Errorf("merge: the model has no linear %q", path)
		case a.Tuned != nil:
			if err := a.Tuned.check(path); err != nil {
				return fmt.Errorf("merge: %w", err)
			}
		case a.Shift != nil && (shapes[path+".bias"] == nil || len(a.Shift) != l.Out):
			return fmt.Errorf("merge: adapter on %q: its shift has %d values; it can be merged into a bias [%d], which the linear must have", path, len(a.Shift), l.Out)
		case a.Magnitude != nil && len(a.Magnitude) != l.Out:
			return fmt.Errorf("merge: adapter on %q: its magnitude has %d values, want [%d]", path, len(a.Magnitude), l.Out)
		case len(a.A) != a.R*l.In || len(a.B) != l.Out*a.R:
			return fmt.Errorf("merge: adapter on %q: A has %d values and B %d, want [%d, %d] and [%d, %d]", path, len(a.A), len(a.B), a.R, l.In, l.Out, a.R)
		}
	}
	return nil
}

// sources lists the checkpoint's tensors; each is made when its turn comes.
func (s *saver) sources() (all []safetensors.Source, err error) {
	shapes := tensorShapes(s.arch)
	for _, name := range slices.Sorted(maps.Keys(shapes)) {
		path := modulePath(name)
		if s.quantization != nil && s.reader.quantizesTensor(name, shapes[name]) {
			parts, err := s.quantizedSources(path, shapes[name])
			if err != nil {
				return nil, err
			}
			all = append(all, parts...)
			continue
		}
		all = append(all, safetensors.Source{
			Name: name, DType: fileDTypes[s.dtype], Shape: shapes[name],
			Data: func() ([]byte, error) {
				values, err := s.values(path, name)
				if err != nil {
					return nil, err
				}
				return floats.Encode(fileDTypes[s.dtype], values)
			},
		})
	}
	return all, nil
}

// modulePath is the module of a weight.
func modulePath(name string) string { return strings.TrimSuffix(name, ".weight") }

// values are a tensor's, with its adapter in it.
func (s *saver) values(path, name string) ([]float32, error) {
	if path == HeadPath || path == EmbeddingPath {
		return s.endTensor(name)
	}
	if a := s.merge[strings.TrimSuffix(path, ".bias")]; a.Full != nil {
		if name == path+".weight" {
			return slices.Clone(a.Full), nil
		}
		return slices.Clone(a.FullBias), nil
	}
	values, err := s.m.Tensor(name)
	if a, ok := s.merge[path]; ok && err == nil && name == path+".weight" && a.changesWeight() {
		a.addTo(values)
	}
	linear, ok := strings.CutSuffix(name, ".bias")
	if ok && err == nil && s.merge[linear].Tuned != nil && s.merge[linear].Tuned.Merge.Bias != nil {
		s.merge[linear].Tuned.Merge.Bias(values)
	}
	if ok && err == nil && s.merge[linear].Shift != nil {
		for i, v := range s.merge[linear].Shift {
			values[i] += float32(s.merge[linear].ShiftScale) * v
		}
	}
	return values, err
}

// quantizedSources are the tensors of a quantized weight. It is made to know them, kept but for the codes, and made
// again when those are to be written, so that memory never holds the codes of all.
func (s *saver) quantizedSources(path string, shape []int) (all []safetensors.Source, err error) {
	made, err := s.quantizedTensors(path, shape)
	if err != nil {
		return nil, err
	}
	for i, t := range made {
		source := safetensors.Source{Name: t.Name, DType: t.DType, Shape: t.Shape, Data: func() ([]byte, error) { return t.Data, nil }}
		if t.Name == path+".weight" {
			t.Data = nil
			source.Data = func() ([]byte, error) {
				again, err := s.quantizedTensors(path, shape)
				if err != nil {
					return nil, err
				}
				return again[i].Data, nil
			}
		}
		all = append(all, source)
	}
	return all, nil
}

func (s *saver) quantizedTensors(path string, shape []int) ([]quant.Tensor, error) {
	e, err := s.reader.encode(path, shape[0], shape[1])
	if err != nil {
		return nil, err
	}
	if f, ok := s.reader.src.(*folder); e.state != nil && !(ok && f.quantization != nil) {
		e.state.DType = s.dtype // that of the weight it would be
	}
	if a, ok := s.merge[path]; ok && a.changesWeight() {
		if e, err = s.merged(e, a); err != nil {
			return nil, fmt.Errorf("merge %q: %w", path, err)
		}
	}
	return e.stateDict(path+".weight", s.quantization)
}

// merged decodes a weight, adds an adapter and quantizes it again.
func (s *saver) merged(e encoded, a LoRA) (encoded, error) {
	values, err := e.values()
	if err != nil {
		return e, err
	}
	a.addTo(values)
	return e.again(values)
}

// addTo adds Scaling·B·A to a weight [Out, In], in float32, and gives the rows of a DoRA their lengths; of another tuner it does
// what that does.
func (l LoRA) addTo(w []float32) {
	if l.Tuned != nil {
		l.Tuned.Merge.Weight(w)
		return
	}
	in := len(l.A) / l.R
	floats.InParallel(len(w)/in, 16, func(lo, hi int) {
		for row := lo; row < hi; row++ {
			dst := w[row*in : (row+1)*in]
			delta := make([]float32, in)
			for k, b := range l.B[row*l.R : (row+1)*l.R] {
				for i, a := range l.A[k*in : (k+1)*in] {
					delta[i] += b * a
				}
			}
			for i := range dst {
				dst[i] += float32(l.Scaling) * delta[i]
			}
			if l.Magnitude != nil {
				scaleRow(dst, l.Magnitude[row])
			}
		}
	})
}

// scaleRow gives a row a length; one of zeros stays so.
func scaleRow(row []float32, length float32) {
	square := 0.0
	for _, v := range row {
		square += float64(v) * float64(v)
	}
	if square == 0 {
		return
	}
	factor := float32(float64(length) / math.Sqrt(square))
	for i := range row {
		row[i] *= factor
	}
}

// newReader reads what the model was loaded from, if it is quantized.
func (m *CausalLM) newReader() *reader {
	return &reader{src: m.src, dtype: dtypes.Float32, quantization: m.options.Quantization, replaced: m.replaced}
}

// Tensor returns a weight by its name in the checkpoint, as float32: a quantized one as the values that it stands for.
func (m *CausalLM) Tensor(name string) (values []float32, err error) {
	r, shape := m.newReader(), tensorShapes(m.arch)[name]
	if !r.quantizesTensor(name, shape) {
		return m.download(name)
	}
	defer func() { err = errors.Join(err, r.staging.free()) }()
	e, err := r.encode(strings.TrimSuffix(name, ".weight"), shape[0], shape[1])
	if err != nil {
		return nil, err
	}
	return e.values()
}

// download gets a weight from the device.
func (m *CausalLM) download(name string) ([]float32, error) {
	switch name {
	case "model.embed_tokens.weight":
		if m.run.Embed.Table == nil {
			return m.run.Embed.Float32s()
		}
		return backend.DownloadFloats(m.run.Embed.Table)
	case "model.norm.weight":
		return backend.DownloadFloats(m.run.Norm)
	case "lm_head.weight":
		if m.run.Head == nil {
			return nil, errors.New(`tensor "lm_head.weight": the head is tied to the embedding`)
		}
		return backend.DownloadFloats(m.run.Head)
	}
	for i, w := range m.run.Layers {
		for j, slot := range w.Layout.Slots {
			at := 0
			for _, p := range slot.Parts {
				if layerPrefix(i)+p.Name == name {
					return rowsOf(w.Tensors[j], at, p.Rows)
				}
				at += p.Rows
			}
		}
	}
	return nil, fmt.Errorf("tensor %q: the model has no such weight", name)
}

// rowsOf downloads rows [from, from+n) of a tensor.
func rowsOf(t *tensors.Tensor, from, n int) ([]float32, error) {
	values, err := backend.DownloadFloats(t)
	if err != nil {
		return nil, err
	}
	width := len(values) / t.Shape().Dim(0)
	return values[from*width : (from+n)*width], nil
}
