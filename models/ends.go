package models

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/gomlx/compute/dtypes"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/safetensors/floats"
)

// Paths of the model's ends.
const (
	EmbeddingPath = "model." + layerwise.EmbedName
	HeadPath      = layerwise.HeadName
)

// Embedding is the embedding as a linear of one-hot vectors: A [R, In] of a LoRA on it has a column for each token.
func (m *CausalLM) Embedding() Linear {
	d := m.arch.dims()
	return Linear{Path: EmbeddingPath, In: d.vocab, Out: d.shape.Hidden}
}

// Tied tells whether the head is the embedding's weight.
func (m *CausalLM) Tied() bool { return m.arch.dims().tied }

// endsKind marks the layout of adapters at the ends.
const endsKind = "ends"

// endLinears are embedding and head as linears, by their paths.
func endLinears(d dims) map[string]nn.Linear {
	return map[string]nn.Linear{
		EmbeddingPath: {Name: layerwise.EmbedName, In: d.vocab, Out: d.shape.Hidden},
		HeadPath:      {Name: layerwise.HeadName, In: d.shape.Hidden, Out: d.vocab},
	}
}

// newEnds uploads what byPath has for the model's ends, and takes it out; nil if it has nothing.
func (m *CausalLM) newEnds(byPath map[string]LoRA) (_ *nn.Weights, err error) {
	d := m.arch.dims()
	b, w := nn.NewLayout(), &nn.Weights{}
	b.Kind(endsKind)
	defer func() {
		if err != nil {
			err = errors.Join(err, backend.Free(w.Tensors...))
		}
	}()
	for _, path := range []string{EmbeddingPath, HeadPath} {
		l, ok := byPath[path]
		if !ok {
			continue
		}
		delete(byPath, path)
		if err := l.checkEnd(d); err != nil {
			return nil, err
		}
		if err := m.uploadEnd(b, w, endLinears(d)[path], l); err != nil {
			return nil, err
		}
	}
	if l, ok := byPath[NormPath]; ok {
		delete(byPath, NormPath)
		if err := m.addNorm(b, w, nn.Norm{Name: layerwise.NormName, Size: d.shape.Hidden}, l); err != nil {
			return nil, err
		}
	}
	virtual := byPath[VirtualPath].Virtual
	if delete(byPath, VirtualPath); virtual != nil {
		if err := m.addVirtual(b, w, virtual); err != nil {
			return nil, err
		}
	}
	if w.Layout = b.Build(); len(w.Tensors) == 0 && virtual == nil {
		return nil, nil
	}
	return w, nil
}

// uploadEnd appends what is trained at one end.
func (m *CausalLM) uploadEnd(b *nn.LayoutBuilder, w *nn.Weights, lin nn.Linear, l LoRA) error {
	hidden := m.arch.dims().shape.Hidden
	if l.R > 0 {
		b.Adapter(lin, nn.Adapter{R: l.R, Scaling: l.Scaling, Dropout: l.Dropout})
		return m.upload(w, lin, l, nil)
	}
	values := l.Full
	if l.Tokens != nil {
		values = l.Rows
	}
	t, err := backend.UploadValues(m.run.Device, values, len(values)/hidden, hidden)
	if err != nil {
		return err
	}
	w.Tensors = append(w.Tensors, t)
	if l.Tokens == nil {
		b.Dense([]nn.Linear{{Name: lin.Name, In: hidden, Out: len(values) / hidden}}, dtypes.Float32, true)
		if l.TieHead {
			b.TieHead()
		}
		return nil
	}
	var ids []int32
	for _, id := range l.Tokens {
		ids = append(ids, int32(id))
	}
	b.Tokens(ids, hidden)
	return nil
}

// checkEnd checks what is trained at an end: a LoRA, a copy of the weight, or rows of some tokens.
func (l LoRA) checkEnd(d dims) error {
	kinds, hidden := 0, d.shape.Hidden
	for _, some := range []bool{l.R > 0, l.Full != nil, l.Tokens != nil} {
		if some {
			kinds++
		}
	}
	switch {
	case l.Tuned != nil:
		return fmt.Errorf("adapter on %q: at the model's ends there are LoRAs alone; exclude it", l.Path)
	case kinds != 1:
		return fmt.Errorf("adapter on %q: want one of a LoRA, a copy of the weight and rows of tokens, got %d", l.Path, kinds)
	case l.Magnitude != nil || l.Shift != nil || l.PadTo != 0:
		return fmt.Errorf("adapter on %q: at the model's ends, adapters have A and B alone", l.Path)
	case l.R > 0:
		return l.check(endLinears(d)[l.Path])
	case l.Full != nil && len(l.Full) != d.vocab*hidden:
		return fmt.Errorf("adapter on %q: its copy of the weight has %d values, want [%d, %d]", l.Path, len(l.Full), d.vocab, hidden)
	case l.Tokens != nil && len(l.Rows) != len(l.Tokens)*hidden:
		return fmt.Errorf("adapter on %q: its rows have %d values, want [%d, %d]", l.Path, len(l.Rows), len(l.Tokens), hidden)
	case l.TieHead && (l.Full == nil || l.Path != EmbeddingPath || !d.tied):
		return fmt.Errorf("adapter on %q: the head can have a copy of the embedding that it is tied to, and of nothing else", l.Path)
	case l.Tokens != nil && l.Path != EmbeddingPath:
		return fmt.Errorf("adapter on %q: rows of tokens are the embedding's", l.Path)
	}
	for i, id := range l.Tokens {
		if id < 0 || id >= d.vocab {
			return fmt.Errorf("token %d is outside the model's vocabulary of %d", id, d.vocab)
		}
		if slices.Contains(l.Tokens[:i], id) {
			return fmt.Errorf("token %d is named twice", id)
		}
	}
	return nil
}

// endValues downloads the adapters at the ends.
func endValues(w *nn.Weights, out map[string]LoRA) (err error) {
	paths := map[string]string{layerwise.EmbedName: EmbeddingPath, layerwise.HeadName: HeadPath}
	download := func(slot int) (values []float32) {
		if err == nil {
			values, err = backend.DownloadFloats(w.Tensors[slot])
		}
		return values
	}
	for _, a := range w.Layout.Adapters() {
		at, bt, _ := a.Slots()
		out[paths[a.Linear]] = LoRA{R: a.R, A: download(at), B: download(bt)}
	}
	if slot, tokens := w.Layout.Tokens(); tokens != nil {
		out[EmbeddingPath] = LoRA{Rows: download(slot)}
	}
	for i, s := range w.Layout.Slots {
		for name, path := range paths {
			if s.Parts[0].Name == name+".weight" {
				out[path] = LoRA{Full: download(i)}
			}
		}
	}
	return err
}

// mergeEnd returns the weight [vocab, hidden] of an end, values, with what is trained there in it.
func (l LoRA) mergeEnd(values []float32, hidden int) []float32 {
	switch {
	case l.Full != nil:
		return slices.Clone(l.Full)
	case l.Tokens != nil:
		for i, id := range l.Tokens {
			copy(values[id*hidden:(id+1)*hidden], l.Rows[i*hidden:(i+1)*hidden])
		}
	case l.Path == HeadPath:
		l.addTo(values)
	default: // the product of A [R, vocab] and B [hidden, R] of the embedding is the weight's transpose
		vocab := len(values) / hidden
		floats.InParallel(vocab, 16, func(lo, hi int) {
			for id := lo; id < hi; id++ {
				for h := range hidden {
					sum := float32(0)
					for k := range l.R {
						sum += l.A[k*vocab+id] * l.B[h*l.R+k]
					}
					values[id*hidden+h] += float32(l.Scaling) * sum
				}
			}
		})
	}
	return values
}

// endTensor is the weight of an end as it is to be saved: of a head that is no longer tied, too.
func (s *saver) endTensor(name string) ([]float32, error) {
	path, from := modulePath(name), name
	if path == HeadPath && s.untied {
		from = embeddingName
	}
	values, err := s.m.Tensor(from)
	if err != nil {
		return nil, err
	}
	hidden := s.m.arch.dims().shape.Hidden
	if e, ok := s.merge[EmbeddingPath]; ok && path == HeadPath && s.untied && e.Tokens != nil {
		values = e.mergeEnd(values, hidden)
	}
	if l, ok := s.merge[path]; ok {
		values = l.mergeEnd(values, hidden)
	}
	return values, nil
}

// untie finds out whether merging makes head and embedding differ, and the architecture that is to be saved then.
func (s *saver) untie() error {
	e, embed := s.merge[EmbeddingPath]
	_, head := s.merge[HeadPath]
	if s.untied = s.m.Tied() && (head || embed && e.Tokens == nil && !e.TieHead); !s.untied {
		return nil
	}
	raw, err := s.m.configJSON(s.format, nil, true)
	if err != nil {
		return err
	}
	s.arch = families[s.m.arch.ModelType()]()
	return json.Unmarshal(raw, s.arch)
}
