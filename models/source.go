package models

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gomlx/compute/dtypes"

	"github.com/loris-ml/loris/hub"
	"github.com/loris-ml/loris/internal/safetensors"
	"github.com/loris-ml/loris/quant"
)

// source is where weights come from: tensors by their names in transformers' checkpoints, as a whole or piece by piece.
type source interface {
	// shape returns the tensor's dimensions, outermost first; ok is false when there is no such tensor.
	shape(name string) (dims []int, ok bool)
	// stored returns the dtype under which read gives a tensor; ok is false where it is stored in no dtype of weights
	// and only float32s reads it.
	stored(name string) (dtype dtypes.DType, ok bool)
	// read fills dst with the stored elements of a tensor from element at on.
	read(dst []byte, name string, at int) error
	// float32s fills dst with elements of a tensor from element at on; both ends lie at ends of rows. Several goroutines
	// may call it.
	float32s(dst []float32, name string, at int) error
	path() string
	Close() error
}

// open finds out what lies at a path, or in the hub's cache under an id, and returns its architecture and weights.
func open(given string) (Architecture, source, error) {
	path, err := hub.Locate(given)
	if err != nil {
		return nil, nil, fmt.Errorf("model %q: %w; give a folder with config.json and safetensors, a .gguf file, or the id of a model in the cache", given, err)
	}
	switch info, err := os.Stat(path); {
	case err != nil:
		return nil, nil, fmt.Errorf("model: %w", err)
	case !info.IsDir():
		return openGGUF(path)
	}
	arch, quantization, err := readConfig(filepath.Join(path, "config.json"))
	if err != nil {
		return nil, nil, err
	}
	set, err := safetensors.OpenDir(path)
	if err != nil {
		return nil, nil, err
	}
	return arch, newFolder(set, path, quantization), nil
}

// ReadConfig reads and validates a config.json: what [NewRandom] takes. How the checkpoint beside it is quantized is not
// part of that.
func ReadConfig(path string) (Architecture, error) {
	arch, _, err := readConfig(path)
	return arch, err
}

// readConfig also returns how the checkpoint is quantized, nil if it is not.
func readConfig(path string) (Architecture, *quant.BitsAndBytesConfig, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("model config: %w", err)
	}
	var head struct {
		ModelType    string          `json:"model_type"`
		Text         json.RawMessage `json:"text_config"`
		Quantization json.RawMessage `json:"quantization_config"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	family, ok := families[head.ModelType]
	if inner, composite := composites[head.ModelType]; composite {
		if len(head.Text) == 0 {
			return nil, nil, fmt.Errorf("%s: model_type %q without text_config", path, head.ModelType)
		}
		raw, family, ok = head.Text, families[inner], true
	}
	if !ok {
		return nil, nil, &UnsupportedError{
			Path: path, Field: "model_type", Value: fmt.Sprintf("%q", head.ModelType),
			Supported: known(families) + ", and the language models of " + known(composites),
		}
	}
	quantization, err := readQuantization(head.Quantization)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w; bitsandbytes' checkpoints are read, and unquantized ones, which Options.Quantization quantizes while loading", path, err)
	}
	arch := family()
	if err := json.Unmarshal(raw, arch); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := arch.Validate(); err != nil {
		var u *UnsupportedError
		if errors.As(err, &u) {
			u.Path = path
			return nil, nil, u
		}
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return arch, quantization, nil
}

// readQuantization reads a quantization_config.
func readQuantization(raw json.RawMessage) (*quant.BitsAndBytesConfig, error) {
	if s := string(raw); s == "" || s == "null" {
		return nil, nil
	}
	q := &quant.BitsAndBytesConfig{}
	if err := json.Unmarshal(raw, q); err != nil {
		return nil, err
	}
	if !quantized(q) {
		return nil, errors.New("quantization_config: neither load_in_4bit nor load_in_8bit is true")
	}
	return q, nil
}

func known[V any](m map[string]V) string {
	var names []string
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// folder is a checkpoint in safetensors.
type folder struct {
	set          *safetensors.Set
	dir          string
	quantization *quant.BitsAndBytesConfig // how its linears are stored; nil: they are not quantized
	renamed      map[string]string         // what begins names in the folder in place of "model." and "lm_head."; nil: nothing else
}

// newFolder finds out how the folder names the tensors of the language model: alone, or within a model that also sees.
func newFolder(set *safetensors.Set, dir string, q *quant.BitsAndBytesConfig) *folder {
	f := &folder{set: set, dir: dir, quantization: q}
	for _, names := range []map[string]string{
		{"model.": "language_model.model.", "lm_head.": "language_model.lm_head."},
		{"model.": "model.language_model.", "lm_head.": "lm_head."},
	} {
		if slices.ContainsFunc(set.Names(), func(n string) bool { return strings.HasPrefix(n, names["model."]) }) {
			f.renamed = names
		}
	}
	return f
}

// at is a tensor's name in the folder.
func (f *folder) at(name string) string {
	for usual, here := range f.renamed {
		if rest, ok := strings.CutPrefix(name, usual); ok {
			return here + rest
		}
	}
	return name
}

func (f *folder) shape(name string) ([]int, bool) {
	info, ok := f.set.Info(f.at(name))
	return info.Shape, ok
}

func (f *folder) stored(name string) (dtypes.DType, bool) {
	info, _ := f.set.Info(f.at(name))
	return weightDType(info.DType)
}

// weightDType returns the dtype that safetensors and GGUF name so, false where it is none of float32, float16, bfloat16.
func weightDType(name string) (dtypes.DType, bool) {
	for _, d := range []dtypes.DType{dtypes.BFloat16, dtypes.Float32, dtypes.Float16} {
		if fileDTypes[d] == name {
			return d, true
		}
	}
	return dtypes.InvalidDType, false
}

// fileDTypes are the dtypes of weights by their names in files.
var fileDTypes = map[dtypes.DType]string{dtypes.Float32: "F32", dtypes.Float16: "F16", dtypes.BFloat16: "BF16"}

func (f *folder) read(dst []byte, name string, at int) error {
	dtype, _ := f.stored(name)
	return f.set.ReadInto(dst, f.at(name), int64(at)*int64(dtype.Size()))
}

func (f *folder) float32s(dst []float32, name string, at int) error {
	return f.set.ReadFloat32(dst, f.at(name), at)
}

func (f *folder) path() string { return f.dir }
func (f *folder) Close() error { return f.set.Close() }
