package sft

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"image/png"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TRL's own assertion for every kind of training: the loss falls and the weights change.
func TestTrainingLowersTheLoss(t *testing.T) {
	chats := []Row{}
	pairs := []Row{}
	for _, r := range zen() {
		words := strings.SplitN(r["text"].(string), " ", 2)
		chats = append(chats, Row{"messages": chat("user", words[0], "assistant", words[1])})
		pairs = append(pairs, Row{"prompt": words[0], "completion": " " + words[1]})
	}
	for _, c := range []struct {
		name   string
		rows   []Row
		change func(*SFTConfig)
	}{
		{"text", zen(), func(*SFTConfig) {}},
		{"pairs", pairs, func(*SFTConfig) {}},
		{"assistant only", chats, func(c *SFTConfig) { c.AssistantOnlyLoss, c.MaxLength = true, 128 }},
		{"bfd", zen(), func(c *SFTConfig) { c.Packing = true }},
		{"bfd_split", zen(), func(c *SFTConfig) { c.Packing, c.PackingStrategy, c.MaxLength = true, BFDSplit, 40 }},
		{"wrapped", zen(), func(c *SFTConfig) { c.Packing, c.PackingStrategy = true, Wrapped }},
		{"grouped by length, decay, no clipping", zen(), func(c *SFTConfig) {
			c.TrainSamplingStrategy, c.WeightDecay, c.MaxGradNorm, c.LRSchedulerType = GroupByLength, 0.01, new(0.0), Cosine
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := testConfig(t)
			config.NumTrainEpochs, config.LoggingSteps = 8, 1
			c.change(&config)
			model := newToyModel()
			before := slices.Clone(model.w)
			report := mustTrain(t, model, c.rows, config)
			loss := losses(report.LogHistory)
			if len(loss) != report.GlobalStep || loss[len(loss)-1] > 0.8*loss[0] {
				t.Errorf("losses %v in %d steps", loss, report.GlobalStep)
			}
			if slices.Equal(before, model.w) || model.sessions != 0 {
				t.Errorf("weights unchanged, or %d sessions left open", model.sessions)
			}
			if _, ok := report.LogHistory[len(report.LogHistory)-1].Get("train_loss"); !ok {
				t.Errorf("the last line is %v", report.LogHistory[len(report.LogHistory)-1])
			}
		})
	}
}

// distance is ‖a-b‖/‖b‖.
func distance(a, b []float64) float64 {
	var d, n float64
	for i := range a {
		d += (a[i] - b[i]) * (a[i] - b[i])
		n += b[i] * b[i]
	}
	return math.Sqrt(d / n)
}

func TestAccumulationDoesNotChangeTheResult(t *testing.T) {
	var want []float64
	var wantLog []float64
	for _, split := range [][2]int{{8, 1}, {4, 2}, {1, 8}} {
		c := testConfig(t)
		c.PerDeviceTrainBatchSize, c.GradientAccumulationSteps, c.LoggingSteps, c.NumTrainEpochs = split[0], split[1], 1, 4
		model := newToyModel()
		model.dropout = 0.3 // keyed by row, not by place
		report := mustTrain(t, model, zen(), c)
		if want == nil {
			want, wantLog = model.w, losses(report.LogHistory)
			continue
		}
		if d := distance(model.w, want); d > 1e-12 {
			t.Errorf("batch size %d × %d differs from 8 × 1 by %.3g", split[0], split[1], d)
		}
		if d := distance(losses(report.LogHistory), wantLog); d > 1e-12 {
			t.Errorf("batch size %d × %d: losses differ by %.3g", split[0], split[1], d)
		}
	}
}

func TestPackingDoesNotChangeTheGradient(t *testing.T) {
	var want []float64
	for _, c := range []struct {
		packing  bool
		strategy string
		length   int
		batch    int
	}{{false, "", 80, 13}, {true, BFD, 80, 13}, {true, BFDSplit, 300, 13}} {
		config := testConfig(t)
		config.Packing, config.PackingStrategy, config.MaxLength = c.packing, c.strategy, c.length
		config.PerDeviceTrainBatchSize, config.GradientAccumulationSteps, config.MaxSteps = c.batch, 1, 5 // all rows in every step
		model := newToyModel()
		report := mustTrain(t, model, zen(), config)
		if want == nil {
			want = model.w
			continue
		}
		if report.Data.BatchRows >= 13 {
			t.Errorf("nothing was packed: %+v", report.Data)
		}
		if d := distance(model.w, want); d > 1e-12 {
			t.Errorf("%s in rows of %d differs from unpacked by %.3g", c.strategy, c.length, d)
		}
	}
}

func TestPaddingDoesNotChangeTheResult(t *testing.T) {
	var want []float64
	for _, multiple := range []int{0, 1, 100} {
		c := testConfig(t)
		c.PadToMultipleOf = multiple
		model := newToyModel()
		mustTrain(t, model, zen(), c)
		if want == nil {
			want = model.w
		} else if d := distance(model.w, want); d > 1e-14 {
			t.Errorf("PadToMultipleOf %d differs by %.3g", multiple, d)
		}
	}
}

func TestTrainReportsWhatItDid(t *testing.T) {
	c := testConfig(t)
	c.EvalDataset, c.EvalStrategy, c.EvalSteps = FromRows(zen()[:3]), Steps, 4
	log, said := logTo()
	c.Logger = log
	report := mustTrain(t, newToyModel(), zen(), c)
	if report.GlobalStep != 8 || report.Epoch != 2 || report.Data.Rows != 13 || report.EvalData.Rows != 3 || report.PeakMemory != 3<<30 {
		t.Errorf("got %+v", report)
	}
	if want := int64(2 * report.Data.Tokens); report.NumTokens != want {
		t.Errorf("%d tokens, want %d", report.NumTokens, want)
	}
	for name, rate := range map[string]float64{"samples": report.TrainSamplesPerSecond, "steps": report.TrainStepsPerSecond, "tokens": report.TokensPerSecond, "labels": report.LabelsPerSecond} {
		if rate <= 0 || math.IsInf(rate, 0) {
			t.Errorf("%s per second: %v", name, rate)
		}
	}
	var names []string
	for _, m := range report.LogHistory[0] {
		names = append(names, m.Name)
	}
	if got := strings.Join(names, ", "); got != "loss, grad_norm, learning_rate, entropy, num_tokens, mean_token_accuracy, epoch, step" {
		t.Errorf("a training line has %s", got)
	}
	for _, s := range []string{"msg=metrics loss=", "learning_rate=", "eval_loss=", "memory_bytes=3221225472", "data set prepared"} {
		if !strings.Contains(said.String(), s) {
			t.Errorf("the log does not say %q:\n%s", s, said)
		}
	}
	f, err := os.Open(filepath.Join(c.OutputDir, "loss.png"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if img, err := png.Decode(f); err != nil || img.Bounds().Dx() < 300 {
		t.Errorf("loss.png: %v", err)
	}
}

func TestProgressShowsLossSpeedAndMemory(t *testing.T) {
	c := testConfig(t)
	var out bytes.Buffer
	c.Progress, c.DisableTQDM, c.MaxSteps = &out, false, 3
	mustTrain(t, newToyModel(), zen(), c)
	for _, s := range []string{"loss ", "tok/s", "3GB", "3/3"} {
		if !strings.Contains(out.String(), s) {
			t.Errorf("progress does not show %q: %q", s, out.String())
		}
	}
	out.Reset()
	c.DisableTQDM = true
	mustTrain(t, newToyModel(), zen(), c)
	if out.Len() > 0 {
		t.Errorf("DisableTQDM, but progress shows %q", out.String())
	}
}

func TestLossThatIsNotFiniteIsAnErrorThatNamesTheStep(t *testing.T) {
	c := testConfig(t)
	model := newToyModel()
	model.microStep = func(n int) error {
		if n == 6 {
			for i := range model.w {
				model.w[i] = math.NaN()
			}
		}
		return nil
	}
	report, err := mustTrainer(t, model, zen(), c).Train(t.Context())
	wantError(t, err, "step 3", "loss is NaN", "rows of the data set", "LearningRate")
	if report.GlobalStep != 2 || model.sessions != 0 {
		t.Errorf("%d steps done, %d sessions open", report.GlobalStep, model.sessions)
	}
	model = newToyModel()
	model.w[toyP] = math.NaN()
	c.EvalDataset, c.EvalStrategy, c.EvalOnStart = FromRows(zen()[:2]), Epoch, true
	_, err = mustTrainer(t, model, zen(), c).Train(t.Context())
	wantError(t, err, "evaluate rows 1 to 2", "NaN")
}

// brokenNorm makes the gradient norm of a step infinite.
type brokenNorm struct {
	*toyModel
	at int
}

type brokenNormSession struct {
	Session
	m *brokenNorm
}

func (m *brokenNorm) NewSession(o SessionOptions) (Session, error) {
	s, err := m.toyModel.NewSession(o)
	return brokenNormSession{s, m}, err
}

func (s brokenNormSession) Apply(ctx context.Context, o ApplyOptions) (float64, error) {
	norm, err := s.Session.Apply(ctx, o)
	if s.m.at--; s.m.at == 0 {
		norm = math.Inf(1)
	} else if s.m.at == -2 {
		err = errBroken
	}
	return norm, err
}

// scaling is a session that leaves the step out whose norm is infinite, as one does that scales its loss.
type scaling struct{ *brokenNorm }

type scalingSession struct{ brokenNormSession }

func (m scaling) NewSession(o SessionOptions) (Session, error) {
	s, err := m.brokenNorm.NewSession(o)
	return scalingSession{s.(brokenNormSession)}, err
}

func (s scalingSession) LossScale() (float64, bool) { return 32768, s.m.at == 0 }

func TestStepsLeftOutForTheLossScaleDoNotEndTheRun(t *testing.T) {
	var log bytes.Buffer
	c := testConfig(t)
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	c.LoggingSteps, c.MaxSteps = 1, 4
	report, err := mustTrainer(t, scaling{&brokenNorm{newToyModel(), 3}}, zen(), c).Train(t.Context())
	if err != nil || report.GlobalStep != 4 {
		t.Fatalf("%+v, %v", report, err)
	}
	if text := log.String(); strings.Count(text, "step left out") != 1 || !strings.Contains(text, "step=3 loss_scale=32768") {
		t.Errorf("the log says: %s", text)
	}
}

func TestFaultsOfTheDeviceNameTheStep(t *testing.T) {
	_, err := mustTrainer(t, &brokenNorm{newToyModel(), 3}, zen(), testConfig(t)).Train(t.Context())
	wantError(t, err, "step 3", "gradient norm is +Inf")
	_, err = mustTrainer(t, &brokenNorm{newToyModel(), -1}, zen(), testConfig(t)).Train(t.Context())
	wantError(t, err, "step 1", errBroken.Error())

	model := newToyModel()
	model.microStep = func(n int) error {
		if n == 4 {
			return errBroken
		}
		return nil
	}
	_, err = mustTrainer(t, model, zen(), testConfig(t)).Train(t.Context())
	wantError(t, err, "step 2, micro-step 2 of 2")
	if !errors.Is(err, errBroken) || model.sessions != 0 {
		t.Errorf("%v, %d sessions open", err, model.sessions)
	}
	c := testConfig(t)
	c.ResidualBudget = "broken"
	_, err = mustTrainer(t, newToyModel(), zen(), c).Train(t.Context())
	wantError(t, err, "no device")
}

func TestOutputDirThatCannotBeWrittenIsRefusedFirst(t *testing.T) {
	file := write(t, "file", "")
	c := testConfig(t)
	c.OutputDir = filepath.Join(file, "out")
	_, err := NewSFTTrainer(newToyModel(), toyTokenizer{}, FromRows([]Row{{"text": "☃"}}), c) // the row is faulty, too
	wantError(t, err, "SFTConfig.OutputDir", "cannot be written")
}

func TestEvaluateScoresRowsWithoutTraining(t *testing.T) {
	c := testConfig(t)
	c.EvalDataset = FromRows(zen()[:5])
	model := newToyModel()
	trainer := mustTrainer(t, model, zen(), c)
	before := slices.Clone(model.w)
	a, err := trainer.Evaluate(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := trainer.Evaluate(t.Context(), FromRows(zen()[:5]))
	if err != nil {
		t.Fatal(err)
	}
	lossA, _ := a.Get("eval_loss")
	lossB, _ := b.Get("eval_loss")
	if lossA != lossB || math.Abs(lossA-math.Log(toyVocab)) > 0.1 || !slices.Equal(before, model.w) || model.sessions != 0 {
		t.Errorf("losses %v and %v, an untrained model has about %v", lossA, lossB, math.Log(toyVocab))
	}
	if _, err := trainer.Train(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := trainer.Evaluate(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	loss, _ := after.Get("eval_loss")
	accuracy, _ := after.Get("eval_mean_token_accuracy")
	tokens, _ := after.Get("eval_num_tokens")
	if loss > 0.95*lossA || accuracy < 0.1 || tokens != float64(2*trainer.Data().Tokens) {
		t.Errorf("after training: %v", after)
	}
	_, err = trainer.Evaluate(t.Context(), FromRows([]Row{{"text": "☃"}}))
	wantError(t, err, "row 1")
	c.EvalDataset = nil
	_, err = mustTrainer(t, model, zen(), c).Evaluate(t.Context(), nil)
	wantError(t, err, "no rows", "EvalDataset")
}

func TestCallbacksSeeEventsInOrderAndSteer(t *testing.T) {
	c := testConfig(t)
	c.EvalDataset, c.EvalStrategy, c.EvalSteps, c.SaveStrategy, c.SaveSteps, c.LoggingSteps = FromRows(zen()[:3]), Steps, 2, Steps, 2, 2
	var events []string
	note := func(name string) func(*Event) error {
		return func(e *Event) error {
			events = append(events, name)
			return nil
		}
	}
	c.Callbacks = []Callback{{
		OnTrainBegin: note("begin"), OnEpochEnd: note("epoch"), OnLog: note("log"), OnEvaluate: note("evaluate"), OnSave: note("save"), OnTrainEnd: note("end"),
		OnStepEnd: func(e *Event) error {
			events = append(events, "step")
			e.Control.ShouldTrainingStop = e.State.GlobalStep == 3
			e.Control.ShouldSave = e.Control.ShouldSave || e.State.GlobalStep == 1
			return nil
		},
	}}
	report := mustTrain(t, newToyModel(), zen(), c)
	if got, want := strings.Join(events, " "), "begin step save step log log evaluate save step epoch log end"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if report.GlobalStep != 3 || !slices.Equal(checkpoints(t, c.OutputDir), []string{"checkpoint-1", "checkpoint-2"}) {
		t.Errorf("%d steps, %v", report.GlobalStep, checkpoints(t, c.OutputDir))
	}
}

func TestCallbackCanEndAnEpoch(t *testing.T) {
	c := testConfig(t)
	c.Callbacks = []Callback{{OnStepEnd: func(e *Event) error {
		e.Control.ShouldEpochStop = e.State.GlobalStep == 2
		return nil
	}}}
	report := mustTrain(t, newToyModel(), zen(), c)
	if report.GlobalStep != 6 || report.Epoch != 2 {
		t.Errorf("%d steps, %v epochs; want 2 of 4 and 4 of 4", report.GlobalStep, report.Epoch)
	}
}

func TestCallbackErrorEndsTheRun(t *testing.T) {
	fail := func(*Event) error { return errBroken }
	for name, cb := range map[string]Callback{
		"OnTrainBegin": {Name: "x", OnTrainBegin: fail}, "OnStepEnd": {Name: "x", OnStepEnd: fail}, "OnEpochEnd": {Name: "x", OnEpochEnd: fail},
		"OnLog": {Name: "x", OnLog: fail}, "OnEvaluate": {Name: "x", OnEvaluate: fail}, "OnSave": {Name: "x", OnSave: fail}, "OnTrainEnd": {Name: "x", OnTrainEnd: fail},
	} {
		c := testConfig(t)
		c.SaveStrategy, c.EvalStrategy, c.EvalDataset = Epoch, Epoch, FromRows(zen()[:2])
		c.Callbacks = []Callback{{}, cb}
		_, err := mustTrainer(t, newToyModel(), zen(), c).Train(t.Context())
		wantError(t, err, `callback 2 "x"`, name, errBroken.Error())
	}
}

func TestEvaluateInsideACallbackUsesTheRunsSession(t *testing.T) {
	c := testConfig(t)
	var trainer *SFTTrainer
	var seen []float64
	c.Callbacks = []Callback{{OnStepEnd: func(e *Event) error {
		m, err := trainer.Evaluate(t.Context(), FromRows(zen()[:2]))
		loss, _ := m.Get("eval_loss")
		seen = append(seen, loss)
		if err == nil {
			_, again := trainer.Train(t.Context())
			wantError(t, again, "already running")
		}
		return err
	}}}
	plain := newToyModel()
	mustTrain(t, plain, zen(), testConfig(t))
	model := newToyModel()
	trainer = mustTrainer(t, model, zen(), c)
	if _, err := trainer.Train(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 8 || seen[7] >= seen[0] || !slices.Equal(model.w, plain.w) {
		t.Errorf("losses %v; evaluation must not change training", seen)
	}
}

func TestDropLastLeavesOutTheShortBatch(t *testing.T) {
	c := testConfig(t)
	c.DataloaderDropLast, c.NumTrainEpochs = true, 1
	model := newToyModel()
	report := mustTrain(t, model, zen(), c)
	if model.micro != 6 || report.GlobalStep != 3 {
		t.Errorf("%d micro-steps, %d steps", model.micro, report.GlobalStep)
	}
}

func TestTrainerStateIsWrittenAsTransformersWritesIt(t *testing.T) {
	want, err := os.ReadFile(filepath.Join("testdata", "trainer_state.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s TrainerState
	if err := json.Unmarshal(want, &s); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), stateFile)
	if err := s.Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%s\ntransformers\n%s", got, want)
	}
}
