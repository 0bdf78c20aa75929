package sft

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/loris-ml/loris/internal/atomicfile"
)

// cardFile is the model card of OutputDir.
const cardFile = "README.md"

// cardMetadata is the front matter that TRL gives a card.
type cardMetadata struct {
	BaseModel string   `yaml:"base_model,omitempty"`
	Library   string   `yaml:"library_name"`
	ModelName string   `yaml:"model_name"`
	Tags      []string `yaml:"tags"`
}

// writeCard writes OutputDir/README.md as of now: the metadata and sections of TRL's card, and the run's facts.
func (r *run) writeCard() error {
	text, err := r.card()
	if err != nil {
		return fmt.Errorf("sft: model card: %w", err)
	}
	return atomicfile.WriteBytes(filepath.Join(r.cfg.OutputDir, cardFile), text)
}

func (r *run) card() ([]byte, error) {
	base, err := r.baseModel()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	library := "transformers"
	if base.adapter {
		library = "peft"
	}
	b.WriteString("---\n")
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	err = errors.Join(e.Encode(cardMetadata{base.name, library, r.cfg.RunName, []string{"generated_from_trainer", "loris", "sft"}}), e.Close())
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(&b, "---\n\n# Model Card for %s\n\n", r.cfg.RunName)
	of := ""
	if base.name != "" {
		of = " of `" + base.name + "`"
	}
	fmt.Fprintf(&b, "This model is a fine-tuned version%s. It was trained with supervised fine-tuning (SFT) by [Loris](https://github.com/loris-ml/loris).\n", of)
	b.WriteString("\n## Training procedure\n\n")
	r.facts(&b)
	b.WriteString("\n## Results\n\n")
	results(&b, r.state)
	fmt.Fprintf(&b, "\n## Framework versions\n\n- Loris: %s\n", version())
	return b.Bytes(), nil
}

// facts is a table of data and settings.
func (r *run) facts(b *bytes.Buffer) {
	c, s := r.cfg, r.state
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	loss := c.LossType
	if l := c.loss(); l != nil {
		loss = l.Name
	}
	packing := "none"
	if c.Packing {
		packing = c.PackingStrategy
	}
	b.WriteString("| | |\n| --- | --- |\n")
	for _, fact := range [][2]string{
		{"rows", strconv.Itoa(r.report.Rows)},
		{"tokens per epoch", fmt.Sprintf("%d, of which %d are trained", r.report.Tokens, r.report.Labels)},
		{"max_length", strconv.Itoa(c.MaxLength)},
		{"packing", packing},
		{"steps", fmt.Sprintf("%d of %d (%.2f epochs)", s.GlobalStep, s.MaxSteps, s.Epoch)},
		{"batch size", fmt.Sprintf("%d × %d accumulated", c.PerDeviceTrainBatchSize, c.GradientAccumulationSteps)},
		{"loss", loss},
		{"optimizer", strings.TrimSpace(c.Optim + " " + c.OptimArgs)},
		{"learning rate", fmt.Sprintf("%s, %s, %d warmup steps", number(c.LearningRate), c.LRSchedulerType, c.warmup(s.MaxSteps))},
		{"weight decay", number(c.WeightDecay)},
		{"max_grad_norm", number(*c.MaxGradNorm)},
		{"seed", strconv.FormatInt(c.Seed, 10)},
		{"tokens trained on", strconv.FormatInt(r.tokens, 10)},
	} {
		fmt.Fprintf(b, "| %s | %s |\n", fact[0], fact[1])
	}
}

// results are the last value of each loss and accuracy, and the best evaluation.
func results(b *bytes.Buffer, s TrainerState) {
	b.WriteString("| metric | last value | step |\n| --- | --- | --- |\n")
	for _, name := range []string{"loss", "mean_token_accuracy", "eval_loss", "eval_perplexity", "eval_mean_token_accuracy"} {
		for i := len(s.LogHistory) - 1; i >= 0; i-- {
			if v, ok := s.LogHistory[i].Get(name); ok {
				step, _ := s.LogHistory[i].Get("step")
				fmt.Fprintf(b, "| %s | %.4f | %.0f |\n", name, v, step)
				break
			}
		}
	}
	if s.BestMetric != nil && s.BestGlobalStep != nil {
		fmt.Fprintf(b, "\nThe best evaluation was %.4f at step %d.\n", *s.BestMetric, *s.BestGlobalStep)
	}
}

// baseModel is what was fine-tuned.
type baseModel struct {
	name    string // as an adapter's configuration or the model's folder has it; "" is unknown
	adapter bool
}

func (r *run) baseModel() (m baseModel, err error) {
	if p, ok := r.model.(interface{ Path() string }); ok {
		m.name = p.Path()
	}
	if r.savedStep < 0 {
		return m, nil
	}
	text, err := os.ReadFile(filepath.Join(checkpointName(r.cfg.OutputDir, r.savedStep), "adapter_config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	var config struct {
		Base string `json:"base_model_name_or_path"`
	}
	if err == nil {
		err = json.Unmarshal(text, &config)
	}
	return baseModel{config.Base, true}, err
}

// version is this module's in the program that runs.
func version() string {
	const path = "github.com/loris-ml/loris"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append(info.Deps, &info.Main) {
			if m.Path == path && m.Version != "" {
				return m.Version
			}
		}
	}
	return "(devel)"
}
