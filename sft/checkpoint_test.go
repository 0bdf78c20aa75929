package sft

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// longConfig exercises all that a resumed run must continue: dropout, log lines that do not fall on checkpoints, both
// kinds of evaluation, packing or not, epochs of 4 steps.
func longConfig(t *testing.T) SFTConfig {
	c := testConfig(t)
	c.NumTrainEpochs, c.LoggingSteps, c.LoggingFirstStep, c.WarmupSteps = 2, 5, true, 3
	c.EvalDataset, c.EvalStrategy, c.EvalSteps = FromRows(zen()[:5]), Steps, 3
	c.SaveStrategy, c.SaveSteps = Steps, 3
	return c
}

func dropoutModel() *toyModel {
	m := newToyModel()
	m.dropout = 0.25
	return m
}

// straight is the uninterrupted run that others are compared with.
func straight(t *testing.T, c SFTConfig) (*toyModel, *Report) {
	t.Helper()
	m := dropoutModel()
	c.OutputDir = t.TempDir()
	return m, mustTrain(t, m, zen(), c)
}

func sameRun(t *testing.T, name string, got *toyModel, gotReport *Report, want *toyModel, wantReport *Report) {
	t.Helper()
	if !slices.Equal(got.w, want.w) {
		t.Errorf("%s: weights differ from the straight run's by %.3g", name, distance(got.w, want.w))
	}
	if a, b := untimed(gotReport.LogHistory), untimed(wantReport.LogHistory); mustJSONOf(a) != mustJSONOf(b) {
		t.Errorf("%s: log history\n%v\nstraight run\n%v", name, a, b)
	}
	if gotReport.GlobalStep != wantReport.GlobalStep || gotReport.NumTokens != wantReport.NumTokens || gotReport.Epoch != wantReport.Epoch {
		t.Errorf("%s: report %+v, straight run %+v", name, gotReport, wantReport)
	}
}

// mustJSONOf compares lines whatever their order: one read from a file is sorted.
func mustJSONOf(lines []Metrics) string {
	var maps []map[string]float64
	for _, m := range lines {
		values := map[string]float64{}
		for _, e := range m {
			values[e.Name] = e.Value
		}
		maps = append(maps, values)
	}
	text, err := json.Marshal(maps)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func TestResumedRunEqualsStraightRun(t *testing.T) {
	for name, change := range map[string]func(*SFTConfig){
		"padded":  func(*SFTConfig) {},
		"packed":  func(c *SFTConfig) { c.Packing, c.PerDeviceTrainBatchSize, c.MaxLength = true, 1, 80 },
		"shuffle": func(c *SFTConfig) { c.ShuffleDataset, c.LRSchedulerType = true, Cosine },
		"epochs":  func(c *SFTConfig) { c.EvalStrategy, c.LoggingStrategy = Epoch, Epoch },
		"plateau": func(c *SFTConfig) {
			c.LRSchedulerType, c.LRSchedulerKwargs = ReduceLROnPlateau, map[string]any{"patience": 0, "factor": 0.5, "threshold": 0.05}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := longConfig(t)
			change(&c)
			want, wantReport := straight(t, c)
			mustTrain(t, dropoutModel(), zen(), c)
			names := checkpoints(t, c.OutputDir)
			if len(names) < 2 {
				t.Fatalf("checkpoints %v", names)
			}
			for _, from := range names {
				resumed := c
				resumed.OutputDir = t.TempDir()
				resumed.ResumeFromCheckpoint = filepath.Join(c.OutputDir, from)
				m := newToyModel()
				m.dropout = 0.25
				clear(m.w) // all of it must come from the checkpoint
				sameRun(t, from, m, mustTrain(t, m, zen(), resumed), want, wantReport)
			}
		})
	}
}

// TestCancelledRunResumes cancels before every micro-step and in every evaluation, one after the other.
func TestCancelledRunResumesAsIfNothingHadHappened(t *testing.T) {
	for name, change := range map[string]func(*SFTConfig){
		"steps":  func(c *SFTConfig) { c.EvalOnStart = true },
		"epochs": func(c *SFTConfig) { c.EvalStrategy, c.LoggingStrategy, c.SaveStrategy = Epoch, Epoch, Epoch },
		"best": func(c *SFTConfig) {
			c.SaveStrategy, c.MetricForBestModel, c.Callbacks = Best, "loss", []Callback{EarlyStopping(3, 0)}
		},
		"plateau": func(c *SFTConfig) {
			c.LRSchedulerType, c.LRSchedulerKwargs = ReduceLROnPlateau, map[string]any{"patience": 0, "factor": 0.5, "threshold": 0.05}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := longConfig(t)
			change(&c)
			want, wantReport := straight(t, c)
			steps, evals := want.micro, 0
			for at := range steps + 14 {
				if name != "steps" && at < steps && at%4 != 1 {
					continue
				}
				c.OutputDir = t.TempDir()
				c.ResumeFromCheckpoint = ""
				if c.SaveStrategy == Best {
					c.Callbacks = []Callback{EarlyStopping(3, 0)}
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				m := dropoutModel()
				if at < steps {
					m.microStep = func(n int) error {
						if n == at+1 {
							cancel(errBroken)
						}
						return nil
					}
				} else {
					evals = 0
					m.evaluate = func() error {
						if evals++; evals == at-steps+1 {
							cancel(errBroken)
							return ctx.Err()
						}
						return nil
					}
				}
				report, err := mustTrainer(t, m, zen(), c).Train(ctx)
				if err == nil { // cancelled in the last evaluation batch of all, or there are fewer than 14
					cancel(nil)
					continue
				}
				if !errors.Is(err, errBroken) || !errors.Is(err, context.Canceled) || report == nil || report.LastCheckpoint == "" || m.sessions != 0 {
					t.Fatalf("cancelled at %d: %v, report %+v", at, err, report)
				}
				c.ResumeFromCheckpoint = LastCheckpoint
				if c.SaveStrategy == Best {
					c.Callbacks = []Callback{EarlyStopping(3, 0)}
				}
				again := dropoutModel()
				clear(again.w)
				sameRun(t, fmt.Sprintf("cancelled at %d", at), again, mustTrain(t, again, zen(), c), want, wantReport)
				cancel(nil)
			}
			if evals == 0 {
				t.Error("no evaluation was cancelled")
			}
		})
	}
}

func TestDeadlineCancelsToo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	c := testConfig(t)
	c.SaveStrategy = Steps
	report, err := mustTrainer(t, newToyModel(), zen(), c).Train(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || report.GlobalStep != 0 {
		t.Errorf("%v after %d steps", err, report.GlobalStep)
	}
	if !slices.Equal(checkpoints(t, c.OutputDir), []string{"checkpoint-0"}) {
		t.Errorf("checkpoints %v", checkpoints(t, c.OutputDir))
	}
	c.SaveStrategy, c.OutputDir = No, t.TempDir()
	if _, err := mustTrainer(t, newToyModel(), zen(), c).Train(ctx); err == nil || len(checkpoints(t, c.OutputDir)) > 0 {
		t.Errorf("SaveStrategy no: %v, %v", err, checkpoints(t, c.OutputDir))
	}
}

func TestCheckpointHoldsAllFiles(t *testing.T) {
	c := testConfig(t)
	c.SaveStrategy, c.SaveSteps = Steps, 5
	report := mustTrain(t, newToyModel(), zen(), c)
	if want := []string{"checkpoint-5", "checkpoint-8"}; !slices.Equal(checkpoints(t, c.OutputDir), want) {
		t.Errorf("got %v, want %v", checkpoints(t, c.OutputDir), want)
	}
	if report.LastCheckpoint != filepath.Join(c.OutputDir, "checkpoint-8") {
		t.Errorf("the report names %q", report.LastCheckpoint)
	}
	for _, f := range []string{"weights.gob", "optimizer.gob", "tokenizer.json", stateFile, resumeFile, argsFile} {
		if _, err := os.Stat(filepath.Join(report.LastCheckpoint, f)); err != nil {
			t.Error(err)
		}
	}
	var args SFTConfig
	if err := readJSON(filepath.Join(report.LastCheckpoint, argsFile), &args); err != nil {
		t.Fatal(err)
	}
	c = c.withDefaults()
	args.Logger = c.Logger
	if !reflect.DeepEqual(args, c) {
		t.Errorf("training_args.json holds\n%+v\nwant\n%+v", args, c)
	}
	entries, err := os.ReadDir(c.OutputDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			t.Errorf("left over: %s", e.Name())
		}
	}
}

func TestSaveOnlyModelCannotBeResumed(t *testing.T) {
	c := testConfig(t)
	c.SaveStrategy, c.SaveOnlyModel = Epoch, true
	mustTrain(t, newToyModel(), zen(), c)
	dir := filepath.Join(c.OutputDir, "checkpoint-4")
	if _, err := os.Stat(filepath.Join(dir, "optimizer.gob")); err == nil {
		t.Error("the optimizer was saved")
	}
	c.ResumeFromCheckpoint = dir
	_, err := mustTrainer(t, newToyModel(), zen(), c).Train(t.Context())
	wantError(t, err, "checkpoint-4", resumeFile, "SaveOnlyModel")
}

func TestFailedSaveLeavesNoCheckpoint(t *testing.T) {
	c := testConfig(t)
	c.SaveStrategy = Epoch
	m := newToyModel()
	m.saveErr = errBroken
	_, err := mustTrainer(t, m, zen(), c).Train(t.Context())
	wantError(t, err, "checkpoint of step 4", errBroken.Error())
	entries, err := os.ReadDir(c.OutputDir)
	if err != nil || len(entries) != 0 {
		t.Errorf("left over: %v %v", entries, err)
	}
}

// unlearned are rows that a model trained on zen becomes worse at.
func unlearned() (rows []Row) {
	for range 5 {
		rows = append(rows, Row{"text": strings.Repeat("Z{}~#", 8)})
	}
	return rows
}

func TestRotationKeepsTheNewestAndTheBest(t *testing.T) {
	c := testConfig(t)
	c.SaveStrategy, c.SaveSteps, c.SaveTotalLimit = Steps, 1, 2
	if err := os.Mkdir(filepath.Join(c.OutputDir, "checkpoint-900"), 0o777); err != nil { // of an older run
		t.Fatal(err)
	}
	mustTrain(t, newToyModel(), zen(), c)
	if want := []string{"checkpoint-7", "checkpoint-8"}; !slices.Equal(checkpoints(t, c.OutputDir), want) {
		t.Errorf("got %v, want %v", checkpoints(t, c.OutputDir), want)
	}

	c = testConfig(t)
	c.EvalDataset, c.EvalStrategy, c.SaveStrategy, c.NumTrainEpochs = FromRows(unlearned()), Epoch, Epoch, 4
	c.LearningRate, c.LRSchedulerType = 0.3, Constant
	c.LoadBestModelAtEnd, c.SaveTotalLimit = true, 2
	m := newToyModel()
	report := mustTrain(t, m, zen(), c)
	var evals []float64
	for _, line := range report.LogHistory {
		if v, ok := line.Get("eval_loss"); ok {
			evals = append(evals, v)
		}
	}
	best := slices.Index(evals, slices.Min(evals))
	if best == len(evals)-1 {
		t.Fatalf("the last evaluation is the best of %v: the test tests nothing", evals)
	}
	if *report.BestMetric != evals[best] || report.BestCheckpoint != checkpointName(c.OutputDir, 4*(best+1)) {
		t.Errorf("best %v in %s, evaluations %v", *report.BestMetric, report.BestCheckpoint, evals)
	}
	after, err := mustTrainer(t, m, zen(), c).Evaluate(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if loss, _ := after.Get("eval_loss"); loss != evals[best] {
		t.Errorf("the model that stays has the loss %v, the best was %v", loss, evals[best])
	}
}

func TestEarlyStoppingEndsTraining(t *testing.T) {
	c := testConfig(t)
	c.EvalDataset, c.EvalStrategy, c.MetricForBestModel, c.NumTrainEpochs = FromRows(unlearned()), Epoch, "eval_loss", 30
	c.LearningRate, c.LRSchedulerType = 0.3, Constant
	c.Callbacks = []Callback{EarlyStopping(2, 0.001)}
	report := mustTrain(t, newToyModel(), zen(), c)
	if report.GlobalStep != 3*4 { // the first evaluation was the best
		t.Errorf("trained %d steps: %v", report.GlobalStep, report.LogHistory)
	}
	c.MetricForBestModel = ""
	_, err := mustTrainer(t, newToyModel(), zen(), c).Train(t.Context())
	wantError(t, err, "EarlyStoppingCallback", "MetricForBestModel")
	c.MetricForBestModel = "bleu"
	_, err = mustTrainer(t, newToyModel(), zen(), c).Train(t.Context())
	wantError(t, err, "MetricForBestModel", `"bleu"`, "eval_loss")
}

func TestResumeRefusesOtherData(t *testing.T) {
	c := testConfig(t)
	c.SaveStrategy, c.SaveSteps = Steps, 3
	mustTrain(t, newToyModel(), zen(), c)
	c.ResumeFromCheckpoint = filepath.Join(c.OutputDir, "checkpoint-3")
	other := zen()
	other[3] = Row{"text": "Something else."}
	_, err := mustTrainer(t, newToyModel(), other, c).Train(t.Context())
	wantError(t, err, "checkpoint-3", "other tokens", "IgnoreDataSkip")

	changed := c
	changed.PerDeviceTrainBatchSize, changed.DataSeed = 1, 5
	_, err = mustTrainer(t, newToyModel(), zen(), changed).Train(t.Context())
	wantError(t, err, "per_device_train_batch_size was 2, now 1", "data_seed was 42, now 5")

	c.IgnoreDataSkip = true
	m := newToyModel()
	report := mustTrain(t, m, other, c)
	if report.GlobalStep != 8 || m.micro != 4*2+2-1 { // the first epoch over again, then one step of the second
		t.Errorf("%d steps, %d micro-steps in this call", report.GlobalStep, m.micro)
	}
}

func TestResumeFaultsNameTheCheckpoint(t *testing.T) {
	c := testConfig(t)
	c.ResumeFromCheckpoint = LastCheckpoint
	_, err := mustTrainer(t, newToyModel(), zen(), c).Train(t.Context())
	wantError(t, err, "ResumeFromCheckpoint", "has no checkpoint", `"auto"`)

	c.ResumeFromCheckpoint = filepath.Join(c.OutputDir, "nothing")
	_, err = mustTrainer(t, newToyModel(), zen(), c).Train(t.Context())
	wantError(t, err, "ResumeFromCheckpoint", "nothing", "want a checkpoint folder")

	c.ResumeFromCheckpoint, c.SaveStrategy = AutoCheckpoint, Epoch
	first := mustTrain(t, newToyModel(), zen(), c) // starts afresh
	m := newToyModel()
	if report := mustTrain(t, m, zen(), c); report.GlobalStep != first.GlobalStep || m.micro != 0 {
		t.Errorf("a finished run was run again: %d micro-steps", m.micro)
	}
	for file, damage := range map[string]string{stateFile: "{", resumeFile: "x", "optimizer.gob": "y"} {
		c := c
		c.OutputDir = t.TempDir()
		mustTrain(t, newToyModel(), zen(), c)
		path := filepath.Join(c.OutputDir, "checkpoint-8", file)
		if err := os.WriteFile(path, []byte(damage), 0o666); err != nil {
			t.Fatal(err)
		}
		m := newToyModel()
		_, err := mustTrainer(t, m, zen(), c).Train(t.Context())
		wantError(t, err, "checkpoint-8")
		if m.sessions != 0 {
			t.Errorf("%s: a session is open", file)
		}
	}
}

func TestMoreStepsThanTheCheckpointsRunContinue(t *testing.T) {
	c := testConfig(t)
	c.SaveStrategy, c.LRSchedulerType, c.MaxSteps = Steps, Constant, 6
	mustTrain(t, newToyModel(), zen(), c)
	c.MaxSteps, c.ResumeFromCheckpoint = 11, LastCheckpoint
	m := newToyModel()
	got := mustTrain(t, m, zen(), c)
	c.ResumeFromCheckpoint, c.OutputDir = "", t.TempDir()
	want := newToyModel()
	mustTrain(t, want, zen(), c)
	if got.GlobalStep != 11 || !slices.Equal(m.w, want.w) {
		t.Errorf("%d steps; weights differ by %.3g", got.GlobalStep, distance(m.w, want.w))
	}
}

func TestCallbackStatesAreSavedAndRestored(t *testing.T) {
	c := testConfig(t)
	c.SaveStrategy, c.SaveSteps = Steps, 3
	count := func(n *int) Callback {
		return Callback{Name: "count",
			OnStepEnd:    func(*Event) error { *n++; return nil },
			SaveState:    func() (json.RawMessage, error) { return json.Marshal(*n) },
			RestoreState: func(text json.RawMessage) error { return json.Unmarshal(text, n) },
		}
	}
	var a, b int
	c.Callbacks = []Callback{count(&a)}
	mustTrain(t, newToyModel(), zen(), c)
	c.Callbacks, c.ResumeFromCheckpoint = []Callback{count(&b)}, filepath.Join(c.OutputDir, "checkpoint-3")
	mustTrain(t, newToyModel(), zen(), c)
	if a != 8 || b != 8 {
		t.Errorf("counted %d and, resumed, %d; want 8", a, b)
	}
	c.Callbacks, c.ResumeFromCheckpoint = []Callback{count(&a), count(&b)}, ""
	_, err := mustTrainer(t, newToyModel(), zen(), c).Train(t.Context())
	wantError(t, err, `two callbacks are named "count"`)
	c.Callbacks, c.ResumeFromCheckpoint = []Callback{{Name: "count", RestoreState: func(json.RawMessage) error { return errBroken }}}, filepath.Join(c.OutputDir, "checkpoint-3")
	_, err = mustTrainer(t, newToyModel(), zen(), c).Train(t.Context())
	wantError(t, err, `callback "count"`, errBroken.Error())
}
