package sft

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/loris-ml/loris/internal/atomicfile"
)

// stateFile is transformers' name of the file that holds a TrainerState.
const stateFile = "trainer_state.json"

// TrainerState is how far a run has come: transformers.TrainerState, in whose file format it is saved.
type TrainerState struct {
	Epoch              float64 // epochs done, with the fraction of the present one
	GlobalStep         int     // optimizer steps done
	MaxSteps           int
	LoggingSteps       int
	EvalSteps          int
	SaveSteps          int
	TrainBatchSize     int
	NumTrainEpochs     int
	LogHistory         []Metrics
	BestMetric         *float64
	BestGlobalStep     *int
	BestCheckpoint     *string
	CallbackStates     map[string]json.RawMessage
	numInputTokensSeen int64   // not counted, but kept
	totalFlos          float64 // not counted, but kept
}

// MarshalJSON writes the fields of transformers.TrainerState; those that Loris does not track have its defaults.
func (s TrainerState) MarshalJSON() ([]byte, error) {
	history := s.LogHistory
	if history == nil {
		history = []Metrics{}
	}
	callbacks := s.CallbackStates
	if callbacks == nil {
		callbacks = map[string]json.RawMessage{}
	}
	var best any
	if s.BestMetric != nil {
		best = pythonFloat(*s.BestMetric)
	}
	return json.Marshal(map[string]any{
		"best_global_step": s.BestGlobalStep, "best_metric": best, "best_model_checkpoint": s.BestCheckpoint,
		"epoch": pythonFloat(s.Epoch), "global_step": s.GlobalStep, "max_steps": s.MaxSteps,
		"logging_steps": s.LoggingSteps, "eval_steps": s.EvalSteps, "save_steps": s.SaveSteps,
		"train_batch_size": s.TrainBatchSize, "num_train_epochs": s.NumTrainEpochs, "log_history": history,
		"num_input_tokens_seen": s.numInputTokensSeen, "total_flos": pythonFloat(s.totalFlos), "stateful_callbacks": callbacks,
		"is_local_process_zero": true, "is_world_process_zero": true, "is_hyper_param_search": false,
		"trial_name": nil, "trial_params": nil,
	})
}

// UnmarshalJSON reads a state that Loris or transformers has written.
func (s *TrainerState) UnmarshalJSON(text []byte) error {
	var f struct {
		Epoch          float64                    `json:"epoch"`
		GlobalStep     int                        `json:"global_step"`
		MaxSteps       int                        `json:"max_steps"`
		LoggingSteps   float64                    `json:"logging_steps"`
		EvalSteps      float64                    `json:"eval_steps"`
		SaveSteps      float64                    `json:"save_steps"`
		TrainBatchSize int                        `json:"train_batch_size"`
		NumTrainEpochs int                        `json:"num_train_epochs"`
		LogHistory     []Metrics                  `json:"log_history"`
		BestMetric     *float64                   `json:"best_metric"`
		BestGlobalStep *int                       `json:"best_global_step"`
		BestCheckpoint *string                    `json:"best_model_checkpoint"`
		CallbackStates map[string]json.RawMessage `json:"stateful_callbacks"`
		TokensSeen     int64                      `json:"num_input_tokens_seen"`
		TotalFlos      float64                    `json:"total_flos"`
	}
	if err := json.Unmarshal(text, &f); err != nil {
		return err
	}
	*s = TrainerState{f.Epoch, f.GlobalStep, f.MaxSteps, int(f.LoggingSteps), int(f.EvalSteps), int(f.SaveSteps), f.TrainBatchSize,
		f.NumTrainEpochs, f.LogHistory, f.BestMetric, f.BestGlobalStep, f.BestCheckpoint, f.CallbackStates, f.TokensSeen, f.TotalFlos}
	return nil
}

// Save writes the state to a file, whole or not at all, as transformers does: indented by 2, keys sorted, a newline at
// the end.
func (s TrainerState) Save(path string) error {
	text, err := pythonJSON(s)
	if err != nil {
		return fmt.Errorf("sft: %s: %w", path, err)
	}
	return atomicfile.WriteBytes(path, text)
}

// writeJSON writes a file of a folder that is not in place yet: the folder as a whole is flushed and renamed.
func writeJSON(path string, v any) error {
	text, err := pythonJSON(v)
	if err != nil {
		return fmt.Errorf("sft: %s: %w", path, err)
	}
	return os.WriteFile(path, text, 0o666)
}

// pythonJSON is json.dumps(v, indent=2, sort_keys=True) and a newline.
func pythonJSON(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var sorted any // decoded as maps, whose keys are written in order
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&sorted); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err = e.Encode(sorted)
	return out.Bytes(), err
}

func readJSON(path string, v any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("sft: %w", err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("sft: %s: %w; the file is damaged, resume from another checkpoint", path, err)
	}
	return nil
}

// bestMetric finds MetricForBestModel among an evaluation's metrics.
func (c *SFTConfig) bestMetric(m Metrics) (float64, error) {
	name := c.MetricForBestModel
	if !strings.HasPrefix(name, "eval_") {
		name = "eval_" + name
	}
	value, ok := m.Get(name)
	if !ok {
		var names []string
		for _, e := range m {
			names = append(names, e.Name)
		}
		return 0, fmt.Errorf("sft: SFTConfig.MetricForBestModel is %q: the evaluation has %q", c.MetricForBestModel, names)
	}
	return value, nil
}

func (c *SFTConfig) better(value, than float64) bool {
	if *c.GreaterIsBetter {
		return value > than
	}
	return value < than
}

// noteBest records an evaluation and reports whether it is the best so far.
func (s *TrainerState) noteBest(c *SFTConfig, m Metrics) (bool, error) {
	if c.MetricForBestModel == "" {
		return false, nil
	}
	value, err := c.bestMetric(m)
	if err != nil || s.BestMetric != nil && !c.better(value, *s.BestMetric) {
		return false, err
	}
	s.BestMetric = &value
	if c.SaveStrategy != No {
		s.BestGlobalStep = new(s.GlobalStep)
	}
	return true, nil
}

// checkpointName is the folder of a step's checkpoint in OutputDir.
func checkpointName(dir string, step int) string {
	return filepath.Join(dir, fmt.Sprintf("checkpoint-%d", step))
}
