package peft

import (
	"fmt"

	"github.com/loris-ml/loris/internal/safetensors"
	"github.com/loris-ml/loris/models"
)

// Config configures adapters: a [LoraConfig], or that of another of PEFT's tuners. Zero fields are PEFT's defaults.
type Config interface {
	// Type is the tuner's name, PEFT's peft_type: "LORA".
	Type() string
	// Validate reports the first field with a value that PEFT rejects or that is not supported here, under its PEFT name.
	Validate() error

	// of is the config of adapters of a base, for those that do not name theirs; base is the name of the base.
	of(base string) Config
	base() string
	// attach makes the adapters on the base of p: new ones, or those that a file holds. The latter are what the model takes,
	// with the values that they begin with.
	attach(p *PeftModel, from *weightsFile) (tuner, []models.LoRA, error)
}

// tuner is what a [Config] has made of a base: all that there is to a set of adapters but the values, which lie on the device
// and come from there by the path of the module that they belong to, see [models.Adapters.Values].
type tuner interface {
	config() Config     // with its defaults filled in
	targeted() []Target // the modules that have an adapter, in the model's order
	parameters() int64  // how many are trained
	// state is what the model takes, with current values.
	state(values map[string]models.LoRA) []models.LoRA
	// save writes an adapter folder.
	save(dir string, values map[string]models.LoRA) error
}

// adapterSet are the adapters of one name.
type adapterSet struct {
	tuner
	weights models.Adapters
}

// parseConfigs are how the settings of each tuner's adapter_config.json are read, by peft_type. Warnings do not name the file.
var parseConfigs = map[string]func(data []byte) (Config, []string, error){
	peftTypeLora:    func(data []byte) (Config, []string, error) { return asConfig(parseConfig(data)) },
	peftTypeIA3:     func(data []byte) (Config, []string, error) { return asConfig(parseSettings[IA3Config](data)) },
	peftTypeLoHa:    func(data []byte) (Config, []string, error) { return asConfig(parseSettings[LoHaConfig](data)) },
	peftTypeLoKr:    func(data []byte) (Config, []string, error) { return asConfig(parseSettings[LoKrConfig](data)) },
	peftTypeOFT:     parseOFT,
	peftTypeVeRA:    func(data []byte) (Config, []string, error) { return asConfig(parseSettings[VeraConfig](data)) },
	peftTypeAdaLoRA: func(data []byte) (Config, []string, error) { return asConfig(parseSettings[AdaLoraConfig](data)) },
	peftTypeBOFT:    func(data []byte) (Config, []string, error) { return asConfig(parseSettings[BOFTConfig](data)) },

	peftTypeLN:     func(data []byte) (Config, []string, error) { return asConfig(parseSettings[LNTuningConfig](data)) },
	peftTypePrompt: func(data []byte) (Config, []string, error) { return asConfig(parseSettings[PromptTuningConfig](data)) },
	peftTypeP:      func(data []byte) (Config, []string, error) { return asConfig(parseSettings[PromptEncoderConfig](data)) },
	peftTypePrefix: func(data []byte) (Config, []string, error) { return asConfig(parseSettings[PrefixTuningConfig](data)) },
}

func asConfig[C Config](c C, warnings []string, err error) (Config, []string, error) {
	return c, warnings, err
}

// weightsFile is an opened adapter_model.safetensors.
type weightsFile struct {
	path string
	*safetensors.File
}

// loras are the set as the model takes it, with its current values.
func (s *adapterSet) loras() ([]models.LoRA, error) {
	values, err := s.weights.Values()
	if err != nil {
		return nil, err
	}
	return s.state(values), nil
}

// write saves the set as an adapter folder.
func (s *adapterSet) write(dir string) error {
	values, err := s.weights.Values()
	if err != nil {
		return fmt.Errorf("save adapter: %w", err)
	}
	return s.save(dir, values)
}

// lora is the set of LoRA adapters; those of other tuners are an error that says what they cannot.
func (s *adapterSet) lora(what string) (*loraSet, error) {
	l, ok := s.tuner.(*loraSet)
	if !ok {
		return nil, fmt.Errorf("peft_type %s: %s", s.config().Type(), what)
	}
	return l, nil
}
