package models

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/gomlx/compute/dtypes"

	"github.com/loris-ml/loris/internal/gguf"
)

// ggufFamily is a family that llama.cpp knows, and how it knows it.
type ggufFamily interface {
	Architecture
	// fromGGUF reads the configuration from a file's metadata.
	fromGGUF(g *ggufReader) error
	// toGGUF writes it. What llama.cpp cannot compute is an *UnsupportedError.
	toGGUF(w *ggufWriter) error
	ggufLayout() ggufLayout
}

// ggufFamilies are the families of GGUF files, by general.architecture. Mistral's are llama files, which say nothing of a
// window.
var ggufFamilies = map[string]func() ggufFamily{
	"llama":   func() ggufFamily { return &LlamaConfig{Type: "llama"} },
	"qwen2":   func() ggufFamily { return &Qwen2Config{} },
	"qwen3":   func() ggufFamily { return &Qwen3Config{} },
	"gemma":   func() ggufFamily { return &GemmaConfig{} },
	"gemma2":  func() ggufFamily { return newGemma2().(*Gemma2Config) },
	"gemma3":  func() ggufFamily { return &Gemma3Config{} },
	"phi3":    func() ggufFamily { return &Phi3Config{} },
	"granite": func() ggufFamily { return &GraniteConfig{} },
}

// ggufArchitectures are general.architecture by model_type, where they differ.
var ggufArchitectures = map[string]string{"mistral": "llama", "gemma3_text": "gemma3"}

// ggufArchitecture is the general.architecture of a model_type.
func ggufArchitecture(modelType string) string {
	if name, ok := ggufArchitectures[modelType]; ok {
		return name
	}
	return modelType
}

// ggufLayout is how llama.cpp stores the tensors of a family.
type ggufLayout struct {
	names      *strings.Replacer // transformers' names → llama.cpp's
	neighbours bool              // RoPE rotates neighbouring rows of q and k, not halves of a head
	unitOffset bool              // norms are stored with 1 added, so that they multiply as they are
}

// ggufTensor is how a file stores a tensor of the checkpoint.
type ggufTensor struct {
	name string
	rows []int   // the stored row of each row in transformers' order; nil: the same
	plus float32 // what is added to transformers' values
}

// tensor returns how a family stores the tensor of a name.
//
// Where RoPE rotates neighbours, row i of the first half of a head is stored at 2i, row i of the second at 2i+1.
func (l ggufLayout) tensor(arch Architecture, name string) ggufTensor {
	t := ggufTensor{name: l.names.Replace(name)}
	if l.unitOffset && strings.HasSuffix(name, "norm.weight") {
		t.plus = 1
	}
	shape, heads := arch.dims().shape, 0
	switch {
	case !l.neighbours:
	case strings.Contains(name, "self_attn.q_proj."):
		heads = shape.Heads
	case strings.Contains(name, "self_attn.k_proj."):
		heads = shape.KVHeads
	}
	if heads > 0 {
		t.rows = neighbouring(heads, shape.HeadDim)
	}
	return t
}

// neighbouring returns the stored row of each row of q or k.
func neighbouring(heads, dim int) []int {
	rows := make([]int, heads*dim)
	for i := range rows {
		head, at := i/dim, i%dim
		half := at / (dim / 2)
		rows[i] = head*dim + 2*(at-half*(dim/2)) + half
	}
	return rows
}

// llamaGGUFNames are the names in files of most families.
var llamaGGUFNames = strings.NewReplacer(append(commonGGUFNames, "post_attention_layernorm.", "ffn_norm.")...)

// sandwichGGUFNames are those of families with a norm behind each sublayer.
var sandwichGGUFNames = strings.NewReplacer(append(commonGGUFNames,
	"post_attention_layernorm.", "post_attention_norm.", "pre_feedforward_layernorm.", "ffn_norm.", "post_feedforward_layernorm.", "post_ffw_norm.")...)

var commonGGUFNames = []string{
	"model.embed_tokens.", "token_embd.", "model.norm.", "output_norm.", "lm_head.", "output.", "model.layers.", "blk.",
	"input_layernorm.", "attn_norm.", "self_attn.q_norm.", "attn_q_norm.", "self_attn.k_norm.", "attn_k_norm.",
	"self_attn.q_proj.", "attn_q.", "self_attn.k_proj.", "attn_k.", "self_attn.v_proj.", "attn_v.", "self_attn.o_proj.", "attn_output.",
	"self_attn.qkv_proj.", "attn_qkv.", "mlp.gate_up_proj.", "ffn_up.",
	"mlp.gate_proj.", "ffn_gate.", "mlp.up_proj.", "ffn_up.", "mlp.down_proj.", "ffn_down.",
}

// openGGUF opens a GGUF file of a known architecture.
func openGGUF(path string) (Architecture, source, error) {
	f, err := gguf.Open(path)
	if err != nil {
		return nil, nil, err
	}
	fail := func(err error) (Architecture, source, error) {
		return nil, nil, errors.Join(err, f.Close())
	}
	if kind, ok := f.Metadata().String("general.type"); ok && kind != "model" {
		return fail(&UnsupportedError{Path: path, Field: "general.type", Value: fmt.Sprintf("%q", kind), Supported: "model"})
	}
	name, _ := f.Metadata().String("general.architecture")
	family, ok := ggufFamilies[name]
	if !ok {
		return fail(&UnsupportedError{Path: path, Field: "general.architecture", Value: fmt.Sprintf("%q", name), Supported: known(ggufFamilies)})
	}
	arch := family()
	err = arch.fromGGUF(&ggufReader{f.Metadata(), f, name})
	if err == nil {
		err = arch.Validate()
	}
	src := &ggufSource{file: f, arch: arch}
	if err == nil {
		err = src.checkContents()
	}
	if err != nil {
		var u *UnsupportedError
		if errors.As(err, &u) {
			u.Path = path
			return fail(u)
		}
		return fail(fmt.Errorf("%s: %w", path, err))
	}
	return arch, src, nil
}

// ggufSource answers transformers' tensor names from a GGUF file.
type ggufSource struct {
	file  *gguf.File
	arch  ggufFamily
	known sync.Map // transformers' name → ggufTensor
}

func (g *ggufSource) place(name string) ggufTensor {
	if p, ok := g.known.Load(name); ok {
		return p.(ggufTensor)
	}
	t := g.arch.ggufLayout().tensor(g.arch, name)
	g.known.Store(name, t)
	return t
}

// checkContents reports tensors of the file that the model would not use: they would be of another model.
func (g *ggufSource) checkContents() error {
	infos, d := g.file.Tensors(), g.arch.dims()
	if d.layers > len(infos) {
		return fmt.Errorf("metadata say %d layers, but the file has %d tensors in all", d.layers, len(infos))
	}
	wanted := map[string]bool{ropeFreqs: true, ropeFactorsLong: true, ropeFactorsShort: true}
	for name := range tensorShapes(g.arch) {
		wanted[g.place(name).name] = true
	}
	var unknown []string
	for _, info := range infos {
		if !wanted[info.Name] {
			unknown = append(unknown, info.Name)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	slices.Sort(unknown)
	return &UnsupportedError{Field: "tensors", Value: strings.Join(unknown[:min(len(unknown), 4)], ", "), Supported: fmt.Sprintf("the tensors of model_type %q", g.arch.ModelType())}
}

func (g *ggufSource) shape(name string) ([]int, bool) {
	t, ok := g.file.Tensor(g.place(name).name)
	return t.Shape, ok
}

// stored leaves tensors that are stored otherwise than transformers has them to float32s.
func (g *ggufSource) stored(name string) (dtypes.DType, bool) {
	p := g.place(name)
	t, _ := g.file.Tensor(p.name)
	dtype, ok := weightDType(t.Type.String())
	return dtype, ok && p.rows == nil && p.plus == 0
}

func (g *ggufSource) read(dst []byte, name string, at int) error {
	dtype, _ := g.stored(name)
	return g.file.ReadInto(dst, g.place(name).name, int64(at)*int64(dtype.Size()))
}

// float32s gives values and rows as transformers has them.
func (g *ggufSource) float32s(dst []float32, name string, at int) error {
	p := g.place(name)
	if p.rows != nil {
		return g.permuted(dst, p, at)
	}
	if err := g.file.ReadFloat32(dst, p.name, at); err != nil {
		return err
	}
	if p.plus != 0 {
		for i := range dst {
			dst[i] -= p.plus
		}
	}
	return nil
}

// permuted puts rows into transformers' order.
func (g *ggufSource) permuted(dst []float32, p ggufTensor, at int) error {
	t, _ := g.file.Tensor(p.name)
	if len(t.Shape) == 0 || t.Shape[0] != len(p.rows) {
		return fmt.Errorf("%s: tensor %q has shape %v, which is not %d rows", g.file.Path(), p.name, t.Shape, len(p.rows))
	}
	if len(t.Shape) == 1 { // a bias: too short to be read row by row
		all, err := g.file.Float32(p.name)
		if err != nil {
			return err
		}
		for i := range dst {
			dst[i] = all[p.rows[at+i]]
		}
		return nil
	}
	width := size(t.Shape[1:])
	for row := at / width; len(dst) > 0; row++ {
		if err := g.file.ReadFloat32(dst[:width], p.name, p.rows[row]*width); err != nil {
			return err
		}
		dst = dst[width:]
	}
	return nil
}

func (g *ggufSource) path() string { return g.file.Path() }
func (g *ggufSource) Close() error { return g.file.Close() }
