package measure

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/quant"
)

// Model is a model with random weights, or one of a folder, as flags name it.
type Model struct {
	Shape, Path, Base, Backend, DType, Compute, Cache string
	Layers                                            int
}

// Flags defines the flags of the model; full adds full fine-tuning to the bases.
func (m *Model) Flags(full bool) {
	bases := "nf4 (with double quantization) or 16bit"
	if full {
		bases += ", or full (full fine-tuning, no adapters)"
	}
	flag.StringVar(&m.Shape, "shape", "llama-3-8b", "llama-3-8b, smollm2-135m or tiny")
	flag.StringVar(&m.Path, "model", "", "folder of a model of Llama's shape, in place of -shape and random weights")
	flag.StringVar(&m.Cache, "cache", "", "folder of compiled programs, as Options.ProgramCache")
	flag.StringVar(&m.Base, "base", "nf4", bases)
	flag.StringVar(&m.Backend, "backend", "", "\"\" (pure Go), xla:cpu or xla:cuda")
	flag.StringVar(&m.DType, "dtype", "", "float32, bfloat16 or float16; \"\": the backend's own")
	flag.StringVar(&m.Compute, "compute", "", "fp8: products of frozen weights in float8; \"\": in -dtype")
	flag.IntVar(&m.Layers, "layers", 0, "number of layers; 0: the shape's")
}

// New makes the model, with what o says beside the flags.
func (m *Model) New(ctx context.Context, o models.Options) (*models.CausalLM, models.LlamaConfig, error) {
	cfg, ok := Shapes[m.Shape]
	if !ok {
		return nil, cfg, fmt.Errorf("unknown shape %q", m.Shape)
	}
	if m.Layers > 0 {
		cfg.NumHiddenLayers = m.Layers
	}
	o.Backend, o.DType, o.Trainable = m.Backend, models.DType(m.DType), m.Base == "full"
	if m.Base == "nf4" {
		o.Quantization = &quant.BitsAndBytesConfig{
			LoadIn4Bit: true, BNB4BitQuantType: quant.NF4, BNB4BitUseDoubleQuant: true, BNB4BitComputeDType: m.DType,
		}
	}
	switch m.Compute {
	case "":
	case "fp8":
		o.ComputeDType = models.Float8E4M3
	default:
		return nil, cfg, fmt.Errorf("-compute %q: want fp8 or nothing", m.Compute)
	}
	o.ProgramCache = m.Cache
	if m.Path == "" {
		lm, err := models.NewRandom(ctx, &cfg, 1, o)
		return lm, cfg, err
	}
	lm, err := models.FromPretrained(ctx, m.Path, o)
	if err != nil {
		return nil, cfg, err
	}
	llama, ok := lm.Config().(*models.LlamaConfig)
	if !ok {
		return nil, cfg, errors.Join(fmt.Errorf("-model %s: model_type is %s, want llama", m.Path, lm.Config().ModelType()), lm.Close())
	}
	m.Shape = m.Path
	return lm, *llama, nil
}
