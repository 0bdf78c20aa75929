package models

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/loris-ml/loris/internal/gguf"
)

// GGUFOptions says how a model is written as GGUF. The zero value is the common case.
type GGUFOptions struct {
	// Type of the matrices: "f32", "f16", "bf16", "q8_0" or "q4_0". Zero: that of the weights on the device, "bf16" where they
	// are quantized. Vectors are f32, and matrices with rows that are no whole blocks f16, as in llama.cpp's
	// own files.
	Type string
	// Merge is added to the weights, as [SaveOptions.Merge] is, and checked so, before they are rounded to Type.
	Merge []LoRA
	// SkipCheck merges unchecked, where the device has no memory for the merged weights.
	SkipCheck bool
	// Tokenizer goes into the file with its chat templates: a *tokenizer.Tokenizer. Nil: that of the GGUF file that the model
	// was loaded from, which must still be there; for other models the file has none, and takes token ids only.
	Tokenizer interface {
		// GGUFMetadata returns the keys tokenizer.* for a model whose embedding has so many rows.
		GGUFMetadata(rows int) (map[string]any, error)
	}
}

// ggufTypes are the types of GGUFOptions, with llama.cpp's general.file_type.
var ggufTypes = map[string]struct {
	tensor   gguf.Type
	fileType uint32
}{"f32": {gguf.F32, 0}, "f16": {gguf.F16, 1}, "q4_0": {gguf.Q4_0, 2}, "q8_0": {gguf.Q8_0, 7}, "bf16": {gguf.BF16, 32}}

// SaveGGUF writes the model as one file that llama.cpp loads. Quantized weights are written as the values that they stand
// for. What llama.cpp cannot compute is an [*UnsupportedError].
func (m *CausalLM) SaveGGUF(path string, o GGUFOptions) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("save GGUF: %w", err)
		}
	}()
	if o.Type == "" {
		o.Type = "bf16"
		if !quantized(m.options.Quantization) {
			o.Type = map[DType]string{Float32: "f32", Float16: "f16", BFloat16: "bf16"}[m.format()]
		}
	}
	t, ok := ggufTypes[o.Type]
	if !ok {
		return &UnsupportedError{Field: "GGUFOptions.Type", Value: fmt.Sprintf("%q", o.Type), Supported: known(ggufTypes)}
	}
	s, err := m.newSaver(SaveOptions{Dequantize: true, Merge: o.Merge})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.reader.staging.free()) }()
	w, err := m.ggufWriter()
	if err != nil {
		return err
	}
	if err := w.family.toGGUF(&w.ggufWriter); err != nil {
		return err
	}
	for _, path := range []string{EmbeddingPath, HeadPath} {
		if _, ok := s.merge[path]; ok {
			return fmt.Errorf("save GGUF: what is trained of %q is not merged into GGUF files; save a folder (SaveMerged), load that and save it as GGUF", path)
		}
	}
	if len(o.Merge) > 0 && !o.SkipCheck {
		if err := s.checkLogits(o.Merge); err != nil {
			return err
		}
	}
	vocabulary, err := m.ggufTokenizer(o)
	if err != nil {
		return err
	}
	pairs := slices.Concat([]gguf.Pair{
		{Key: "general.architecture", Value: w.arch}, {Key: "general.type", Value: "model"},
		{Key: "general.file_type", Value: t.fileType}, {Key: "general.quantization_version", Value: uint32(2)},
	}, w.pairs, vocabulary)
	return gguf.Write(path, pairs, append(w.tensors, s.ggufSources(w.family, t.tensor)...))
}

// familyWriter writes the metadata of the model's family.
type familyWriter struct {
	ggufWriter
	family ggufFamily
}

func (m *CausalLM) ggufWriter() (*familyWriter, error) {
	family, ok := m.arch.(ggufFamily)
	if !ok {
		return nil, &UnsupportedError{Field: "model_type", Value: m.arch.ModelType(), Supported: known(ggufFamilies)}
	}
	return &familyWriter{ggufWriter{arch: ggufArchitecture(m.arch.ModelType()), warn: m.options.logger().Warn}, family}, nil
}

// ggufTokenizer returns the metadata about the tokenizer.
func (m *CausalLM) ggufTokenizer(o GGUFOptions) (pairs []gguf.Pair, err error) {
	switch {
	case o.Tokenizer != nil:
		keys, err := o.Tokenizer.GGUFMetadata(m.arch.dims().vocab)
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			pairs = append(pairs, gguf.Pair{Key: key, Value: keys[key]})
		}
		return pairs, err
	case strings.HasSuffix(strings.ToLower(m.path), ".gguf"):
		if pairs, err = copiedTokenizer(m.path); err != nil {
			return nil, fmt.Errorf("tokenizer: %w", err)
		}
	}
	if len(pairs) == 0 {
		m.options.logger().Warn("the GGUF file has no tokenizer: llama.cpp will take token ids only", "model", m.path, "see", "models.GGUFOptions.Tokenizer")
		pairs = []gguf.Pair{{Key: "tokenizer.ggml.model", Value: "none"}}
	}
	return pairs, nil
}

// copiedTokenizer returns what a file says of its tokenizer.
func copiedTokenizer(path string) (pairs []gguf.Pair, err error) {
	f, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	for _, key := range f.Metadata().Keys() {
		if strings.HasPrefix(key, "tokenizer.") {
			v, _ := f.Metadata().Value(key)
			pairs = append(pairs, gguf.Pair{Key: key, Value: v})
		}
	}
	return pairs, f.Close()
}

// ggufSources lists the file's tensors; each is made when its turn comes.
func (s *saver) ggufSources(family ggufFamily, matrices gguf.Type) (all []gguf.Source) {
	shapes := tensorShapes(s.m.arch)
	for _, name := range slices.Sorted(maps.Keys(shapes)) {
		place, shape, t := family.ggufLayout().tensor(family, name), shapes[name], matrices
		switch {
		case len(shape) < 2:
			t = gguf.F32
		case shape[1]%t.BlockSize() != 0:
			t = gguf.F16
		}
		all = append(all, gguf.Source{Name: place.name, Shape: shape, Type: t, Data: func() ([]byte, error) {
			values, err := s.values(modulePath(name), name)
			if err != nil {
				return nil, err
			}
			return gguf.Encode(t, place.store(values))
		}})
	}
	return all
}

// store puts values and rows as the file has them.
func (t ggufTensor) store(values []float32) []float32 {
	if t.plus != 0 {
		for i := range values {
			values[i] += t.plus
		}
	}
	if t.rows == nil {
		return values
	}
	out, width := make([]float32, len(values)), len(values)/len(t.rows)
	for i, row := range t.rows {
		copy(out[row*width:(row+1)*width], values[i*width:])
	}
	return out
}

// SaveGGUFAdapter writes adapters as the file that llama.cpp's --lora reads, in f32. The file has one alpha for all, and
// llama.cpp scales by alpha/rank: where an adapter's Scaling is another, its B is multiplied by the quotient. Package peft
// calls it.
func (m *CausalLM) SaveGGUFAdapter(path string, alpha float64, loras []LoRA) error {
	w, err := m.ggufWriter()
	if err != nil {
		return fmt.Errorf("save GGUF adapter: %w", err)
	}
	if !(alpha > 0) || len(loras) == 0 {
		return fmt.Errorf("save GGUF adapter: alpha is %v for %d adapters, want a positive number and one adapter at least", alpha, len(loras))
	}
	s, err := m.newSaver(SaveOptions{Merge: loras}) // which checks them
	if err != nil {
		return fmt.Errorf("save GGUF adapter: %w", err)
	}
	for _, path := range []string{EmbeddingPath, HeadPath} {
		if _, ok := s.merge[path]; ok {
			return fmt.Errorf("save GGUF adapter: an adapter on %q is not written; merge it (SaveMerged)", path)
		}
	}
	layout, shapes := w.family.ggufLayout(), tensorShapes(m.arch)
	var tensors []gguf.Source
	for _, path := range slices.Sorted(maps.Keys(s.merge)) {
		l, name := s.merge[path], path+".weight"
		place := layout.tensor(m.arch, name)
		b := slices.Clone(l.B)
		if factor := float32(l.Scaling * float64(l.R) / alpha); factor != 1 {
			for i := range b {
				b[i] *= factor
			}
		}
		tensors = append(tensors,
			gguf.Source{Name: place.name + ".lora_a", Shape: []int{l.R, shapes[name][1]}, Type: gguf.F32, Data: func() ([]byte, error) { return gguf.Encode(gguf.F32, l.A) }},
			gguf.Source{Name: place.name + ".lora_b", Shape: []int{shapes[name][0], l.R}, Type: gguf.F32, Data: func() ([]byte, error) { return gguf.Encode(gguf.F32, place.store(b)) }})
	}
	return gguf.Write(path, []gguf.Pair{
		{Key: "general.architecture", Value: w.arch}, {Key: "general.type", Value: "adapter"}, {Key: "general.file_type", Value: uint32(0)},
		{Key: "adapter.type", Value: "lora"}, {Key: "adapter.lora.alpha", Value: float32(alpha)},
	}, tensors)
}
