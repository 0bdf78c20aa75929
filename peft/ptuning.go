package peft

import (
	"fmt"
	"strings"

	"github.com/loris-ml/loris/models"
)

const peftTypeP = "P_TUNING"

// PromptEncoderMLP is the kind of encoder that a [PromptEncoderConfig] has.
const PromptEncoderMLP = "MLP"

// PromptEncoderConfig configures P-tuning (arXiv:2103.10385): an MLP of three linears, and embeddings before it, are trained, which
// the embeddings of virtual tokens come out of. Fields, JSON and defaults are those of PEFT 0.21's PromptEncoderConfig; otherwise
// it is as [PromptTuningConfig].
//
// Files hold what comes out, as in PEFT: once saved and loaded, they are trained no further but by a checkpoint of the training.
type PromptEncoderConfig struct {
	Prompts
	EncoderReparameterizationType string  `json:"encoder_reparameterization_type"` // "": PromptEncoderMLP; "LSTM" is refused
	EncoderHiddenSize             int     `json:"encoder_hidden_size"`             // inner features of the MLP; 0: TokenDim
	EncoderNumLayers              int     `json:"encoder_num_layers"`              // 0: 2; of no effect on the MLP, as in PEFT
	EncoderDropout                float64 `json:"encoder_dropout"`                 // of no effect on the MLP, as in PEFT
}

// Type is "P_TUNING".
func (c PromptEncoderConfig) Type() string { return peftTypeP }

// Validate reports the first field with a value that PEFT rejects or that is not supported here, under its PEFT name.
func (c PromptEncoderConfig) Validate() error {
	switch kind := c.withDefaults().EncoderReparameterizationType; {
	case kind == "LSTM":
		return unsupported("encoder_reparameterization_type", `"LSTM"`, `use "MLP", which PEFT recommends`)
	case kind != PromptEncoderMLP:
		return fmt.Errorf(`encoder_reparameterization_type %q is unknown; PEFT has "MLP" and "LSTM"`, c.EncoderReparameterizationType)
	case c.EncoderHiddenSize < 0:
		return fmt.Errorf("encoder_hidden_size is %d, want a positive number", c.EncoderHiddenSize)
	}
	return c.Prompts.validate()
}

func (c PromptEncoderConfig) withDefaults() PromptEncoderConfig {
	if c.EncoderReparameterizationType == "" {
		c.EncoderReparameterizationType = PromptEncoderMLP
	}
	c.EncoderReparameterizationType = strings.ToUpper(c.EncoderReparameterizationType)
	if c.EncoderNumLayers == 0 {
		c.EncoderNumLayers = 2
	}
	return c
}

func (c PromptEncoderConfig) of(base string) Config {
	c.Origin = c.Origin.of(base)
	return c
}

func (c PromptEncoderConfig) attach(p *PeftModel, from *weightsFile) (tuner, []models.LoRA, error) {
	c = c.withDefaults()
	hidden, shape := p.base.Embedding().Out, p.base.AttentionShape()
	var err error
	if c.Prompts, err = c.on(shape.Layers, hidden, shape.Heads); err != nil {
		return nil, nil, err
	}
	if c.EncoderHiddenSize == 0 {
		c.EncoderHiddenSize = hidden
	}
	v := &models.Virtual{Tokens: c.NumVirtualTokens}
	s := &promptSet{cfg: c, width: hidden, trained: int64(c.NumVirtualTokens * hidden)}
	if from != nil {
		s.frozen = "peft_type P_TUNING: " + encoderIsLost
		v.Embeddings, err = from.readPrompt(c.NumVirtualTokens, hidden)
	} else {
		v.Encoder = newEncoder(p.opts.seed, "mlp_head", true, c.NumVirtualTokens, hidden, c.EncoderHiddenSize, c.EncoderHiddenSize, hidden)
		v.Embeddings, s.trained = v.Encoder.Output(), encoderParameters(v.Encoder)
	}
	if err != nil {
		return nil, nil, err
	}
	return s, []models.LoRA{{Path: models.VirtualPath, Virtual: v}}, nil
}

func (c *PromptEncoderConfig) settings() []setting {
	return append(c.promptSettings(), textSetting("encoder_reparameterization_type", &c.EncoderReparameterizationType),
		sizeSetting("encoder_hidden_size", &c.EncoderHiddenSize), sizeSetting("encoder_num_layers", &c.EncoderNumLayers),
		floatSetting("encoder_dropout", &c.EncoderDropout))
}

func (c PromptEncoderConfig) fields() object {
	c = c.withDefaults()
	return settingsObject(&c)
}

// MarshalJSON returns the config with PEFT's keys and the values that an adapter folder would hold.
func (c PromptEncoderConfig) MarshalJSON() ([]byte, error) {
	return appendPythonJSON(nil, c.fields(), compact), c.Validate()
}

// UnmarshalJSON reads a config with PEFT's keys; missing ones are PEFT's defaults, unknown ones errors. It does not validate.
func (c *PromptEncoderConfig) UnmarshalJSON(data []byte) error { return unmarshalSettings(c, data) }
