package peft

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ConfigName is the name of the config in an adapter folder.
const ConfigName = "adapter_config.json"

// ReadConfig reads and checks adapter_config.json in dir: a [LoraConfig], or the config of the tuner that peft_type names. Keys that PEFT does not have, and keys without effect here, are
// warned about; what is not supported is an error that names the file, the key and the value.
func ReadConfig(dir string) (Config, []string, error) {
	path := filepath.Join(dir, ConfigName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, noConfigError(dir)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read adapter: %w", err)
	}
	c, warnings, err := parseAnyConfig(data)
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, err)
	}
	for i, w := range warnings {
		warnings[i] = path + ": " + w
	}
	return c, warnings, nil
}

// parseAnyConfig reads the settings of the tuner that peft_type names.
func parseAnyConfig(data []byte) (Config, []string, error) {
	var file struct {
		PeftType *string `json:"peft_type"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return asConfig(parseConfig(data)) // which says what is wrong
	}
	if file.PeftType == nil || *file.PeftType == "" {
		if _, _, err := parseConfig(data); err != nil {
			return nil, nil, err
		}
		return nil, nil, errors.New(`peft_type is missing; a LoRA adapter has "peft_type": "LORA"`)
	}
	parse, ok := parseConfigs[*file.PeftType]
	if !ok {
		return nil, nil, fmt.Errorf("peft_type %q is not supported: this package has %s", *file.PeftType, strings.Join(slices.Sorted(maps.Keys(parseConfigs)), ", "))
	}
	return parse(data)
}

// noConfigError says where adapters are, if dir holds folders with adapters, as PEFT saves those of other names.
func noConfigError(dir string) error {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return fmt.Errorf("read adapter %s: no such folder", dir)
	}
	found, _ := filepath.Glob(filepath.Join(dir, "*", ConfigName)) // the only error is a bad pattern: then there is no hint
	if len(found) == 0 {
		return fmt.Errorf("read adapter %s: it has no %s; give a folder that PEFT or this package has saved", dir, ConfigName)
	}
	for i := range found {
		found[i] = filepath.Dir(found[i])
	}
	return fmt.Errorf("read adapter %s: it has no %s, but these folders have: %s; give one of them", dir, ConfigName, strings.Join(found, ", "))
}

// MarshalJSON returns the config with PEFT's keys and the values that an adapter folder would hold, but for TargetModules,
// which stay as they are, and InferenceMode.
func (c LoraConfig) MarshalJSON() ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.WithDefaults()
	return appendPythonJSON(nil, c.fields(c.InferenceMode), compact), nil
}

// UnmarshalJSON reads a config with PEFT's keys, such as a part of a service's own configuration. Missing keys are PEFT's
// defaults; unlike in an adapter folder, unknown keys are errors. It does not validate.
func (c *LoraConfig) UnmarshalJSON(data []byte) error {
	read, warnings, err := parseConfig(data)
	if err == nil && len(warnings) > 0 {
		err = errors.New(strings.Join(warnings, "; "))
	}
	if err != nil {
		return fmt.Errorf("LoRA config: %w", err)
	}
	*c = read
	return nil
}

// fields are the keys that every PEFT can read, and those of later ones that are not at their defaults, in order.
func (c LoraConfig) fields(inferenceMode bool) object {
	o := object{
		{"alpha_pattern", patternObject(c.AlphaPattern, pythonNumber)},
		{"base_model_name_or_path", orNull(c.BaseModelNameOrPath)},
		{"bias", c.Bias},
		{"fan_in_fan_out", c.FanInFanOut},
		{"inference_mode", inferenceMode},
		{"init_lora_weights", c.InitLoraWeights.json()},
		{"layers_pattern", listOrNull(c.LayersPattern)},
		{"layers_to_transform", listOrNull(c.LayersToTransform)},
		{"lora_alpha", pythonNumber(c.LoraAlpha)},
		{"lora_dropout", c.LoraDropout},
		{"modules_to_save", listOrNull(c.ModulesToSave)},
		{"peft_type", c.PeftType},
		{"r", c.R},
		{"rank_pattern", patternObject(c.RankPattern, func(r int) any { return r })},
		{"revision", orNull(c.Revision)},
		{"target_modules", targetsOrNull(c.TargetModules)},
		{"task_type", c.TaskType},
	}
	if c.ExcludeModules != nil {
		o = append(o, member{"exclude_modules", c.ExcludeModules.json()})
	}
	if c.InitLoraWeights == InitLoftQ {
		o = append(o, member{"loftq_config", c.LoftQConfig.withDefaults().json()})
	}
	if c.InitLoraWeights == InitEVA {
		o = append(o, member{"eva_config", c.EvaConfig.withDefaults().json()})
	}
	if len(c.TrainableTokenIndices) > 0 {
		o = append(o, member{"trainable_token_indices", c.TrainableTokenIndices})
	}
	if c.EnsureWeightTying {
		o = append(o, member{"ensure_weight_tying", true})
	}
	if c.LoraBias {
		o = append(o, member{"lora_bias", true})
	}
	if c.UseDora {
		o = append(o, member{"use_dora", true})
	}
	if c.UseRSLora {
		o = append(o, member{"use_rslora", true})
	}
	slices.SortFunc(o, func(a, b member) int { return strings.Compare(a.key, b.key) })
	return o
}

func patternObject[V int | float64](p Pattern[V], number func(V) any) object {
	o := make(object, len(p))
	for i, e := range p {
		o[i] = member{e.Key, number(e.Value)}
	}
	return o
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func listOrNull[T any](list []T) any {
	if list == nil {
		return nil
	}
	return list
}

func targetsOrNull(t TargetModules) any {
	if t == nil {
		return nil
	}
	return t.json()
}

func (i Init) json() any {
	switch i {
	case InitTrue:
		return true
	case InitFalse:
		return false
	}
	return string(i)
}

// parseConfig reads PEFT's JSON without validating what it says. Warnings do not name the file.
func parseConfig(data []byte) (LoraConfig, []string, error) {
	var file map[string]jsontext.Value
	if err := json.Unmarshal(data, &file); err != nil {
		return LoraConfig{}, nil, fmt.Errorf("not a JSON object: %w", err)
	}
	p := configParser{}
	keys := make([]string, 0, len(file))
	for key := range file {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		if err := p.field(key, file[key]); err != nil {
			return LoraConfig{}, nil, fmt.Errorf("%s %s: %w", key, abridged(file[key]), err)
		}
	}
	if len(p.unknown) > 0 {
		p.warnings = append(p.warnings, fmt.Sprintf("unknown keys %v are ignored; a newer PEFT may have written them", p.unknown))
	}
	return p.c, p.warnings, nil
}

func abridged(v jsontext.Value) string {
	const most = 200
	if len(v) > most {
		return strings.ToValidUTF8(string(v[:most]), "") + "…"
	}
	return string(v)
}
