package peft

import (
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"strings"

	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/tokenizer"
)

const peftTypePrompt = "PROMPT_TUNING"

// PromptTuningInit says what the embeddings of virtual tokens start from: PEFT's prompt_tuning_init.
type PromptTuningInit string

// The initial embeddings of virtual tokens.
const (
	PromptRandom      PromptTuningInit = "RANDOM"       // N(0, 1), also for ""
	PromptSampleVocab PromptTuningInit = "SAMPLE_VOCAB" // those of random tokens of the vocabulary
	PromptText        PromptTuningInit = "TEXT"         // those of the tokens of PromptTuningInitText, repeated or cut off
)

// PromptTuningConfig configures prompt tuning (arXiv:2104.08691): embeddings of virtual tokens before those of every row are
// trained, and nothing else. Fields, JSON and defaults are those of PEFT 0.21's PromptTuningConfig.
//
// Logits, log-probabilities and labels are those of the row's own tokens. Rows that hold several documents (packing) cannot be
// trained, as in PEFT.
type PromptTuningConfig struct {
	Prompts
	PromptTuningInit PromptTuningInit `json:"prompt_tuning_init"` // "": PromptRandom
	// Of PromptText: the text, and the tokenizer, a folder or a hub id, that splits it; "": the base's own.
	PromptTuningInitText string `json:"prompt_tuning_init_text"`
	TokenizerNameOrPath  string `json:"tokenizer_name_or_path"`
}

// Type is "PROMPT_TUNING".
func (c PromptTuningConfig) Type() string { return peftTypePrompt }

// Validate reports the first field with a value that PEFT rejects or that is not supported here, under its PEFT name.
func (c PromptTuningConfig) Validate() error {
	if err := c.Prompts.validate(); err != nil {
		return err
	}
	switch c.withDefaults().PromptTuningInit {
	case PromptRandom, PromptSampleVocab:
		return nil
	case PromptText:
		if c.PromptTuningInitText == "" {
			return errors.New(`prompt_tuning_init "TEXT" needs prompt_tuning_init_text`)
		}
		return nil
	}
	return fmt.Errorf("prompt_tuning_init %q is unknown; PEFT has %q, %q and %q", string(c.PromptTuningInit), string(PromptRandom), string(PromptSampleVocab), string(PromptText))
}

func (c PromptTuningConfig) withDefaults() PromptTuningConfig {
	if c.PromptTuningInit == "" {
		c.PromptTuningInit = PromptRandom
	}
	c.PromptTuningInit = PromptTuningInit(strings.ToUpper(string(c.PromptTuningInit)))
	return c
}

func (c PromptTuningConfig) of(base string) Config {
	c.Origin = c.Origin.of(base)
	if c.PromptTuningInit == PromptText && c.TokenizerNameOrPath == "" {
		c.TokenizerNameOrPath = base
	}
	return c
}

func (c PromptTuningConfig) attach(p *PeftModel, from *weightsFile) (tuner, []models.LoRA, error) {
	c = c.withDefaults()
	hidden := p.base.Embedding().Out
	shape := p.base.AttentionShape()
	var err error
	if c.Prompts, err = c.on(shape.Layers, hidden, shape.Heads); err != nil {
		return nil, nil, err
	}
	v := &models.Virtual{Tokens: c.NumVirtualTokens}
	if from != nil {
		v.Embeddings, err = from.readPrompt(c.NumVirtualTokens, hidden)
	} else {
		v.Embeddings, err = p.initialPrompt(c, hidden)
	}
	if err != nil {
		return nil, nil, err
	}
	return &promptSet{cfg: c, width: hidden, trained: int64(len(v.Embeddings))}, []models.LoRA{{Path: models.VirtualPath, Virtual: v}}, nil
}

// initialPrompt are the embeddings [tokens, hidden] that training starts from. Those of tokens are scaled where the model's
// embedding scales what it looks up, as in PEFT.
func (p *PeftModel) initialPrompt(c PromptTuningConfig, hidden int) ([]float32, error) {
	n := c.NumVirtualTokens
	random := newStream(p.opts.seed, models.VirtualPath)
	var ids []int
	switch c.PromptTuningInit {
	case PromptRandom:
		values := make([]float32, n*hidden)
		random.normal(values, 1)
		return values, nil
	case PromptSampleVocab:
		for i := range n {
			ids = append(ids, int(random.at(i)%uint64(p.base.Embedding().In)))
		}
	default:
		tok, err := tokenizer.FromPretrained(c.TokenizerNameOrPath)
		if err != nil {
			return nil, fmt.Errorf("tokenizer_name_or_path %q: %w", c.TokenizerNameOrPath, err)
		}
		text, err := tok.Encode(c.PromptTuningInitText, true)
		if err != nil {
			return nil, fmt.Errorf("prompt_tuning_init_text: %w", err)
		}
		if len(text) == 0 {
			return nil, fmt.Errorf("prompt_tuning_init_text %q has no tokens", c.PromptTuningInitText)
		}
		for i := range n {
			ids = append(ids, text[i%len(text)])
		}
	}
	return p.base.TokenEmbeddings(ids)
}

func (c *PromptTuningConfig) settings() []setting {
	kwargs := setting{"tokenizer_kwargs", func(v jsontext.Value) error {
		if off(v) {
			return nil
		}
		return errors.New("not supported: tokenizers here take no settings; leave it out")
	}, func() any { return nil }}
	return append(c.promptSettings(), textSetting("prompt_tuning_init", (*string)(&c.PromptTuningInit)),
		textSetting("prompt_tuning_init_text", &c.PromptTuningInitText), textSetting("tokenizer_name_or_path", &c.TokenizerNameOrPath), kwargs)
}

func (c PromptTuningConfig) fields() object {
	c = c.withDefaults()
	return settingsObject(&c)
}

// MarshalJSON returns the config with PEFT's keys and the values that an adapter folder would hold.
func (c PromptTuningConfig) MarshalJSON() ([]byte, error) {
	return appendPythonJSON(nil, c.fields(), compact), c.Validate()
}

// UnmarshalJSON reads a config with PEFT's keys; missing ones are PEFT's defaults, unknown ones errors. It does not validate.
func (c *PromptTuningConfig) UnmarshalJSON(data []byte) error { return unmarshalSettings(c, data) }
