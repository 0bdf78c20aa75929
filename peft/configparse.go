package peft

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/loris-ml/loris/models"
)

// configParser collects the keys of a config.
type configParser struct {
	c        LoraConfig
	warnings []string
	unknown  moduleNames
}

// Keys of PEFT 0.21 that have no field in LoraConfig.
var (
	// metadataKeys describe the file or refine a feature that is refused itself.
	metadataKeys = []string{"auto_mapping", "peft_version", "qalora_group_size", "megatron_core"}
	// refusedKeys switch a feature on.
	refusedKeys = []string{"alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication",
		"megatron_config", "monteclora_config", "use_bdlora", "use_qalora", "velora_config"}
	// initKeys refine an initialization, which decides; PEFT ignores them otherwise.
	initKeys = []string{"corda_config", "lora_ga_config"}
)

var (
	errWantString = errors.New("must be a string or null")
	errWantNames  = errors.New("must be a list of strings or null")
)

// field takes one key. Errors name neither the key nor the value, but for refused ones.
func (p *configParser) field(key string, v jsontext.Value) error {
	c := &p.c
	switch key {
	case "r":
		return decodePositive(v, &c.R, "must be a positive integer")
	case "lora_alpha":
		return decodeNonzero(v, &c.LoraAlpha)
	case "lora_dropout":
		return decodeNumber(v, &c.LoraDropout)
	case "use_rslora":
		return decodeFlag(v, &c.UseRSLora)
	case "fan_in_fan_out":
		return decodeFlag(v, &c.FanInFanOut)
	case "use_dora":
		return decodeFlag(v, &c.UseDora)
	case "ensure_weight_tying":
		return decodeFlag(v, &c.EnsureWeightTying)
	case "lora_bias":
		return decodeFlag(v, &c.LoraBias)
	case "inference_mode":
		return decodeFlag(v, &c.InferenceMode)
	case "target_modules":
		return decodeTargets(v, &c.TargetModules)
	case "exclude_modules":
		return decodeExcludes(v, &c.ExcludeModules)
	case "layers_to_transform":
		return decodeOneOrMore(v, &c.LayersToTransform, "must be an integer, a list of integers or null")
	case "layers_pattern":
		return p.layersPattern(v)
	case "rank_pattern":
		return decodePattern(v, &c.RankPattern, "must be an object of integers")
	case "alpha_pattern":
		return decodePattern(v, &c.AlphaPattern, "must be an object of numbers")
	case "init_lora_weights":
		return p.init(v)
	case "loftq_config":
		return decodeSection(p, key, v, &c.LoftQConfig)
	case "eva_config":
		return decodeSection(p, key, v, &c.EvaConfig)
	case "task_type":
		return decodeOptional(v, &c.TaskType, errWantString)
	case "base_model_name_or_path":
		return decodeOptional(v, &c.BaseModelNameOrPath, errWantString)
	case "revision":
		return decodeOptional(v, &c.Revision, errWantString)
	case "peft_type":
		return decodeOptional(v, &c.PeftType, errWantString)
	case "bias":
		return decodeOptional(v, &c.Bias, errWantString)
	case "modules_to_save":
		return decodeOptional(v, &c.ModulesToSave, errWantNames)
	case "target_parameters":
		return decodeOptional(v, &c.TargetParameters, errWantNames)
	}
	return p.otherField(key, v)
}

// otherField takes keys without a field of their own.
func (p *configParser) otherField(key string, v jsontext.Value) error {
	switch {
	case slices.Contains(metadataKeys, key):
	case key == "trainable_token_indices":
		if off(v) {
			return nil
		}
		if v.Kind() == '[' {
			return decodeOptional(v, &p.c.TrainableTokenIndices, errors.New("must be a list of token ids, or an object of such lists by modules"))
		}
		var byModule map[string][]int
		if err := json.Unmarshal(v, &byModule); err != nil {
			return errors.New("must be a list of token ids, or an object of such lists by modules")
		}
		for name, ids := range byModule {
			if len(byModule) > 1 || name != "embed_tokens" && name != models.EmbeddingPath {
				return errors.New("not supported yet but for embed_tokens: " + dissolveRemedy)
			}
			p.c.TrainableTokenIndices = ids
		}
	case key == "runtime_config":
		p.warnings = append(p.warnings, "runtime_config is ignored: it concerns a running program")
	case slices.Contains(refusedKeys, key):
		if !off(v) {
			return errors.New("not supported yet: " + dissolveRemedy)
		}
	case slices.Contains(initKeys, key):
		if !off(v) {
			p.warnings = append(p.warnings, key+" is ignored: it concerns the start of new adapters only")
		}
	default:
		p.unknown = append(p.unknown, key)
	}
	return nil
}

// off reports whether a value leaves its feature at PEFT's default.
func off(v jsontext.Value) bool {
	switch compacted := bytes.Join(bytes.Fields(v), nil); string(compacted) {
	case "null", "false", "[]", "{}", `""`:
		return true
	}
	return false
}

// decodeOptional decodes a value whose null is the zero value.
func decodeOptional[T any](v jsontext.Value, dst *T, wrong error) error {
	if v.Kind() == 'n' {
		return nil
	}
	if err := json.Unmarshal(v, dst); err != nil {
		if wrong == nil {
			return err
		}
		return wrong
	}
	return nil
}

func decodeFlag(v jsontext.Value, dst *bool) error {
	return decodeOptional(v, dst, errors.New("must be true or false"))
}

func decodePositive(v jsontext.Value, dst *int, want string) error {
	if err := json.Unmarshal(v, dst); err != nil || v.Kind() == 'n' || *dst <= 0 {
		return errors.New(want)
	}
	return nil
}

func decodeNumber(v jsontext.Value, dst *float64) error {
	if err := json.Unmarshal(v, dst); err != nil || v.Kind() == 'n' {
		return errors.New("must be a number")
	}
	return nil
}

// decodeNonzero: in Go, zero stands for the default.
func decodeNonzero(v jsontext.Value, dst *float64) error {
	if err := decodeNumber(v, dst); err != nil {
		return err
	}
	if *dst == 0 {
		return errors.New("must not be zero: the adapter would have no effect")
	}
	return nil
}

// decodeOneOrMore decodes a value or a list of them.
func decodeOneOrMore[T any](v jsontext.Value, dst *[]T, want string) error {
	if v.Kind() == 'n' || v.Kind() == '[' {
		return decodeOptional(v, dst, errors.New(want))
	}
	var one T
	if err := json.Unmarshal(v, &one); err != nil {
		return errors.New(want)
	}
	*dst = []T{one}
	return nil
}

// layersPattern: "" and [] stand for no pattern.
func (p *configParser) layersPattern(v jsontext.Value) error {
	if off(v) {
		return nil
	}
	return decodeOneOrMore(v, &p.c.LayersPattern, "must be a string, a list of strings or null")
}

func decodeTargets(v jsontext.Value, dst *TargetModules) error {
	switch v.Kind() {
	case 'n':
		return nil
	case '"':
		var expression string
		if err := json.Unmarshal(v, &expression); err != nil {
			return err
		}
		*dst = Regexp(expression)
		return nil
	}
	var names []string
	if err := json.Unmarshal(v, &names); err != nil {
		return errors.New("must be a list of strings, a string or null")
	}
	*dst = Modules(names...)
	return nil
}

// decodeExcludes: what is empty excludes nothing.
func decodeExcludes(v jsontext.Value, dst *TargetModules) error {
	if off(v) {
		return nil
	}
	return decodeTargets(v, dst)
}

// decodeSection decodes an object of settings; null and {} are none. Settings that T has not are unknown keys.
func decodeSection[T any](p *configParser, key string, v jsontext.Value, dst **T) error {
	if off(v) {
		return nil
	}
	var section T
	if err := json.Unmarshal(v, &section); err != nil {
		return fmt.Errorf("must be an object of settings: %w", err)
	}
	var given, known map[string]jsontext.Value
	all, err := json.Marshal(section)
	if err := errors.Join(err, json.Unmarshal(v, &given), json.Unmarshal(all, &known)); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if _, ok := known[name]; !ok {
			p.unknown = append(p.unknown, key+"."+name)
		}
	}
	*dst = &section
	return nil
}

// decodePattern keeps the order of the keys, which decides where several match.
func decodePattern[V int | float64](v jsontext.Value, dst *Pattern[V], want string) error {
	if off(v) {
		return nil
	}
	if v.Kind() != '{' {
		return errors.New(want)
	}
	d := jsontext.NewDecoder(bytes.NewReader(v))
	if _, err := d.ReadToken(); err != nil { // {
		return err
	}
	for d.PeekKind() != '}' {
		var e PatternEntry[V]
		if err := json.UnmarshalDecode(d, &e.Key); err != nil {
			return err
		}
		null := d.PeekKind() == 'n'
		if err := json.UnmarshalDecode(d, &e.Value); err != nil || null {
			return fmt.Errorf("%s; that of %q is not", want, e.Key)
		}
		*dst = append(*dst, e)
	}
	return nil
}

// init takes a bool or a name.
func (p *configParser) init(v jsontext.Value) error {
	switch v.Kind() {
	case 't':
		p.c.InitLoraWeights = InitTrue
	case 'f', 'n':
		p.c.InitLoraWeights = InitFalse
	case '"':
		var name Init
		if err := json.Unmarshal(v, &name); err != nil {
			return err
		}
		p.c.InitLoraWeights = name
	default:
		return errors.New("must be true, false or a string")
	}
	return nil
}
