package sft

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// Sample is a text that the model has generated during training.
type Sample struct {
	Step       int    `json:"step"`
	Prompt     string `json:"prompt"`
	Completion string `json:"completion"`
}

// GenerationSamples has the model continue prompts after every evaluation, and at the end of training. generate is, for
// example, a closure over PeftModel.Generate or CausalLM.Generate of the model that is trained; it sees the weights of the
// moment. The samples are logged, and written to w as JSON lines unless it is nil.
func GenerationSamples(w io.Writer, generate func(ctx context.Context, prompt string) (string, error), prompts ...string) Callback {
	last := -1
	sample := func(e *Event) error {
		if e.State.GlobalStep == last {
			return nil
		}
		last = e.State.GlobalStep
		for _, prompt := range prompts {
			text, err := generate(e.Context, prompt)
			if err != nil && e.Context.Err() != nil {
				return nil // the run is being cancelled, which must not look like an evaluation that failed
			}
			if err != nil {
				return fmt.Errorf("generate a sample for %q: %w", prompt, err)
			}
			e.Config.Logger.Info("sample", "step", last, "prompt", prompt, "completion", text)
			if w == nil {
				continue
			}
			if err := json.NewEncoder(w).Encode(Sample{last, prompt, text}); err != nil {
				return err
			}
		}
		return nil
	}
	return Callback{OnEvaluate: sample, OnTrainEnd: sample}
}

// ownMetrics adds SFTConfig.ComputeMetrics to an evaluation's.
func (c *SFTConfig) ownMetrics(ctx context.Context, m *Metrics) error {
	if c.ComputeMetrics == nil {
		return nil
	}
	own, err := c.ComputeMetrics(ctx)
	if err != nil {
		return fmt.Errorf("sft: SFTConfig.ComputeMetrics: %w", err)
	}
	for _, e := range own {
		name := "eval_" + e.Name
		if slices.ContainsFunc(*m, func(known Metric) bool { return known.Name == name }) || e.Name == "" || !finite(e.Value) {
			return fmt.Errorf("sft: SFTConfig.ComputeMetrics returns %q = %v: want finite numbers under names that evaluations do not have", e.Name, e.Value)
		}
		m.add(name, e.Value)
	}
	return nil
}
