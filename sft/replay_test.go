package sft

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/tokenizer"
)

// recordedBatch is what TRL fed to its model and what the model made of it (testdata/training.py).
type recordedBatch struct {
	InputIDs      [][]int32 `json:"input_ids"`
	Labels        [][]int32 `json:"labels"`
	AttentionMask [][]int32 `json:"attention_mask"`
	PositionIDs   [][]int32 `json:"position_ids"`
	LossSum       float64   `json:"loss_sum"`
	EntropySum    float64   `json:"entropy_sum"`
	Correct       int       `json:"correct"`
	NumLabels     int       `json:"num_labels"`
}

type recordedRun struct {
	Name        string
	Rows        []Row
	EvalRows    []Row `json:"eval_rows"`
	Options     json.RawMessage
	Checkpoints []string
	Evals       []recordedBatch
	State       TrainerState
	Steps       []struct {
		LearningRate float64 `json:"learning_rate"`
		GradNorm     float64 `json:"grad_norm"`
		Micro        []recordedBatch
	}
}

// replayModel answers every batch as TRL's model did, after checking that it is TRL's batch.
type replayModel struct {
	t                 *testing.T
	run               recordedRun
	step, micro, eval int
	wantItems         int
}

func (m *replayModel) NewSession(SessionOptions) (Session, error) { return m, nil }
func (m *replayModel) SavePretrained(string) error                { return nil }
func (m *replayModel) SaveState(string) error                     { return nil }
func (m *replayModel) LoadState(string) error                     { return nil }
func (m *replayModel) MemoryInUse() (int64, bool)                 { return 0, false }
func (m *replayModel) Close() error                               { return nil }

func (m *replayModel) MicroStep(_ context.Context, b *Batch) (Stats, error) {
	want := m.run.Steps[m.step].Micro[m.micro]
	m.check(fmt.Sprintf("step %d, micro-step %d", m.step, m.micro), b, want)
	m.micro++
	m.wantItems += want.NumLabels
	return Stats{LossSum: want.LossSum, EntropySum: want.EntropySum, Correct: want.Correct}, nil
}

func (m *replayModel) Evaluate(_ context.Context, b *Batch) (Stats, error) {
	want := m.run.Evals[m.eval]
	m.check(fmt.Sprintf("evaluation batch %d", m.eval), b, want)
	m.eval++
	return Stats{LossSum: want.LossSum, EntropySum: want.EntropySum, Correct: want.Correct}, nil
}

func (m *replayModel) Apply(_ context.Context, o ApplyOptions) (float64, error) {
	want := m.run.Steps[m.step]
	if m.micro != len(want.Micro) || o.NumItems != float64(m.wantItems) {
		m.t.Errorf("step %d: %d micro-steps with %v labels, TRL %d with %d", m.step, m.micro, o.NumItems, len(want.Micro), m.wantItems)
	}
	if math.Abs(o.LearningRate-want.LearningRate) > 1e-15 {
		m.t.Errorf("step %d: learning rate %v, TRL %v", m.step, o.LearningRate, want.LearningRate)
	}
	m.step++
	m.micro, m.wantItems = 0, 0
	return want.GradNorm, nil
}

// check compares tokens, positions and next-token labels, whatever the padding: TRL flattens packed batches into one row.
func (m *replayModel) check(where string, b *Batch, want recordedBatch) {
	m.t.Helper()
	var wantIDs, wantLabels, wantPositions []int32
	for i, row := range want.InputIDs {
		for t, id := range row {
			if want.AttentionMask != nil && want.AttentionMask[i][t] == 0 {
				continue
			}
			wantIDs = append(wantIDs, id)
			position := int32(t)
			if want.PositionIDs != nil {
				position = want.PositionIDs[i][t]
			}
			wantPositions = append(wantPositions, position)
			label := int32(Ignored)
			if t+1 < len(row) {
				label = want.Labels[i][t+1] // TRL's model shifts
			}
			wantLabels = append(wantLabels, label)
		}
	}
	var ids, labels, positions []int32
	for i, id := range b.IDs {
		if b.Segments[i] != 0 {
			ids, labels, positions = append(ids, id), append(labels, b.Labels[i]), append(positions, b.Positions[i])
		} else if b.Labels[i] != Ignored {
			m.t.Errorf("%s: padding has the label %d", where, b.Labels[i])
		}
	}
	if !slices.Equal(ids, wantIDs) || !slices.Equal(labels, wantLabels) || !slices.Equal(positions, wantPositions) {
		m.t.Errorf("%s:\n ids %v\nTRL %v\n labels %v\nTRL    %v\n positions %v\nTRL       %v", where, ids, wantIDs, labels, wantLabels, positions, wantPositions)
	}
	if b.NumLabels != want.NumLabels || b.NumTokens != len(wantIDs) {
		m.t.Errorf("%s: %d labels of %d tokens, TRL %d of %d", where, b.NumLabels, b.NumTokens, want.NumLabels, len(wantIDs))
	}
}

// readConfig reads TRL's options, whose names are the json tags of SFTConfig.
func readConfig(t *testing.T, options json.RawMessage) (c SFTConfig) {
	t.Helper()
	var raw map[string]any
	if err := json.Unmarshal(options, &raw); err != nil {
		t.Fatal(err)
	}
	if length, ok := raw["max_length"]; ok && length == nil {
		raw["max_length"] = NoMaxLength
	}
	text, err := json.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		t.Fatal(err)
	}
	c.OutputDir, c.Logger = t.TempDir(), quiet
	return c
}

func TestTrainFeedsLogsAndSavesAsTRL(t *testing.T) {
	var fixture struct{ Cases []recordedRun }
	readFixture(t, "training.json", &fixture)
	tok, err := tokenizer.FromPretrained(filepath.Join("testdata", "tokenizer"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range fixture.Cases {
		t.Run(want.Name, func(t *testing.T) {
			c := readConfig(t, want.Options)
			if want.EvalRows != nil {
				c.EvalDataset = FromRows(want.EvalRows)
			}
			model := &replayModel{t: t, run: want}
			trainer, err := NewSFTTrainer(model, tok, FromRows(want.Rows), c)
			if err != nil {
				t.Fatal(err)
			}
			report, err := trainer.Train(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if model.step != len(want.Steps) || model.eval != len(want.Evals) {
				t.Errorf("%d steps and %d evaluation batches, TRL %d and %d", model.step, model.eval, len(want.Steps), len(want.Evals))
			}
			var got TrainerState
			if err := readJSON(filepath.Join(c.OutputDir, stateFile), &got); err != nil {
				t.Fatal(err)
			}
			compareStates(t, got, want.State, c)
			summary := want.State.LogHistory[len(want.State.LogHistory)-1]
			if loss, _ := summary.Get("train_loss"); !near(report.TrainingLoss, loss) {
				t.Errorf("training loss %v, TRL %v", report.TrainingLoss, loss)
			}
			paths, err := findCheckpoints(c.OutputDir)
			if err != nil {
				t.Fatal(err)
			}
			for i := range paths {
				paths[i] = filepath.Base(paths[i])
			}
			if !slices.Equal(paths, want.Checkpoints) {
				t.Errorf("checkpoints %v, TRL %v", paths, want.Checkpoints)
			}
		})
	}
}

func compareStates(t *testing.T, got, want TrainerState, c SFTConfig) {
	t.Helper()
	if len(got.LogHistory) != len(want.LogHistory) {
		t.Fatalf("%d log lines, TRL %d:\n%v\n%v", len(got.LogHistory), len(want.LogHistory), got.LogHistory, want.LogHistory)
	}
	for i, line := range want.LogHistory {
		compareLines(t, i, got.LogHistory[i], line)
	}
	if c.EvalStrategy != Steps {
		want.EvalSteps = got.EvalSteps // transformers shows an unused default
	}
	if want.BestCheckpoint != nil {
		want.BestCheckpoint = new(filepath.Join(c.OutputDir, *want.BestCheckpoint))
		if !near(*got.BestMetric, *want.BestMetric) {
			t.Errorf("best metric %v, TRL %v", *got.BestMetric, *want.BestMetric)
		}
		want.BestMetric = got.BestMetric
	}
	got.LogHistory, want.LogHistory, want.totalFlos = nil, nil, 0
	a, b := mustJSON(t, got), mustJSON(t, want)
	if a != b {
		t.Errorf("state\n%s\nTRL\n%s", a, b)
	}
}

// compareLines requires TRL's metrics; times differ, and total_flos is not counted here. The summary may have more.
func compareLines(t *testing.T, i int, got, want Metrics) {
	t.Helper()
	for _, m := range want {
		if m.Name == "total_flos" {
			continue
		}
		value, ok := got.Get(m.Name)
		timed := strings.HasSuffix(m.Name, "_runtime") || strings.HasSuffix(m.Name, "_per_second")
		if !ok || !timed && !near(value, m.Value) {
			t.Errorf("log line %d: %s is %v, TRL %v", i, m.Name, value, m.Value)
		}
	}
	got = slices.DeleteFunc(slices.Clone(got), func(m Metric) bool { return m.Name == "eval_perplexity" }) // TRL has none
	_, summary := want.Get("train_loss")
	if !summary && len(got) != len(want) {
		t.Errorf("log line %d has %v, TRL %v", i, got, want)
	}
}

// near allows for TRL's float32.
func near(a, b float64) bool { return math.Abs(a-b) <= 1e-6*max(1, math.Abs(b)) }

func readFixture(t *testing.T, name string, v any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatal(err)
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
