package sft

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// LoadSFTConfig reads settings from a YAML or JSON file, as the --config of TRL's command line does: an object whose keys
// are the json tags of SFTConfig, which are TRL's names. What the file leaves out keeps its default; the training_args.json
// of a checkpoint can be read back.
//
// A key that SFTConfig does not have is an error that names the nearest one there is. Keys of TRL that need no field here
// (gradient_checkpointing, dataloader_num_workers, …) pass with every value that changes nothing, and are an error with a
// remedy otherwise. So is an explicit 0 where SFTConfig's zero stands for another default, as in "seed: 0". Errors name
// file, line, key and value. The settings are not validated: NewSFTTrainer does.
func LoadSFTConfig(path string) (SFTConfig, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return SFTConfig{}, fmt.Errorf("sft: %w", err)
	}
	c, err := parseConfig(text)
	if err != nil {
		return c, fmt.Errorf("sft: %s: %w", path, err)
	}
	return c, nil
}

// ParseSFTConfig reads settings as LoadSFTConfig does, from the text of such a file.
func ParseSFTConfig(text []byte) (SFTConfig, error) {
	c, err := parseConfig(text)
	if err != nil {
		return c, fmt.Errorf("sft: settings: %w", err)
	}
	return c, nil
}

func parseConfig(text []byte) (SFTConfig, error) {
	var c SFTConfig
	var doc yaml.Node // JSON is YAML
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return c, err
	}
	if doc.Kind == 0 { // an empty file
		return c, nil
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return c, fmt.Errorf("line %d: want an object such as {max_length: 2048}", top.Line)
	}
	fields := configFields(&c)
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		if err := setField(fields, key.Value, value); err != nil {
			return SFTConfig{}, fmt.Errorf("line %d: %w", key.Line, err)
		}
	}
	return c, nil
}

// configFields are the fields of c by their json tags.
func configFields(c *SFTConfig) map[string]reflect.Value {
	fields := map[string]reflect.Value{}
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		if tag := v.Type().Field(i).Tag.Get("json"); tag != "-" {
			fields[tag] = v.Field(i)
		}
	}
	return fields
}

// setField sets the field of a key.
func setField(fields map[string]reflect.Value, key string, value *yaml.Node) error {
	field, ok := fields[key]
	if !ok {
		return foreignKey(fields, key, value)
	}
	switch {
	case value.Tag == "!!null" && key == "max_length":
		field.SetInt(NoMaxLength)
		return nil
	case value.Tag == "!!null":
		return nil // TRL's None: the default
	case key == "resume_from_checkpoint" && value.Tag == "!!bool":
		if value.Value == "true" {
			field.SetString(LastCheckpoint)
		}
		return nil
	case key == "pad_to_multiple_of" && value.Value == "auto":
		return nil
	case key == "lr_scheduler_kwargs" && value.Tag == "!!str": // transformers takes JSON text, too
		if err := json.Unmarshal([]byte(value.Value), field.Addr().Interface()); err != nil {
			return fmt.Errorf("%s is %q: want an object, or JSON text of one: %w", key, value.Value, err)
		}
		return nil
	case key == "report_to" && value.Tag == "!!str":
		field.Set(reflect.ValueOf([]string{value.Value}))
		return nil
	}
	if err := decodeStrictly(value, field); err != nil {
		return fmt.Errorf("%s is %s: %w", key, shown(value), err)
	}
	return refuseZero(key, field)
}

// decodeStrictly decodes a value of the field's own kind: a number in quotes is none, and 2.5 is no number of rows.
func decodeStrictly(value *yaml.Node, field reflect.Value) error {
	t := field.Type()
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	want := map[reflect.Kind]string{reflect.String: "a text", reflect.Bool: "true or false", reflect.Int: "a whole number",
		reflect.Int64: "a whole number", reflect.Float64: "a number", reflect.Map: "an object", reflect.Slice: "a list"}[t.Kind()]
	tags := map[reflect.Kind][]string{reflect.String: {"!!str"}, reflect.Bool: {"!!bool"}, reflect.Int: {"!!int"},
		reflect.Int64: {"!!int"}, reflect.Float64: {"!!int", "!!float"}, reflect.Map: {"!!map"}, reflect.Slice: {"!!seq"}}[t.Kind()]
	if !slices.Contains(tags, value.ShortTag()) {
		return fmt.Errorf("want %s", want)
	}
	if err := value.Decode(field.Addr().Interface()); err != nil {
		return fmt.Errorf("want %s", want)
	}
	return nil
}

// refuseZero refuses a zero that SFTConfig reads as another value.
func refuseZero(key string, field reflect.Value) error {
	if !field.IsZero() || field.Kind() == reflect.String || field.Kind() == reflect.Slice || field.Kind() == reflect.Map {
		return nil
	}
	defaults := SFTConfig{}.withDefaults()
	other := configFields(&defaults)[key]
	sameInTRL := key == "max_steps" || key == "eval_steps" // count by epochs; logging_steps
	if sameInTRL || other.IsZero() {
		return nil
	}
	return fmt.Errorf("%s is 0, which stands for the default %v here: leave it out, or give another value", key, other.Interface())
}

// foreignKey answers a key that is no field.
func foreignKey(fields map[string]reflect.Value, key string, value *yaml.Node) error {
	if o, ok := otherKeys[key]; ok {
		empty := value.Kind != yaml.ScalarNode && len(value.Content) == 0
		if o.any || value.Tag == "!!null" || empty || slices.Contains(o.harmless, strings.ToLower(value.Value)) && value.Kind == yaml.ScalarNode {
			return nil
		}
		return fmt.Errorf("%s is %s: %s", key, shown(value), o.remedy)
	}
	names := slices.Concat(slices.Collect(maps.Keys(fields)), slices.Collect(maps.Keys(otherKeys)))
	slices.Sort(names)
	nearest := slices.MinFunc(names, func(a, b string) int { return editDistance(key, a) - editDistance(key, b) })
	return fmt.Errorf("the key %q is unknown; the nearest is %q", key, nearest)
}

// shown is a value as an error shows it.
func shown(value *yaml.Node) string {
	switch value.Kind {
	case yaml.ScalarNode:
		if value.ShortTag() == "!!str" {
			return fmt.Sprintf("%q", value.Value)
		}
		return value.Value
	case yaml.SequenceNode:
		return "a list"
	}
	return "an object"
}

// editDistance is the number of characters to insert, remove or replace (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// otherKey is a key of TRL's SFTConfig without a field here.
type otherKey struct {
	any      bool     // no value changes a number
	harmless []string // values that ask for nothing, null besides
	remedy   string   // for the others
}

// otherKeys are the fields of TRL 1.16's SFTConfig and transformers 5.24's TrainingArguments that SFTConfig lacks.
var otherKeys = func() map[string]otherKey {
	keys := map[string]otherKey{}
	add := func(o otherKey, names string) {
		for name := range strings.FieldsSeq(names) {
			keys[name] = o
		}
	}
	off := []string{"false", "no", "none", ""}
	add(otherKey{any: true}, `gradient_checkpointing gradient_checkpointing_kwargs activation_checkpointing activation_checkpointing_kwargs
		activation_offloading padding_free use_liger_kernel liger_kernel_config use_cache torch_empty_cache_steps dataset_num_proc
		average_tokens_across_devices dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
		dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order remove_unused_columns full_determinism
		log_level log_level_replica log_on_each_node logging_nan_inf_filter project save_on_each_node
		skip_memory_metrics eval_accumulation_steps eval_do_concat_batches eval_use_gather_object prediction_loss_only
		accelerator_config ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend
		ddp_timeout do_train do_eval local_rank hub_strategy hub_always_push trust_remote_code
		restore_callback_states_from_checkpoint torch_compile_backend torch_compile_mode`)
	add(otherKey{harmless: []string{"true"}, remedy: "the precision is the loaded model's; load it with models.Options.DType Float32 and leave the key out"}, "bf16")
	add(otherKey{harmless: off, remedy: "the precision is the loaded model's; set models.Options.DType and leave the key out"}, "fp16 bf16_full_eval fp16_full_eval tf32")
	add(otherKey{harmless: off, remedy: "the device is the loaded model's; set models.Options.Backend and leave the key out"}, "use_cpu")
	add(otherKey{remedy: "load the model with models.FromPretrained and its Options, and leave the key out"}, "model_init_kwargs")
	add(otherKey{harmless: []string{"0", "0.0"}, remedy: "models with a router are not trained with its loss here; leave the key out"}, "router_aux_loss_coef")
	add(otherKey{remedy: "rows with input_ids are taken as they are, others are always prepared; leave the key out"}, "dataset_kwargs")
	add(otherKey{harmless: off, remedy: "metrics of one's own come from SFTConfig.ComputeMetrics; leave the key out"}, "batch_eval_metrics")
	add(otherKey{remedy: "metrics of one's own come from SFTConfig.ComputeMetrics; leave the key out"}, "include_for_metrics")
	add(otherKey{harmless: []string{"labels"}, remedy: "labels are read from the column labels; rename the column"}, "label_names")
	add(otherKey{harmless: []string{"length"}, remedy: "lengths are counted, not read; leave the key out"}, "length_column_name")
	add(otherKey{harmless: off, remedy: "choose a batch size that fits, with gradient_accumulation_steps for the rest"}, "auto_find_batch_size")
	add(otherKey{harmless: off, remedy: "programs are always compiled; leave the key out"}, "torch_compile")
	add(otherKey{harmless: off, remedy: "upload the output folder yourself; leave the key out"}, "push_to_hub hub_private_repo")
	add(otherKey{remedy: "upload the output folder yourself; leave the key out"}, "hub_token hub_model_id hub_revision")
	add(otherKey{remedy: "GaLore and APOLLO are not offered; leave the key out"}, "optim_target_modules")
	add(otherKey{harmless: off, remedy: "one device trains one adapter here; leave the key out"}, "fsdp fsdp_config deepspeed parallelism_config")
	add(otherKey{harmless: off, remedy: "write your own with SFTConfig.Callbacks; leave the key out"}, "trackio_space_id trackio_bucket_id trackio_static_space_id")
	add(otherKey{harmless: off, remedy: "num_tokens is always logged; leave the key out"}, "include_num_input_tokens_seen")
	add(otherKey{harmless: off, remedy: "it is not offered; leave the key out"}, "debug do_predict")
	return keys
}()
