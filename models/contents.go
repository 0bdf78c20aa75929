package models

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/loris-ml/loris/internal/nn"
)

// TensorsError reports a checkpoint whose tensors are not those that its config.json describes.
type TensorsError struct {
	Path      string
	ModelType string
	Missing   []string // names
	Unknown   []string // names
	Misshapen []string // names with both shapes
}

func (e *TensorsError) Error() string {
	var parts []string
	for _, p := range []struct {
		what  string
		names []string
	}{{"missing", e.Missing}, {"unknown", e.Unknown}, {"of another shape", e.Misshapen}} {
		if len(p.names) > 0 {
			parts = append(parts, fmt.Sprintf("%d %s: %s", len(p.names), p.what, strings.Join(p.names, ", ")))
		}
	}
	return fmt.Sprintf("%s: the tensors are not those of the %q that config.json describes: %s; fields that often contradict are num_hidden_layers, head_dim, tie_word_embeddings and attention_bias",
		e.Path, e.ModelType, strings.Join(parts, "; "))
}

// checkContents compares the tensors of a folder with those that its config asks for, by name and shape, and reports all
// differences at once.
func (f *folder) checkContents(arch Architecture) error {
	c := &contents{folder: f, wanted: map[string]bool{}, err: TensorsError{Path: f.dir, ModelType: arch.ModelType()}}
	d, block, names := arch.dims(), arch.tensors(), f.set.Names()
	for name, shape := range endShapes(d) {
		c.want(name, shape)
	}
	layers := min(d.layers, len(names)+1) // no more can be there
	for i := range layers {
		for name, shape := range layerShapes(block, i) {
			c.want(name, shape)
		}
	}
	if layers < d.layers {
		c.err.Missing = append(c.err.Missing, fmt.Sprintf("all of layers %d to %d", layers, d.layers-1))
	}
	for _, name := range names {
		if !c.wanted[name] && !c.ignored(name, d.tied) {
			c.err.Unknown = append(c.err.Unknown, name)
		}
	}
	slices.Sort(c.err.Missing)
	slices.Sort(c.err.Unknown)
	slices.Sort(c.err.Misshapen)
	if len(c.err.Missing)+len(c.err.Unknown)+len(c.err.Misshapen) > 0 {
		return &c.err
	}
	if d.tied {
		return f.checkTied()
	}
	return nil
}

// contents is a comparison under way.
type contents struct {
	*folder
	wanted map[string]bool // by the folder's names
	err    TensorsError
}

func (c *contents) want(name string, shape []int) {
	stored := c.at(name)
	c.wanted[stored] = true
	info, ok := c.set.Info(stored)
	switch {
	case !ok:
		c.err.Missing = append(c.err.Missing, stored)
	case c.quantization != nil && c.holdsQuantized(name): // checked when it is read
	case !slices.Equal(info.Shape, shape):
		c.err.Misshapen = append(c.err.Misshapen, fmt.Sprintf("%s is %v, config.json says %v", stored, info.Shape, shape))
	}
}

// ignored tells whether a tensor that the config does not ask for is nothing to the model: frequencies that old versions
// saved, a head that is the embedding once more, the numbers beside a quantized weight, or, where the language model is
// part of a larger one, the others.
func (c *contents) ignored(name string, tied bool) bool {
	if strings.HasSuffix(name, ".rotary_emb.inv_freq") || tied && name == c.at(headName) {
		return true
	}
	if c.quantization != nil {
		module := name
		for {
			at := strings.LastIndexByte(module, '.')
			if at < 0 {
				break
			}
			if module = module[:at]; c.wanted[module] || c.wanted[module+".weight"] && !strings.HasSuffix(name, ".bias") {
				return true
			}
		}
	}
	if c.renamed == nil {
		return false
	}
	for _, prefix := range c.renamed {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	return true
}

const (
	embeddingName = "model.embed_tokens.weight"
	headName      = "lm_head.weight"
)

// checkTied reports a head of its own beside a config that says it is the embedding: transformers would use it.
func (f *folder) checkTied() error {
	head, ok := f.set.Info(f.at(headName))
	embedding, _ := f.set.Info(f.at(embeddingName))
	if !ok || f.quantization != nil {
		return nil
	}
	differs := head.DType != embedding.DType || !slices.Equal(head.Shape, embedding.Shape)
	const piece = 1 << 22
	for at := int64(0); !differs && at < head.Size; at += piece {
		n := min(piece, head.Size-at)
		a, err := f.set.ReadRange(f.at(headName), at, n)
		if err != nil {
			return err
		}
		b, err := f.set.ReadRange(f.at(embeddingName), at, n)
		if err != nil {
			return err
		}
		differs = !bytes.Equal(a, b)
	}
	if differs {
		return fmt.Errorf("%s: config.json says tie_word_embeddings, but %s is not %s; set tie_word_embeddings to false", f.dir, f.at(headName), f.at(embeddingName))
	}
	return nil
}

// endShapes are the tensors outside of the layers.
func endShapes(d dims) map[string][]int {
	out := map[string][]int{
		embeddingName:       {d.vocab, d.shape.Hidden},
		"model.norm.weight": {d.shape.Hidden},
	}
	if !d.tied {
		out[headName] = []int{d.vocab, d.shape.Hidden}
	}
	return out
}

// layerShapes are the tensors of layer i.
func layerShapes(block nn.Block, i int) map[string][]int {
	out, prefix := map[string][]int{}, layerPrefix(i)
	for _, n := range block.Norms {
		out[prefix+n.Name+".weight"] = []int{n.Size}
	}
	for _, l := range block.Linears() {
		out[prefix+l.Name+".weight"] = []int{l.Out, l.In}
		if l.Bias {
			out[prefix+l.Name+".bias"] = []int{l.Out}
		}
	}
	return out
}
