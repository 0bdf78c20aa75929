package models

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/atomicfile"
	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/safetensors"
)

// SavePretrained writes config.json and model.safetensors (sharded above 5 GB) as transformers reads them, in the
// format that the weights have on the device. The folder is made if it does not exist. A model quantized to 4 bits is
// refused: save its adapter.
func (m *CausalLM) SavePretrained(dir string) error { return m.SaveAs(dir, DefaultDType) }

// SaveAs is SavePretrained in another format. The zero DType keeps the weights' own.
func (m *CausalLM) SaveAs(dir string, dtype DType) error {
	if q := m.options.Quantization; q != nil && q.LoadIn4Bit {
		return errors.New("save: the base model is quantized to 4 bits; save the adapter with peft's SavePretrained, or load the model without quantization")
	}
	format := dtype
	if format == DefaultDType {
		if format = Float32; m.run.Norm.DType().Size() == 2 {
			format = BFloat16
		}
	}
	names := map[DType]string{Float32: "F32", BFloat16: "BF16"}
	if names[format] == "" {
		return &UnsupportedError{Field: "DType", Value: dtype, Supported: "float32, bfloat16"}
	}
	config, err := m.configJSON(format)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save model: %w", err)
	}
	if err := safetensors.WriteSharded(dir, m.savedTensors(format, names[format]), 0, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	return atomicfile.WriteBytes(filepath.Join(dir, "config.json"), config)
}

// configJSON is the configuration with what transformers wants beside it.
func (m *CausalLM) configJSON(format DType) ([]byte, error) {
	raw, err := json.Marshal(m.arch)
	if err != nil {
		return nil, err
	}
	all := map[string]any{}
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, err
	}
	all["model_type"] = m.arch.ModelType()
	all["architectures"] = []string{architectureNames[m.arch.ModelType()]}
	all["torch_dtype"] = format
	out, err := json.MarshalIndent(all, "", "  ")
	return append(out, '\n'), err
}

// architectureNames are transformers' classes by model_type.
var architectureNames = map[string]string{"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}

// savedTensors lists the checkpoint's tensors; each is downloaded when its turn comes.
func (m *CausalLM) savedTensors(format DType, dtype string) []safetensors.Source {
	shapes := tensorShapes(m.arch)
	var all []safetensors.Source
	for _, name := range slices.Sorted(maps.Keys(shapes)) {
		all = append(all, safetensors.Source{
			Name: name, DType: dtype, Shape: shapes[name],
			Data: func() ([]byte, error) {
				values, err := m.Tensor(name)
				if err != nil {
					return nil, err
				}
				d, err := format.resolve(m.run.Device)
				if err != nil {
					return nil, err
				}
				return backend.EncodeFloats(d, values)
			},
		})
	}
	return all
}

// Tensor downloads a weight by its name in the checkpoint, as float32. Weights that are packed in 4 bits are refused.
func (m *CausalLM) Tensor(name string) ([]float32, error) {
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
	return nil, fmt.Errorf("tensor %q: the model has no such weight, or holds it packed", name)
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
