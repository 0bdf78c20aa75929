package peft

import (
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"math"

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
	if c.BaseModelNameOrPath == "" {
		c.BaseModelNameOrPath = base
	}
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
			s.frozen = "prefix_projection true: the file holds the keys and values that the encoder computed, not the encoder, and as in PEFT they cannot be trained further; resume from a checkpoint of the training, or attach a new adapter"
		}
	case c.PrefixProjection:
		v.Encoder = c.encoder(p.opts.seed, dim, width)
		v.Prefix = v.Encoder.Prefix()
		s.trained = int64(c.NumVirtualTokens*dim + c.EncoderHiddenSize*(dim+1) + width*(c.EncoderHiddenSize+1))
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

// encoder starts as torch's Embedding and Linears do: N(0, 1), and uniform in ±1/√inputs.
func (c PrefixTuningConfig) encoder(seed int64, dim, width int) *models.PrefixEncoder {
	hidden := c.EncoderHiddenSize
	uniform := func(name string, n, inputs int) []float32 {
		values := make([]float32, n)
		newStream(seed, models.VirtualPath+"."+name).uniform(values, 1/math.Sqrt(float64(inputs)))
		return values
	}
	e := &models.PrefixEncoder{
		Hidden: hidden, Embedding: make([]float32, c.NumVirtualTokens*dim),
		In: uniform("transform.0.weight", hidden*dim, dim), InBias: uniform("transform.0.bias", hidden, dim),
		Out: uniform("transform.2.weight", width*hidden, hidden), OutBias: uniform("transform.2.bias", width, hidden),
	}
	newStream(seed, models.VirtualPath+".embedding.weight").normal(e.Embedding, 1)
	if c.InitWeights == PrefixZero {
		clear(e.Out)
		clear(e.OutBias)
	}
	return e
}

func (c PrefixTuningConfig) fields(inferenceMode bool) object {
	return c.members(peftTypePrefix, inferenceMode,
		member{"encoder_hidden_size", numberOrNull(c.EncoderHiddenSize)},
		member{"init_weights", orNull(c.InitWeights)},
		member{"prefix_projection", c.PrefixProjection},
	)
}

// MarshalJSON returns the config with PEFT's keys.
func (c PrefixTuningConfig) MarshalJSON() ([]byte, error) {
	return appendPythonJSON(nil, c.fields(c.InferenceMode), compact), nil
}

// UnmarshalJSON reads PEFT's JSON; unknown keys are errors. It does not validate.
func (c *PrefixTuningConfig) UnmarshalJSON(data []byte) error {
	read, warnings, err := parsePrefixTuning(data)
	if err = strict(warnings, err); err != nil {
		return fmt.Errorf("prefix tuning config: %w", err)
	}
	*c = read
	return nil
}

func parsePrefixTuning(data []byte) (c PrefixTuningConfig, warnings []string, err error) {
	common, warnings, err := parseKeys(data, nil, func(key string, v jsontext.Value) (bool, error) {
		switch key {
		case "prefix_projection":
			return true, decodeFlag(v, &c.PrefixProjection)
		case "encoder_hidden_size":
			return true, decodeOptional(v, &c.EncoderHiddenSize, errors.New("must be an integer or null"))
		case "init_weights":
			return true, decodeOptional(v, &c.InitWeights, errWantString)
		}
		return c.Prompts.field(key, v)
	})
	c.take(common)
	return c, warnings, err
}
