package peft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/loris-ml/loris/internal/atomicfile"
	"github.com/loris-ml/loris/internal/safetensors"
	"github.com/loris-ml/loris/models"
)

// WeightsName is the name of the weights in an adapter folder.
const WeightsName = "adapter_model.safetensors"

const (
	cardName   = "README.md"
	binName    = "adapter_model.bin" // torch's pickle, which PEFT wrote by default until 2023
	keyPrefix  = "base_model.model." // PeftModel.base_model is the tuner, its model the user's
	suffixA    = ".lora_A.weight"
	suffixB    = ".lora_B.weight"
	pathRemedy = "as Target.Path has it"
)

// AdapterWeight is the adapter on one linear: y += Scaling · B(A x); of a DoRA, the rows of W + Scaling·B·A then have the
// lengths Magnitude.
type AdapterWeight struct {
	Path      string    // of the linear, below the model: "model.layers.0.self_attn.q_proj"
	A, B      []float32 // [R, In], [Out, R], row-major
	Magnitude []float32 // [Out] of a DoRA, else nil
	BBias     []float32 // [Out] with lora_bias: y += Scaling · (B(A x) + BBias); else nil
	BaseBias  []float32 // [Out] where the linear's own bias was trained, that; else nil
	// Full [Out, In] is the weight of a linear, of the embedding (Out tokens, In features), or [Out] of a norm where In is 0, that
	// was trained in full (modules_to_save), with BaseBias; Rows [n, hidden] are those of tokens of the embedding that were
	// (trainable_token_indices); else nil.
	Full, Rows []float32
	R, In, Out int // with R 0, BaseBias, Full or Rows is all that there is
}

// SaveAdapter writes adapter_config.json, adapter_model.safetensors (float32) and README.md, a model card, into dir as PEFT's
// save_pretrained does. The config holds the keys that every PEFT reads, with inference_mode true; where TargetModules are
// nil or AllLinear, it names the modules of weights.
//
// dir is created if it is missing; in one that exists, other files and an existing README.md stay. A reader never finds a
// part of a file, nor the config of one adapter with the weights of another.
func SaveAdapter(dir string, cfg LoraConfig, weights []AdapterWeight) error {
	if dir == "" {
		return errors.New("save adapter: the name of the folder is empty")
	}
	cfg, err := cfg.forFile(weights)
	if err != nil {
		return fmt.Errorf("save adapter %s: %w", dir, err)
	}
	files := adapterFiles{
		config:  appendPythonJSON(nil, cfg.fields(true), indented),
		card:    modelCard(cfg),
		tensors: tensorsOf(cfg, weights),
	}
	return files.save(dir)
}

// save writes into a folder, which may exist.
func (f adapterFiles) save(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(dir), 0o777); err != nil {
			return fmt.Errorf("save adapter %s: %w", dir, err)
		}
		return atomicfile.ReplaceDir(dir, f.write)
	}
	return f.replace(dir)
}

type adapterFiles struct {
	config, card []byte
	tensors      []safetensors.Tensor
}

func (f adapterFiles) write(dir string) error {
	if err := safetensors.Write(filepath.Join(dir, WeightsName), f.tensors, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	card := filepath.Join(dir, cardName)
	if _, err := os.Stat(card); errors.Is(err, fs.ErrNotExist) {
		if err := atomicfile.WriteBytes(card, f.card); err != nil {
			return err
		}
	}
	return atomicfile.WriteBytes(filepath.Join(dir, ConfigName), f.config)
}

// replace writes into an existing folder. The weights, which take the time, are written aside; from the removal of the old
// config to the new one, a crash leaves a folder without config, which no loader takes for an adapter.
func (f adapterFiles) replace(dir string) error {
	aside, err := os.MkdirTemp(dir, ".adapter.tmp-*")
	if err != nil {
		return fmt.Errorf("save adapter %s: no temporary folder can be created in it: %w; make it a writable folder or choose another", dir, err)
	}
	defer os.RemoveAll(aside)
	staged := filepath.Join(aside, WeightsName)
	if err := safetensors.Write(staged, f.tensors, map[string]string{"format": "pt"}); err != nil {
		return fmt.Errorf("save adapter %s: %w", dir, err)
	}
	card := filepath.Join(dir, cardName)
	if _, err := os.Stat(card); errors.Is(err, fs.ErrNotExist) {
		if err := atomicfile.WriteBytes(card, f.card); err != nil {
			return err
		}
	}
	config := filepath.Join(dir, ConfigName)
	if err := os.Remove(config); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("save adapter %s: remove the earlier config: %w", dir, err)
	}
	if err := os.Rename(staged, filepath.Join(dir, WeightsName)); err != nil {
		return fmt.Errorf("save adapter %s: move the finished weights into place: %w", dir, err)
	}
	return atomicfile.WriteBytes(config, f.config)
}

// forFile checks that config and weights belong together and returns what adapter_config.json is to say.
func (c LoraConfig) forFile(weights []AdapterWeight) (LoraConfig, error) {
	if err := c.Validate(); err != nil {
		return c, err
	}
	c = c.WithDefaults()
	if len(weights) == 0 {
		return c, errors.New("there are no weights")
	}
	s, err := c.targeting().scaler()
	if err != nil {
		return c, err
	}
	var paths []string
	seen := map[string]bool{}
	for _, w := range weights {
		if err := w.check(s); err != nil {
			return c, err
		}
		if err := w.fits(c); err != nil {
			return c, err
		}
		if w.Rows != nil && len(w.Rows)%max(1, len(c.TrainableTokenIndices)) != 0 {
			return c, fmt.Errorf("module %q: %d values are not rows of %d tokens", w.Path, len(w.Rows), len(c.TrainableTokenIndices))
		}
		if seen[w.Path] {
			return c, fmt.Errorf("module %q has two adapters", w.Path)
		}
		if seen[w.Path] = true; w.R > 0 {
			paths = append(paths, w.Path)
		}
	}
	if c.TargetModules == nil || isAllLinear(c.TargetModules) {
		c.TargetModules = Modules(paths...)
		c.LayersToTransform, c.LayersPattern = nil, nil // the paths say it
	}
	if c.RankPattern, err = orderForFile(c.RankPattern, "rank_pattern", paths); err != nil {
		return c, err
	}
	c.AlphaPattern, err = orderForFile(c.AlphaPattern, "alpha_pattern", paths)
	return c, err
}

// fits checks that it has what the config speaks of, and no more.
func (w AdapterWeight) fits(c LoraConfig) error {
	switch {
	case w.R > 0 && (w.Magnitude != nil) != c.UseDora:
		return fmt.Errorf("module %q: its magnitude has %d values, with use_dora %v", w.Path, len(w.Magnitude), c.UseDora)
	case w.R > 0 && (w.BBias != nil) != c.LoraBias:
		return fmt.Errorf("module %q: the bias of its B has %d values, with lora_bias %v", w.Path, len(w.BBias), c.LoraBias)
	case w.Full != nil && !c.saves(w.Path) && !(c.EnsureWeightTying && w.Path == models.HeadPath):
		return fmt.Errorf("module %q: it was trained in full, with modules_to_save %v", w.Path, moduleNames(c.ModulesToSave))
	case w.Rows != nil && len(c.TrainableTokenIndices) == 0:
		return fmt.Errorf("module %q: rows of it were trained, without trainable_token_indices", w.Path)
	case w.BaseBias != nil && w.Full == nil && (c.Bias == BiasNone || c.Bias == BiasLoraOnly && w.R == 0):
		return fmt.Errorf("module %q: its own bias was trained, with bias %q", w.Path, c.Bias)
	}
	return nil
}

func (w AdapterWeight) check(s *scaler) error {
	if w.Full != nil || w.Rows != nil {
		switch {
		case w.R != 0 || w.Full != nil && w.Rows != nil:
			return fmt.Errorf("module %q: it has whole rows beside a LoRA or each other", w.Path)
		case w.Rows != nil && w.Path != models.EmbeddingPath:
			return fmt.Errorf("module %q: rows of tokens are those of %s", w.Path, models.EmbeddingPath)
		case w.Full != nil && (len(w.Full) != w.Out*max(1, w.In) || w.BaseBias != nil && len(w.BaseBias) != w.Out):
			return fmt.Errorf("module %q: its weight has %d values and its bias %d, want [%d, %d] and [%d]", w.Path, len(w.Full), len(w.BaseBias), w.Out, w.In, w.Out)
		}
		return nil
	}
	if w.BBias != nil && len(w.BBias) != w.Out || w.BaseBias != nil && len(w.BaseBias) != w.Out {
		return fmt.Errorf("module %q: its biases have %d and %d values, want [%d]", w.Path, len(w.BBias), len(w.BaseBias), w.Out)
	}
	if w.R == 0 && w.BaseBias != nil && w.A == nil && w.B == nil {
		return checkShape(w.Path, 1, w.In, w.Out)
	}
	if err := checkShape(w.Path, w.R, w.In, w.Out); err != nil {
		return err
	}
	if len(w.A) != w.R*w.In || len(w.B) != w.Out*w.R {
		return fmt.Errorf("module %q: A has %d values and B %d, want [%d, %d] and [%d, %d]", w.Path, len(w.A), len(w.B), w.R, w.In, w.Out, w.R)
	}
	if w.Magnitude != nil && len(w.Magnitude) != w.Out {
		return fmt.Errorf("module %q: its magnitude has %d values, want [%d]", w.Path, len(w.Magnitude), w.Out)
	}
	r, _, err := s.at(w.Path)
	if err == nil && r != w.R {
		err = fmt.Errorf("module %q: its adapter is of rank %d, the config says %d (r, rank_pattern)", w.Path, w.R, r)
	}
	return err
}

// checkShape refuses modules that no file can hold.
func checkShape(path string, r, in, out int) error {
	switch {
	case path == "" || strings.HasPrefix(path, keyPrefix):
		return fmt.Errorf("module path %q: give the path below the model, without %q, %s", path, keyPrefix, pathRemedy)
	case r <= 0 || in <= 0 || out <= 0:
		return fmt.Errorf("module %q: rank %d, inputs %d and outputs %d must be positive", path, r, in, out)
	case r > math.MaxInt/max(in, out)/4:
		return fmt.Errorf("module %q: rank %d with inputs %d and outputs %d is too large", path, r, in, out)
	}
	return nil
}

// orderForFile sorts the keys as PEFT's files have them, unless another key would then win on one of the modules: PEFT's own
// files lose the order, and a reader gives such a module another rank or alpha.
func orderForFile[V int | float64](p Pattern[V], field string, paths []string) (Pattern[V], error) {
	sorted := slices.Clone(p)
	slices.SortFunc(sorted, func(a, b PatternEntry[V]) int { return strings.Compare(a.Key, b.Key) })
	as, err := p.compile(field)
	if err != nil {
		return nil, err
	}
	would, err := sorted.compile(field)
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		i, err := as.at(path)
		if err != nil {
			return nil, err
		}
		j, err := would.at(path)
		if err != nil {
			return nil, err
		}
		if i >= 0 && p[i].Value != sorted[j].Value {
			return p, nil
		}
	}
	return sorted, nil
}

func tensorsOf(cfg LoraConfig, weights []AdapterWeight) []safetensors.Tensor {
	var tensors []safetensors.Tensor
	vector := func(name string, values []float32) {
		if values != nil {
			tensors = append(tensors, safetensors.Tensor{Name: keyPrefix + name, DType: "F32", Shape: []int{len(values)}, Data: littleEndian(values)})
		}
	}
	for _, w := range weights {
		if w.Full != nil || w.Rows != nil {
			tensors = append(tensors, w.endTensor(cfg))
			vector(w.Path+suffixUntouched, w.BaseBias)
			continue
		}
		if w.R == 0 {
			vector(w.Path+suffixUntouched, w.BaseBias)
			continue
		}
		vector(w.Path+suffixAdapted, w.BaseBias)
		vector(w.Path+suffixBiasB, w.BBias)
		vector(w.Path+keyMagnitude, w.Magnitude)
		a, b := suffixA, suffixB
		if w.Path == models.EmbeddingPath {
			a, b = suffixEmbeddingA, suffixEmbeddingB
		}
		tensors = append(tensors,
			safetensors.Tensor{Name: keyPrefix + w.Path + a, DType: "F32", Shape: []int{w.R, w.In}, Data: littleEndian(w.A)},
			safetensors.Tensor{Name: keyPrefix + w.Path + b, DType: "F32", Shape: []int{w.Out, w.R}, Data: littleEndian(w.B)})
	}
	return tensors
}

// endTensor is the tensor of whole rows.
func (w AdapterWeight) endTensor(cfg LoraConfig) safetensors.Tensor {
	values, suffix, rows := w.Full, suffixFull, w.Out
	if w.Rows != nil {
		values, suffix, rows = w.Rows, suffixTokens, len(cfg.TrainableTokenIndices)
	}
	shape := []int{rows, len(values) / rows}
	if w.Full != nil && w.In == 0 {
		shape = shape[:1]
	}
	return safetensors.Tensor{Name: keyPrefix + w.Path + suffix, DType: "F32", Shape: shape, Data: littleEndian(values)}
}

func littleEndian(values []float32) []byte {
	raw := make([]byte, 4*len(values))
	for i, v := range values {
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(v))
	}
	return raw
}
