package peft

import (
	"fmt"

	"github.com/loris-ml/loris/models"
)

// SaveGGUF writes the adapters as the GGUF file that llama.cpp's --lora reads on the base's GGUF file.
func (p *PeftModel) SaveGGUF(path string) error {
	const what = "llama.cpp knows A and B alone"
	if err := p.first().refuseBeyondLoRA(what); err != nil {
		return fmt.Errorf("save GGUF adapter: %w", err)
	}
	loras, err := p.activeLoras()
	if err != nil {
		return fmt.Errorf("save GGUF adapter: %w", err)
	}
	s, err := p.first().lora(what)
	if err != nil {
		return fmt.Errorf("save GGUF adapter: %w", err)
	}
	return p.base.SaveGGUFAdapter(path, s.cfg.LoraAlpha, loras)
}

// SaveMergedGGUF writes the base with the adapters in its weights as one GGUF file; see [PeftModel.SaveMerged] and
// [models.CausalLM.SaveGGUF].
func (p *PeftModel) SaveMergedGGUF(path string, o models.GGUFOptions) error {
	loras, err := p.activeLoras()
	if err != nil {
		return fmt.Errorf("save merged: %w", err)
	}
	o.Merge = append(o.Merge, loras...)
	return p.base.SaveGGUF(path, o)
}
