package peft

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/loris-ml/loris/internal/safetensors"
)

// LoadAdapter reads the folder of a LoRA adapter that PEFT, transformers or [SaveAdapter] wrote. Weights of float16 and bfloat16 are
// widened; they come in the order of their paths. Keys may have an adapter's name in them, or lack PEFT's prefix.
//
// Tensors that are missing, of shapes that do not fit each other or the config's ranks, or of a kind that is not supported
// are errors that name the file, the key and the shapes. Warnings name what was ignored.
func LoadAdapter(dir string) (LoraConfig, []AdapterWeight, []string, error) {
	read, warnings, err := ReadConfig(dir)
	if err != nil {
		return LoraConfig{}, nil, nil, err
	}
	cfg, ok := read.(LoraConfig)
	if !ok {
		return LoraConfig{}, nil, nil, fmt.Errorf("read adapter %s: peft_type %q: its weights are no A and B; use FromPretrained", dir, read.Type())
	}
	file, err := openWeights(dir)
	if err != nil {
		return LoraConfig{}, nil, nil, err
	}
	defer file.Close()
	weights, ignored, err := file.readLora(cfg)
	if err != nil {
		return LoraConfig{}, nil, nil, err
	}
	return cfg, weights, append(warnings, ignored...), nil
}

// openWeights opens the weights of an adapter folder.
func openWeights(dir string) (*weightsFile, error) {
	path := filepath.Join(dir, WeightsName)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, noWeightsError(dir)
	}
	file, err := safetensors.Open(path)
	return &weightsFile{path, file}, err
}

// readLora reads the weights of a LoRA. Errors and warnings, of what is ignored, name the file.
func (f *weightsFile) readLora(cfg LoraConfig) ([]AdapterWeight, []string, error) {
	weights, warnings, err := readWeights(f.File, cfg.WithDefaults())
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", f.path, err)
	}
	for i, w := range warnings {
		warnings[i] = f.path + ": " + w
	}
	return weights, warnings, nil
}

func noWeightsError(dir string) error {
	bin := filepath.Join(dir, binName)
	if _, err := os.Stat(bin); err != nil {
		return fmt.Errorf("read adapter %s: it has no %s", dir, WeightsName)
	}
	return fmt.Errorf("read adapter %s: %s is a pickle, which can run code and is not read; convert it once in Python: "+
		"import torch, safetensors.torch as st; st.save_file({k: v.contiguous().clone() for k, v in torch.load(%q, weights_only=True).items()}, %q, {\"format\": \"pt\"})",
		dir, binName, bin, filepath.Join(dir, WeightsName))
}

// loraKey takes a key apart: the module's path, A or B, and the name of the adapter where the state was saved with it.
// As in PEFT, the last ".lora_" counts: a module may have such a name itself.
var loraKey = regexp.MustCompile(`^(?:_orig_mod\.)?(?:base_model\.model\.)?(?:_orig_mod\.)?(.+)\.lora_([AB])(?:\.([^.]+))?\.weight$`)

// magnitudeKey takes the key of a DoRA's magnitude apart: the module's path, and the name of the adapter.
var magnitudeKey = regexp.MustCompile(`^(?:_orig_mod\.)?(?:base_model\.model\.)?(?:_orig_mod\.)?(.+)\.lora_magnitude_vector(?:\.([^.]+?))??(?:\.weight)?$`)

// biasKeys take the keys of biases apart: the module's path, and the name of the adapter.
var (
	biasBKey     = regexp.MustCompile(`^(?:_orig_mod\.)?(?:base_model\.model\.)?(?:_orig_mod\.)?(.+)\.lora_B(?:\.([^.]+))?\.bias$`)
	embeddingKey = regexp.MustCompile(`^(?:_orig_mod\.)?(?:base_model\.model\.)?(?:_orig_mod\.)?(.+)\.lora_embedding_([AB])(?:\.([^.]+))?$`)
	tokensKey    = regexp.MustCompile(`^(?:_orig_mod\.)?(?:base_model\.model\.)?(?:_orig_mod\.)?(.+)\.token_adapter\.trainable_tokens_delta(?:\.([^.]+))?$`)
	fullKey      = regexp.MustCompile(`^(?:_orig_mod\.)?(?:base_model\.model\.)?(?:_orig_mod\.)?(lm_head|model\.embed_tokens|model\.norm|model\.layers\.\d+\..+)\.weight$`)
	baseBiasKey  = regexp.MustCompile(`^(?:_orig_mod\.)?(?:base_model\.model\.)?(?:_orig_mod\.)?(.+?)(?:\.base_layer)?\.bias$`)
)

// pair is what a file holds for a module: keys.
type pair struct{ a, b, magnitude, bBias, baseBias, full, rows string }

// keyParts returns the path of the module that a key belongs to, which of its tensors it is, and the name of the adapter.
func keyParts(key string) (path, which, adapter string, ok bool) {
	if m := loraKey.FindStringSubmatch(key); m != nil {
		return m[1], m[2], m[3], true
	}
	if m := magnitudeKey.FindStringSubmatch(key); m != nil {
		return m[1], "magnitude", m[2], true
	}
	if m := biasBKey.FindStringSubmatch(key); m != nil {
		return m[1], "bBias", m[2], true
	}
	if m := embeddingKey.FindStringSubmatch(key); m != nil {
		return m[1], m[2], m[3], true
	}
	if m := tokensKey.FindStringSubmatch(key); m != nil {
		return m[1], "rows", m[2], true
	}
	if m := fullKey.FindStringSubmatch(key); m != nil && !strings.HasSuffix(key, ".base_layer.weight") {
		return m[1], "full", "", true
	}
	if m := baseBiasKey.FindStringSubmatch(key); m != nil {
		return m[1], "baseBias", "", true
	}
	return "", "", "", false
}

func (p *pair) at(which string) *string {
	switch which {
	case "A":
		return &p.a
	case "B":
		return &p.b
	case "magnitude":
		return &p.magnitude
	case "bBias":
		return &p.bBias
	case "full":
		return &p.full
	case "rows":
		return &p.rows
	}
	return &p.baseBias
}

// readWeights also returns what it ignored.
func readWeights(file *safetensors.File, cfg LoraConfig) (weights []AdapterWeight, warnings []string, err error) {
	pairs, warnings, err := sortKeys(file.Names())
	if err != nil {
		return nil, nil, err
	}
	s, err := cfg.targeting().scaler()
	if err != nil {
		return nil, nil, err
	}
	for _, path := range slices.Sorted(maps.Keys(pairs)) {
		w, err := pairs[path].read(file, path, s)
		if err != nil {
			return nil, nil, err
		}
		if err := w.fits(cfg); err != nil {
			return nil, nil, fmt.Errorf("%w: the files do not belong together", err)
		}
		if slices.ContainsFunc(w.A, notFinite) || slices.ContainsFunc(w.B, notFinite) {
			warnings = append(warnings, fmt.Sprintf("the adapter of module %q holds NaN or infinite values", path))
		}
		weights = append(weights, w)
	}
	return weights, warnings, nil
}

func notFinite(x float32) bool { return !finite(float64(x)) }

// sortKeys finds the A and B of every module.
func sortKeys(names []string) (pairs map[string]pair, warnings []string, err error) {
	pairs = map[string]pair{}
	adapter, first := "", ""
	for _, key := range names {
		path, which, name, ok := keyParts(key)
		if !ok {
			if !strings.HasSuffix(key, ".base_layer.weight") {
				return nil, nil, fmt.Errorf("tensor %q: %s", key, foreignKey(key))
			}
			warnings = append(warnings, fmt.Sprintf("tensor %q is ignored: it is a copy of the base model's weight", key))
			continue
		}
		bare := which == "baseBias" || which == "full" // their keys have no adapter's name
		if first == "" && !bare {
			adapter, first = name, key
		}
		if name != adapter && !bare {
			return nil, nil, fmt.Errorf("tensors %q and %q belong to different adapters; save one adapter to a folder", first, key)
		}
		p := pairs[path]
		dst := p.at(which)
		if *dst != "" {
			return nil, nil, fmt.Errorf("tensors %q and %q are of the same module", *dst, key)
		}
		*dst = key
		pairs[path] = p
	}
	if len(pairs) == 0 {
		return nil, nil, errors.New("it holds no lora_A and lora_B weights")
	}
	return pairs, warnings, nil
}

// foreignKey says what a tensor that is no A or B of a linear is.
func foreignKey(key string) string {
	what := "it is neither lora_A nor lora_B of a linear; modules_to_save, trained biases and resized vocabularies leave such tensors"
	switch {
	}
	return what + ": not supported yet; merge the adapter into its base in PEFT (merge_and_unload) and load the result as a model"
}

// readVectors reads what a module without a LoRA has.
func (p pair) readVectors(file *safetensors.File, path string) (w AdapterWeight, err error) {
	w = AdapterWeight{Path: path}
	for _, v := range []struct {
		key string
		dst *[]float32
	}{{p.baseBias, &w.BaseBias}, {p.full, &w.Full}, {p.rows, &w.Rows}} {
		if v.key == "" {
			continue
		}
		if *v.dst, err = file.Float32(v.key); err != nil {
			return w, err
		}
		info, _ := file.Info(v.key)
		if w.Out = info.Shape[0]; len(info.Shape) == 2 {
			w.In = info.Shape[1]
		}
	}
	return w, nil
}

// counterpart takes the key of an A to that of its B, and back.
var counterpart = strings.NewReplacer(".lora_A", ".lora_B", ".lora_B", ".lora_A", ".lora_embedding_A", ".lora_embedding_B", ".lora_embedding_B", ".lora_embedding_A")

func (p pair) read(file *safetensors.File, path string, s *scaler) (w AdapterWeight, err error) {
	if p.a == "" && p.b == "" {
		if p.magnitude != "" || p.bBias != "" {
			return w, fmt.Errorf("tensor %q has no lora_A and lora_B beside it: the file is incomplete", p.magnitude+p.bBias)
		}
		return p.readVectors(file, path)
	}
	if p.a == "" {
		return w, fmt.Errorf("tensor %q has no counterpart %q: the file is incomplete", p.b, counterpart.Replace(p.b))
	}
	if p.b == "" {
		return w, fmt.Errorf("tensor %q has no counterpart %q: the file is incomplete", p.a, counterpart.Replace(p.a))
	}
	infoA, _ := file.Info(p.a)
	infoB, _ := file.Info(p.b)
	a, b := infoA.Shape, infoB.Shape
	if len(a) != 2 || len(b) != 2 || a[0] != b[1] || slices.Contains(a, 0) || slices.Contains(b, 0) {
		return w, fmt.Errorf("tensors %q %v and %q %v: want shapes [r, in] and [out, r] of a linear module", p.a, a, p.b, b)
	}
	r, _, err := s.at(path)
	if err != nil {
		return w, err
	}
	if r != a[0] {
		return w, fmt.Errorf("tensor %q %v is of rank %d, %s says %d for it (r, rank_pattern): the files do not belong together", p.a, a, a[0], ConfigName, r)
	}
	w = AdapterWeight{Path: path, R: r, In: a[1], Out: b[0]}
	if w.A, err = file.Float32(p.a); err != nil {
		return w, err
	}
	if w.B, err = file.Float32(p.b); err != nil {
		return w, err
	}
	for _, v := range []struct {
		key string
		dst *[]float32
	}{{p.magnitude, &w.Magnitude}, {p.bBias, &w.BBias}, {p.baseBias, &w.BaseBias}} {
		if v.key == "" {
			continue
		}
		if m, _ := file.Info(v.key); !slices.Equal(m.Shape, []int{w.Out}) {
			return w, fmt.Errorf("tensor %q %v: want [%d], one for each output of the module", v.key, m.Shape, w.Out)
		}
		if *v.dst, err = file.Float32(v.key); err != nil {
			return w, err
		}
	}
	return w, nil
}
