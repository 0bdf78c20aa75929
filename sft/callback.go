package sft

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
)

// Callback is called at events of a training run; nil functions are skipped. An error ends the run with that error.
// The events come in this order: OnTrainBegin, then per optimizer step OnStepEnd and, where due, OnLog, OnEvaluate (an
// OnLog with the same metrics precedes it) and OnSave; OnEpochEnd, followed by the same three; OnTrainEnd.
type Callback struct {
	Name string // key of the callback's state in trainer_state.json; "" keeps none

	OnTrainBegin func(*Event) error
	OnStepEnd    func(*Event) error
	OnEpochEnd   func(*Event) error
	OnLog        func(*Event) error // Event.Metrics is the line
	OnEvaluate   func(*Event) error // Event.Metrics are the evaluation's
	OnSave       func(*Event) error // Event.Checkpoint is the folder
	OnTrainEnd   func(*Event) error // not when the run ends with an error

	// SaveState returns what RestoreState is given when a run is resumed.
	SaveState    func() (json.RawMessage, error)
	RestoreState func(json.RawMessage) error

	close func() error // at the end of Train, whatever its outcome
}

// Event is what a callback sees.
type Event struct {
	Context    context.Context // Train's
	Config     *SFTConfig      // defaults filled in; not to be changed
	State      *TrainerState   // not to be changed
	Control    *Control        // to steer the run
	Metrics    Metrics
	Checkpoint string
	// MemoryInUse is how many bytes of the device are in use; 0 if the device does not tell. OnLog only.
	MemoryInUse int64
}

// Control steers a run; a callback sets what it wants. The last three act at the end of the present step only.
type Control struct {
	ShouldTrainingStop bool `json:"should_training_stop"`
	ShouldEpochStop    bool `json:"should_epoch_stop"`
	ShouldSave         bool `json:"should_save"`
	ShouldEvaluate     bool `json:"should_evaluate"`
	ShouldLog          bool `json:"should_log"`
}

func (c *Control) newStep() { c.ShouldSave, c.ShouldEvaluate, c.ShouldLog = false, false, false }

// callbacks are called in order.
type callbacks []Callback

func (cs callbacks) call(event string, e *Event, of func(Callback) func(*Event) error) error {
	for i, c := range cs {
		if f := of(c); f != nil {
			if err := f(e); err != nil {
				return fmt.Errorf("sft: callback %d %q, %s at step %d: %w", i+1, c.Name, event, e.State.GlobalStep, err)
			}
		}
	}
	return nil
}

// save gathers the callbacks' states by name, and control's as transformers does.
func (cs callbacks) save(control Control) (map[string]json.RawMessage, error) {
	text, err := json.Marshal(map[string]any{"args": control, "attributes": struct{}{}})
	if err != nil {
		return nil, err
	}
	states := map[string]json.RawMessage{"TrainerControl": text}
	for _, c := range cs {
		if c.Name == "" || c.SaveState == nil {
			continue
		}
		if _, twice := states[c.Name]; twice {
			return nil, fmt.Errorf("sft: two callbacks are named %q; their states need different names", c.Name)
		}
		state, err := c.SaveState()
		if err != nil {
			return nil, fmt.Errorf("sft: callback %q: %w", c.Name, err)
		}
		states[c.Name] = state
	}
	return states, nil
}

func (cs callbacks) restore(states map[string]json.RawMessage) error {
	for _, c := range cs {
		state, ok := states[c.Name]
		if !ok || c.RestoreState == nil {
			continue
		}
		if err := c.RestoreState(state); err != nil {
			return fmt.Errorf("sft: callback %q: restore its state: %w", c.Name, err)
		}
	}
	return nil
}

// EarlyStopping stops training when MetricForBestModel has not improved by more than threshold in patience evaluations
// in a row (transformers.EarlyStoppingCallback, whose state it keeps). It needs SFTConfig.MetricForBestModel.
func EarlyStopping(patience int, threshold float64) Callback {
	type attributes struct {
		Counter int `json:"early_stopping_patience_counter"`
	}
	var now attributes
	type arguments struct {
		Patience  int         `json:"early_stopping_patience"`
		Threshold pythonFloat `json:"early_stopping_threshold"`
	}
	type state struct {
		Args       arguments  `json:"args"`
		Attributes attributes `json:"attributes"`
	}
	return Callback{
		Name: "EarlyStoppingCallback",
		OnTrainBegin: func(e *Event) error {
			if e.Config.MetricForBestModel == "" || e.Config.EvalStrategy == No {
				return errors.New("early stopping needs evaluations: set SFTConfig.MetricForBestModel, EvalDataset and EvalStrategy steps or epoch")
			}
			if e.State.GlobalStep == 0 {
				now = attributes{}
			}
			return nil
		},
		OnEvaluate: func(e *Event) error {
			value, err := e.Config.bestMetric(e.Metrics)
			if err != nil {
				return err
			}
			best := e.State.BestMetric
			if best == nil || e.Config.better(value, *best) && math.Abs(value-*best) > threshold {
				now.Counter = 0
			} else {
				now.Counter++
			}
			if now.Counter >= patience {
				e.Control.ShouldTrainingStop = true
			}
			return nil
		},
		SaveState: func() (json.RawMessage, error) {
			return json.Marshal(state{arguments{patience, pythonFloat(threshold)}, now})
		},
		RestoreState: func(text json.RawMessage) error {
			var s state
			err := json.Unmarshal(text, &s)
			now = s.Attributes
			return err
		},
	}
}
