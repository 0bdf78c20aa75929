package peft

import (
	"fmt"

	"github.com/loris-ml/loris/models"
)

// What bias may be, as in adapter_config.json.
const (
	BiasNone     = "none"      // no bias of the base is trained
	BiasAll      = "all"       // all are
	BiasLoraOnly = "lora_only" // those of the targeted linears are
)

// Keys of biases in files: of a LoRA's B, and of the base's linears, with and without an adapter.
const (
	suffixBiasB     = ".lora_B.bias"
	suffixAdapted   = ".base_layer.bias"
	suffixUntouched = ".bias"
)

// addShifts gives the adapters of a set, in the order of its targets, what they train of biases: new, or as it is stored. The
// result also has the linears of which the bias alone is trained.
//
// A trained bias of the base is the set's own, unlike in PEFT, where all adapters of a model share it and it stays when they
// are disabled. On the device it is the difference to the base's.
func (p *PeftModel) addShifts(s *loraSet, loras []models.LoRA, stored map[string]AdapterWeight) ([]models.LoRA, error) {
	at := map[string]int{}
	for i, l := range loras {
		at[l.Path] = i
		if !s.cfg.LoraBias {
			continue
		}
		loras[i].ShiftScale = l.Scaling
		if loras[i].Shift = stored[l.Path].BBias; stored == nil {
			loras[i].Shift = initBias(p.opts.seed, l.Path, s.cfg.InitLoraWeights, l.R, len(l.B)/l.R)
		}
	}
	s.biases = nil
	if s.cfg.Bias == BiasNone {
		return loras, nil
	}
	for _, lin := range p.base.Linears() {
		i, adapted := at[lin.Path]
		if !lin.Bias || !adapted && s.cfg.Bias == BiasLoraOnly {
			continue
		}
		own, err := p.base.Tensor(lin.Path + ".bias")
		if err != nil {
			return nil, err
		}
		shift := make([]float32, lin.Out)
		if w := stored[lin.Path].BaseBias; w != nil {
			if len(w) != lin.Out {
				return nil, fmt.Errorf("module %q: its trained bias has %d values, want [%d]", lin.Path, len(w), lin.Out)
			}
			for j := range shift {
				shift[j] = w[j] - own[j]
			}
		}
		s.biases = append(s.biases, trainedBias{lin, own})
		if !adapted {
			loras = append(loras, models.LoRA{Path: lin.Path})
			i = len(loras) - 1
		}
		loras[i].Shift, loras[i].ShiftScale = shift, 1
	}
	return loras, nil
}

// trainedBias is a bias of the base that a set trains.
type trainedBias struct {
	models.Linear
	own []float32 // its value in the base
}

// with is the bias with what was learned.
func (b trainedBias) with(shift []float32) []float32 {
	sum := make([]float32, len(b.own))
	for i := range sum {
		sum[i] = b.own[i] + shift[i]
	}
	return sum
}

// addBiases puts the trained biases into the values of a set.
func (s *loraSet) addBiases(all []AdapterWeight, values map[string]models.LoRA) []AdapterWeight {
	at := map[string]int{}
	for i, w := range all {
		at[w.Path] = i
		if s.cfg.LoraBias {
			all[i].BBias = values[w.Path].Shift
		}
	}
	for _, b := range s.biases {
		i, ok := at[b.Path]
		if !ok {
			all = append(all, AdapterWeight{Path: b.Path, In: b.In, Out: b.Out})
			i = len(all) - 1
		}
		all[i].BaseBias = b.with(values[b.Path].Shift)
	}
	return all
}

// refuseBeyondLoRA is the error for what knows A and B alone.
func (s *adapterSet) refuseBeyondLoRA(what string) error {
	l, err := s.lora(what)
	if err != nil {
		return err
	}
	return l.cfg.refuseBeyondLoRA(what)
}

// refuseBeyondLoRA is the error for what knows A and B alone.
func (c LoraConfig) refuseBeyondLoRA(what string) error {
	field := ""
	switch {
	case c.UseDora:
		field = "use_dora true"
	case c.LoraBias:
		field = "lora_bias true"
	case c.Bias != BiasNone:
		field = fmt.Sprintf("bias %q", c.Bias)
	case len(c.ModulesToSave) > 0:
		field = "modules_to_save " + moduleNames(c.ModulesToSave).String()
	case len(c.TrainableTokenIndices) > 0:
		field = fmt.Sprintf("trainable_token_indices %v", c.TrainableTokenIndices)
	default:
		return nil
	}
	return fmt.Errorf("%s: %s; merge it (SaveMerged) instead", field, what)
}

// checkBias checks bias and lora_bias, with defaults filled in.
func (c LoraConfig) checkBias() error {
	switch {
	case c.Bias != BiasNone && c.Bias != BiasAll && c.Bias != BiasLoraOnly:
		return fmt.Errorf("bias %q is unknown; use %q, %q or %q", c.Bias, BiasNone, BiasAll, BiasLoraOnly)
	case !c.LoraBias:
		return nil
	case c.Bias != BiasNone:
		return fmt.Errorf("lora_bias true with bias %q: both train what is added to the same outputs; use one of them", c.Bias)
	case c.InitLoraWeights != InitTrue && c.InitLoraWeights != InitFalse:
		return fmt.Errorf("lora_bias true with init_lora_weights %q: as in PEFT, it needs true or false", string(c.InitLoraWeights))
	case c.UseDora:
		return fmt.Errorf("lora_bias true with use_dora true: as in PEFT, they exclude each other")
	}
	return nil
}
