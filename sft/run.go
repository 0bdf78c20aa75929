package sft

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"time"

	"gonum.org/v1/plot/plotter"
)

// run is one call of Train.
type run struct {
	*SFTTrainer
	ctx         context.Context // Train's
	session     Session
	callbacks   callbacks
	plan        stepPlan
	schedule    schedule
	follower    follower // in schedule's place, or nil
	state       TrainerState
	control     Control
	position    // what is saved beside state
	bar         *progress
	checkpoints []string // in OutputDir, oldest first
	savedStep   int      // of the last checkpoint written or resumed from, -1: none
	start       time.Time
	startStep   int // of this call; a resumed one does not start at 0
	startTokens int64
	startLabels int64
	lossTotal   float64 // of the steps of this call
	peakMemory  int64
	memory      plotter.XYs // bytes in use by step, at every line of the log
	aboveLimit  int         // steps in a row whose loss is above LossWatchdogThreshold
}

// position is what a run needs besides its TrainerState to go on as if it had not been interrupted.
type position struct {
	meter      meter
	gradNorm   float64 // of the last step
	rate       float64 // of the last step
	tokens     int64   // trained on
	labels     int64   // trained on
	logged     int     // step of the last training line
	epochEnded int     // step at which the end of an epoch was last handled
	skipped    int     // steps left out for gradients that float16 could not hold; the schedule stands still in them
}

func (t *SFTTrainer) newRun(ctx context.Context) (r *run, err error) {
	c := t.cfg
	r = &run{SFTTrainer: t, ctx: ctx, callbacks: slices.Concat(c.reports(), c.Callbacks), plan: c.plan(len(t.train.rows)), savedStep: -1}
	if r.schedule, err = newSchedule(c, r.plan.maxSteps); err != nil {
		return nil, err
	}
	r.follower = newFollower(c)
	if err := removeLeftovers(c.OutputDir); err != nil {
		return nil, err
	}
	from, err := c.resumeFolder()
	if err != nil {
		return nil, err
	}
	if r.checkpoints, err = findCheckpoints(c.OutputDir); err != nil {
		return nil, err
	}
	if r.session, err = t.newSession(); err != nil {
		return nil, err
	}
	if from != "" {
		if err := r.resume(from); err != nil {
			return nil, errors.Join(err, r.session.Close())
		}
	}
	s := &r.state
	s.MaxSteps, s.NumTrainEpochs, s.TrainBatchSize = r.plan.maxSteps, r.plan.epochs, c.PerDeviceTrainBatchSize
	s.LoggingSteps, s.EvalSteps, s.SaveSteps = c.interval(c.LoggingSteps, s.MaxSteps), c.interval(c.EvalSteps, s.MaxSteps), c.interval(c.SaveSteps, s.MaxSteps)
	r.start, r.startStep, r.startTokens, r.startLabels = time.Now(), s.GlobalStep, r.tokens, r.labels
	r.bar = newProgress(c, s.MaxSteps, s.GlobalStep)
	return r, nil
}

func (t *SFTTrainer) newSession() (Session, error) {
	c := t.cfg
	s, err := t.model.NewSession(SessionOptions{ResidualBudget: c.ResidualBudget, Optim: c.Optim, AdamBeta1: c.AdamBeta1, AdamBeta2: c.AdamBeta2,
		AdamEpsilon: c.AdamEpsilon, WeightDecay: c.WeightDecay, OptimArgs: c.OptimArgs, LoRAPlusLRRatio: c.LoRAPlusLRRatio,
		LoRAPlusEmbedding: c.LoRAPlusLREmbedding / c.LearningRate,
		Loss:              c.loss(), NEFTuneNoiseAlpha: c.NEFTuneNoiseAlpha, Seed: c.Seed, Accumulates: c.GradientAccumulationSteps > 1})
	if err != nil {
		return nil, fmt.Errorf("sft: prepare the model for training: %w", err)
	}
	return s, nil
}

// learningRate is that of the step behind those done.
func (r *run) learningRate() float64 {
	if r.follower != nil {
		return r.follower.rate()
	}
	return r.schedule(r.state.GlobalStep - r.skipped)
}

// begin opens the run; a resumed one first does what it was interrupted in.
func (r *run) begin(ctx context.Context) error {
	c, s := r.cfg, r.state
	r.bar.clear()
	c.Logger.Info("training", "rows", r.report.Rows, "batch_rows", len(r.train.rows), "epochs", s.NumTrainEpochs, "steps", s.MaxSteps, "first_step", s.GlobalStep+1,
		"batch_size", c.PerDeviceTrainBatchSize, "gradient_accumulation_steps", c.GradientAccumulationSteps)
	if err := r.call("OnTrainBegin", nil, "", func(cb Callback) func(*Event) error { return cb.OnTrainBegin }); err != nil {
		return err
	}
	if c.EvalOnStart && s.GlobalStep == 0 && len(s.LogHistory) == 0 {
		if err := r.evaluate(ctx); err != nil {
			return err
		}
	}
	if err := r.act(ctx); err != nil {
		return err
	}
	epochDone := s.GlobalStep > 0 && (s.GlobalStep%r.plan.stepsPerEpoch == 0 || s.GlobalStep >= s.MaxSteps)
	if epochDone && r.epochEnded != s.GlobalStep && !c.IgnoreDataSkip {
		return r.epochEnd(ctx)
	}
	return nil
}

// stopped reports whether no step is to follow.
func (r *run) stopped() bool {
	return r.control.ShouldTrainingStop || r.state.GlobalStep >= r.state.MaxSteps
}

// stepEnd does what is due after a step (transformers.DefaultFlowCallback).
func (r *run) stepEnd(ctx context.Context) error {
	c, s := r.cfg, r.state
	r.control.newStep()
	every := func(steps int) bool { return s.GlobalStep%steps == 0 }
	last := s.GlobalStep >= s.MaxSteps
	r.control.ShouldLog = s.GlobalStep == 1 && c.LoggingFirstStep || c.LoggingStrategy == Steps && every(s.LoggingSteps)
	r.control.ShouldEvaluate = c.EvalStrategy == Steps && (last || every(s.EvalSteps)) && c.EvalDelay <= float64(s.GlobalStep)
	r.control.ShouldSave = c.SaveStrategy == Steps && (last || every(s.SaveSteps))
	r.control.ShouldTrainingStop = r.control.ShouldTrainingStop || last
	if err := r.call("OnStepEnd", nil, "", func(cb Callback) func(*Event) error { return cb.OnStepEnd }); err != nil {
		return err
	}
	return r.act(ctx)
}

// epochEnd does what is due after an epoch, also after one that MaxSteps cut short.
func (r *run) epochEnd(ctx context.Context) error {
	c := r.cfg
	r.control.newStep()
	r.control.ShouldEpochStop = false
	r.control.ShouldLog = c.LoggingStrategy == Epoch
	r.control.ShouldEvaluate = c.EvalStrategy == Epoch && c.EvalDelay <= r.state.Epoch
	r.control.ShouldSave = c.SaveStrategy == Epoch
	r.epochEnded = r.state.GlobalStep
	if err := r.call("OnEpochEnd", nil, "", func(cb Callback) func(*Event) error { return cb.OnEpochEnd }); err != nil {
		return err
	}
	return r.act(ctx)
}

// act logs, evaluates and saves as control asks. What is done is no longer asked for: when an evaluation is interrupted,
// the checkpoint says what remains.
func (r *run) act(ctx context.Context) error {
	due := r.control.ShouldLog && r.state.GlobalStep > r.logged
	r.control.ShouldLog = false
	if due {
		if err := r.log(r.line()); err != nil {
			return err
		}
	}
	if r.control.ShouldEvaluate {
		if err := r.evaluate(ctx); err != nil {
			return err
		}
		r.control.ShouldEvaluate = false
	}
	if r.control.ShouldSave {
		return r.save()
	}
	return nil
}

// line is the training line since the last one.
func (r *run) line() (m Metrics) {
	m.add("loss", r.meter.LossSum/float64(r.meter.Steps))
	m.add("grad_norm", r.gradNorm)
	m.add("learning_rate", r.rate)
	r.meter.averages(&m, "", r.tokens)
	r.meter, r.logged = meter{}, r.state.GlobalStep
	return m
}

// log appends a line to the history and tells logger and callbacks.
func (r *run) log(m Metrics) error {
	m.add("epoch", r.state.Epoch)
	m.add("step", float64(r.state.GlobalStep))
	r.state.LogHistory = append(r.state.LogHistory, m)
	args := []any{}
	for _, e := range m {
		args = append(args, e.Name, e.Value)
	}
	if bytes, ok := r.session.MemoryInUse(); ok {
		r.peakMemory = max(r.peakMemory, bytes)
		r.memory = append(r.memory, plotter.XY{X: float64(r.state.GlobalStep), Y: float64(bytes)})
		args = append(args, "memory_bytes", bytes)
	}
	r.bar.clear()
	r.cfg.Logger.Info("metrics", args...)
	return r.call("OnLog", m, "", func(cb Callback) func(*Event) error { return cb.OnLog })
}

// evaluate scores the evaluation data set, logs the result and notes whether it is the best.
func (r *run) evaluate(ctx context.Context) error {
	m, err := r.score(ctx, r.session, r.eval, r.tokens)
	if err != nil {
		return err
	}
	if err := r.log(m); err != nil {
		return err
	}
	if err := r.call("OnEvaluate", m, "", func(cb Callback) func(*Event) error { return cb.OnEvaluate }); err != nil {
		return err
	}
	if r.follower != nil && r.state.GlobalStep > 0 {
		value, err := r.cfg.bestMetric(m)
		if err != nil {
			return err
		}
		r.follower.see(value)
	}
	best, err := r.state.noteBest(&r.cfg, m)
	if r.cfg.SaveStrategy == Best {
		r.control.ShouldSave = best
	}
	return err
}

func (r *run) call(event string, m Metrics, checkpoint string, of func(Callback) func(*Event) error) error {
	e := &Event{Context: r.ctx, Config: &r.cfg, State: &r.state, Control: &r.control, Metrics: m, Checkpoint: checkpoint}
	if event == "OnLog" && len(r.memory) > 0 {
		e.MemoryInUse = int64(r.memory[len(r.memory)-1].Y)
	}
	return r.callbacks.call(event, e, of)
}

// finish ends a run that its loop left with err: it completes the log or, when ctx was cancelled, saves a checkpoint.
func (r *run) finish(ctx context.Context, err error) (*Report, error) {
	cancelled := err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err())
	if err != nil && !cancelled {
		return r.result(), err
	}
	r.bar.clear()
	if cancelled {
		err = fmt.Errorf("sft: training was cancelled after step %d: %w", r.state.GlobalStep, ctx.Err())
		if cause := context.Cause(ctx); cause != ctx.Err() {
			err = fmt.Errorf("%w: %w", err, cause)
		}
		if r.cfg.SaveStrategy != No && r.savedStep != r.state.GlobalStep {
			err = errors.Join(err, r.save())
		}
		return r.result(), errors.Join(err, r.writeOutputs())
	}
	var m Metrics
	result := r.result()
	m.add("train_runtime", round(result.TrainRuntime, 4))
	m.add("train_samples_per_second", round(result.TrainSamplesPerSecond, 3))
	m.add("train_steps_per_second", round(result.TrainStepsPerSecond, 3))
	m.add("train_loss", result.TrainingLoss)
	r.meter.averages(&m, "", r.tokens)
	err = r.log(m)
	if err == nil && r.cfg.LoadBestModelAtEnd {
		err = r.loadBest()
	}
	if best := r.state.BestCheckpoint; err == nil && best != nil && r.cfg.SaveTotalLimit == 1 {
		err = r.remove(func(dir string) bool { return dir != *best }) // the newest was kept for resuming
	}
	err = errors.Join(err, r.writeOutputs())
	if err == nil {
		err = r.call("OnTrainEnd", nil, "", func(cb Callback) func(*Event) error { return cb.OnTrainEnd })
	}
	return r.result(), err
}

// writeOutputs puts trainer_state.json, README.md and the plots into OutputDir.
func (r *run) writeOutputs() error {
	return errors.Join(r.state.Save(filepath.Join(r.cfg.OutputDir, stateFile)), r.writeCard(), r.writePlots())
}

// close frees the device and leaves the trainer as after the run.
func (r *run) close() error {
	r.bar.finish()
	r.lastTokens = r.tokens
	err := r.callbacks.close()
	if e := r.session.Close(); e != nil {
		err = errors.Join(err, fmt.Errorf("sft: close the session: %w", e))
	}
	return err
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
