package peft

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Origin is what adapter_config.json says of any adapter beside its tuner's settings.
type Origin struct {
	TaskType            string `json:"task_type"`               // "" or "CAUSAL_LM"; files get the latter
	BaseModelNameOrPath string `json:"base_model_name_or_path"` // folder or hub id that the adapter belongs to
	Revision            string `json:"revision"`                // of the base model on the hub
	InferenceMode       bool   `json:"inference_mode"`          // true in every file, as PEFT writes it
	// ModulesToSave are trained in full beside what the tuner trains, as LoraConfig's.
	ModulesToSave []string `json:"modules_to_save"`
}

// of is the origin of adapters of a base, for those that do not name theirs.
func (o Origin) of(base string) Origin {
	if o.BaseModelNameOrPath == "" {
		o.BaseModelNameOrPath = base
	}
	return o
}

func (o Origin) modulesToSave() []string { return o.ModulesToSave }

func (o Origin) base() string { return o.BaseModelNameOrPath }

func (o Origin) validate() error {
	return LoraConfig{TaskType: o.TaskType, BaseModelNameOrPath: o.BaseModelNameOrPath, Revision: o.Revision, ModulesToSave: o.ModulesToSave}.Validate()
}

// setting is a key of adapter_config.json with the place that its value has in a config.
type setting struct {
	key   string
	read  func(v jsontext.Value) error
	value func() any // what a file holds; nil: the key is not written
}

// configured is a pointer to the config of a tuner whose file is no more than its settings.
type configured[C any] interface {
	*C
	// settings are those of its tuner, but for those of Origin.
	settings() []setting
	origin() *Origin
}

// allSettings also has those of every tuner.
func allSettings[C Config, P configured[C]](c P) []setting {
	o := c.origin()
	all := append(c.settings(),
		textSetting("task_type", &o.TaskType),
		textSetting("base_model_name_or_path", &o.BaseModelNameOrPath),
		textSetting("revision", &o.Revision),
		flagSetting("inference_mode", &o.InferenceMode),
		namesSetting("modules_to_save", &o.ModulesToSave),
		setting{"peft_type", func(v jsontext.Value) error { return checkType((*c).Type(), v) }, func() any { return (*c).Type() }},
	)
	for _, key := range metadataKeys {
		all = append(all, setting{key, func(jsontext.Value) error { return nil }, nil})
	}
	return all
}

func checkType(want string, v jsontext.Value) error {
	var is string
	if err := decodeOptional(v, &is, errWantString); err != nil {
		return err
	}
	if is != "" && is != want {
		return fmt.Errorf("want %q", want)
	}
	return nil
}

// parseSettings reads a config. Keys that no setting has are warned about.
func parseSettings[C Config, P configured[C]](data []byte) (c C, warnings []string, err error) {
	var file map[string]jsontext.Value
	if err := json.Unmarshal(data, &file); err != nil {
		return c, nil, fmt.Errorf("not a JSON object: %w", err)
	}
	known := map[string]setting{}
	for _, s := range allSettings[C](P(&c)) {
		known[s.key] = s
	}
	var unknown moduleNames
	for _, key := range slices.Sorted(maps.Keys(file)) {
		s, ok := known[key]
		if !ok {
			unknown = append(unknown, key)
			continue
		}
		if err := s.read(file[key]); err != nil {
			return c, nil, fmt.Errorf("%s %s: %w", key, abridged(file[key]), err)
		}
	}
	if len(unknown) > 0 {
		warnings = append(warnings, fmt.Sprintf("unknown keys %v are ignored; a newer PEFT may have written them", unknown))
	}
	return c, warnings, nil
}

// unmarshalSettings is UnmarshalJSON of a config: unlike in an adapter folder, unknown keys are errors.
func unmarshalSettings[C Config, P configured[C]](c P, data []byte) error {
	read, warnings, err := parseSettings[C, P](data)
	if err == nil && len(warnings) > 0 {
		err = errors.New(strings.Join(warnings, "; "))
	}
	if err != nil {
		return fmt.Errorf("%s config: %w", read.Type(), err)
	}
	*c = read
	return nil
}

// settingsObject is what a file holds of a config, in the order of the keys.
func settingsObject[C Config, P configured[C]](c P) (o object) {
	if c.origin().TaskType == "" {
		c.origin().TaskType = TaskCausalLM
	}
	for _, s := range allSettings[C](c) {
		if s.value != nil {
			o = append(o, member{s.key, s.value()})
		}
	}
	slices.SortFunc(o, func(a, b member) int { return strings.Compare(a.key, b.key) })
	return o
}

func textSetting(key string, at *string) setting {
	return setting{key, func(v jsontext.Value) error { return decodeOptional(v, at, errWantString) }, func() any { return orNull(*at) }}
}

func flagSetting(key string, at *bool) setting {
	return setting{key, func(v jsontext.Value) error { return decodeFlag(v, at) }, func() any { return *at }}
}

// yesSetting is a flag that is true by default: nil.
func yesSetting(key string, at **bool) setting {
	return setting{key, func(v jsontext.Value) error { return decodeOptional(v, at, errors.New("must be true or false")) }, func() any { return yes(*at) }}
}

func yes(flag *bool) bool { return flag == nil || *flag }

func intSetting(key string, at *int) setting {
	return setting{key, func(v jsontext.Value) error {
		if err := json.Unmarshal(v, at); err != nil || v.Kind() == 'n' {
			return errors.New("must be an integer")
		}
		return nil
	}, func() any { return *at }}
}

// sizeSetting is an integer that is null where the model decides: 0.
func sizeSetting(key string, at *int) setting {
	return setting{key, func(v jsontext.Value) error { return decodeOptional(v, at, errors.New("must be an integer or null")) }, func() any {
		if *at == 0 {
			return nil
		}
		return *at
	}}
}

func namesSetting(key string, at *[]string) setting {
	return setting{key, func(v jsontext.Value) error { return decodeOptional(v, at, errWantNames) }, func() any { return listOrNull(*at) }}
}

// floatSetting is a number that PEFT writes with a point; numberSetting one that is mostly an integer.
func floatSetting(key string, at *float64) setting {
	return setting{key, func(v jsontext.Value) error { return decodeNumber(v, at) }, func() any { return *at }}
}

func numberSetting(key string, at *float64) setting {
	return setting{key, func(v jsontext.Value) error { return decodeNumber(v, at) }, func() any { return pythonNumber(*at) }}
}

// targetSettings are those that say which modules get an adapter.
func targetSettings(targets, excluded *TargetModules) []setting {
	return []setting{
		{"target_modules", func(v jsontext.Value) error { return decodeTargets(v, targets) }, func() any { return targetsOrNull(*targets) }},
		{"exclude_modules", func(v jsontext.Value) error { return decodeExcludes(v, excluded) }, func() any { return targetsOrNull(*excluded) }},
	}
}

// layerSettings are those that choose layers.
func layerSettings(layers *[]int, patterns *[]string) []setting {
	return []setting{
		{"layers_to_transform", func(v jsontext.Value) error {
			return decodeOneOrMore(v, layers, "must be an integer, a list of integers or null")
		}, func() any { return listOrNull(*layers) }},
		{"layers_pattern", func(v jsontext.Value) error {
			if off(v) {
				return nil
			}
			return decodeOneOrMore(v, patterns, "must be a string, a list of strings or null")
		}, func() any { return listOrNull(*patterns) }},
	}
}

// patternSettings are ranks and alphas that differ.
func patternSettings(ranks *Ranks, alphas *Alphas) []setting {
	return []setting{
		{"rank_pattern", func(v jsontext.Value) error { return decodePattern(v, ranks, "must be an object of integers") },
			func() any { return patternObject(*ranks, func(r int) any { return r }) }},
		{"alpha_pattern", func(v jsontext.Value) error { return decodePattern(v, alphas, "must be an object of numbers") },
			func() any { return patternObject(*alphas, pythonNumber) }},
	}
}

// refusedSetting switches something on that is not implemented; off is what it is at PEFT's default.
func refusedSetting(key string, isOff any) setting {
	return setting{key, func(v jsontext.Value) error {
		if off(v) || string(v) == string(appendPythonJSON(nil, isOff, compact)) {
			return nil
		}
		return errors.New("not supported yet: " + dissolveRemedy)
	}, func() any { return isOff }}
}

// idleSetting has no effect on linears.
func idleSetting(key string, isOff any) setting {
	return setting{key, func(jsontext.Value) error { return nil }, func() any { return isOff }}
}
