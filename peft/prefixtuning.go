package peft

import (
	"fmt"

	"github.com/loris-ml/loris/models"
)

const peftTypePrefix = "PREFIX_TUNING"

// PrefixZero is the [PrefixTuningConfig.InitWeights] with which keys and values start at zero.
const PrefixZero = "zero"

// PrefixTuningConfig configures prefix tuning (arXiv:2101.00190): keys and values of virtual tokens, which every token sees
// before those of its own row, are trained in every layer, and nothing else. Fields, JSON and defaults are those of PEFT 0.21's
// PrefixTuningConfig.
//
// Logits, log-probabilities and labels are those of the row's own tokens, whose positions begin behind the virtual ones. Rows
// that hold several documents (packing) cannot be trained.
type PrefixTuningConfig struct {
	Prompts
	// PrefixProjection trains embeddings of the tokens and an MLP of two layers that keys and values come out of. Files hold what
	// comes out, as in PEFT: once saved and loaded, they are trained no further but by a checkpoint of the training.
	PrefixProjection  bool `json:"prefix_projection"`
	EncoderHiddenSize int  `json:"encoder_hidden_size"` // inner features of the MLP; 0: TokenDim
	// InitWeights is "" for random numbers, or PrefixZero.
	InitWeights string `json:"init_weights"`
}

// Type is "PREFIX_TUNING".
func (c PrefixTuningConfig) Type() string { return peftTypePrefix }

// Validate reports the first field with a value that PEFT rejects or that is not supported here, under its PEFT name.
func (c PrefixTuningConfig) Validate() error {
	switch {
	case c.EncoderHiddenSize < 0:
		return fmt.Errorf("encoder_hidden_size is %d, want a positive number", c.EncoderHiddenSize)
	case c.InitWeights != "" && c.InitWeights != PrefixZero:
		return fmt.Errorf("init_weights %q is unknown; PEFT has %q, and none for random numbers", c.InitWeights, PrefixZero)
	}
	return c.Prompts.validate()
}

func (c PrefixTuningConfig) of(base string) Config {
	c.Origin = c.Origin.of(base)
	return c
}

func (c PrefixTuningConfig) attach(p *PeftModel, from *weightsFile) (tuner, []models.LoRA, error) {
	shape := p.base.AttentionShape()
	dim := shape.KVHeads * shape.HeadDim
	var err error
	if c.Prompts, err = c.on(shape.Layers, dim, shape.KVHeads); err != nil {
		return nil, nil, err
	}
	if c.EncoderHiddenSize == 0 {
		c.EncoderHiddenSize = dim
	}
	width := shape.Layers * 2 * dim
	v := &models.Virtual{Tokens: c.NumVirtualTokens}
	s := &promptSet{cfg: c, width: width, trained: int64(c.NumVirtualTokens * width)}
	switch {
	case from != nil:
		v.Prefix, err = from.readPrompt(c.NumVirtualTokens, width)
		if c.PrefixProjection {
			s.frozen = "prefix_projection true: " + encoderIsLost
		}
	case c.PrefixProjection:
		v.Encoder = newEncoder(p.opts.seed, "transform", false, c.NumVirtualTokens, dim, c.EncoderHiddenSize, width)
		if c.InitWeights == PrefixZero {
			clear(v.Encoder.Weights[1])
			clear(v.Encoder.Biases[1])
		}
		v.Prefix, s.trained = v.Encoder.Output(), encoderParameters(v.Encoder)
	default:
		v.Prefix = make([]float32, c.NumVirtualTokens*width)
		if c.InitWeights == "" {
			newStream(p.opts.seed, models.VirtualPath).normal(v.Prefix, 1)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	return s, []models.LoRA{{Path: models.VirtualPath, Virtual: v}}, nil
}

func (c *PrefixTuningConfig) settings() []setting {
	return append(c.promptSettings(), flagSetting("prefix_projection", &c.PrefixProjection), sizeSetting("encoder_hidden_size", &c.EncoderHiddenSize),
		textSetting("init_weights", &c.InitWeights))
}

func (c PrefixTuningConfig) fields() object { return settingsObject(&c) }

// MarshalJSON returns the config with PEFT's keys and the values that an adapter folder would hold.
func (c PrefixTuningConfig) MarshalJSON() ([]byte, error) {
	return appendPythonJSON(nil, c.fields(), compact), c.Validate()
}

// UnmarshalJSON reads a config with PEFT's keys; missing ones are PEFT's defaults, unknown ones errors. It does not validate.
func (c *PrefixTuningConfig) UnmarshalJSON(data []byte) error { return unmarshalSettings(c, data) }
