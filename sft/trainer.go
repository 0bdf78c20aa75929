package sft

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"

	"github.com/loris-ml/loris/internal/training"
)

// What a model and its device programs implement; see package internal/training.
type (
	// SessionOptions configure a Session.
	SessionOptions = training.SessionOptions
	// ApplyOptions configure one optimizer step.
	ApplyOptions = training.ApplyOptions
	// Stats are sums over a batch's labels.
	Stats = training.Stats
	// Session trains one model: MicroStep sums gradients, Apply updates.
	Session = training.Session
)

// Model is what can be trained: a *peft.PeftModel, or a *models.CausalLM loaded for full fine-tuning.
type Model interface {
	NewSession(o SessionOptions) (Session, error)
	// SavePretrained writes what was trained into a folder: an adapter, or a whole model.
	SavePretrained(dir string) error
}

// SFTTrainer fine-tunes a model on rows of text (trl.SFTTrainer). It is for one goroutine.
type SFTTrainer struct {
	model       Model
	tok         Tokenizer
	cfg         SFTConfig // defaults filled in
	pad         int32
	train, eval *dataset
	report      DataReport
	evalReport  *DataReport
	active      *run  // while Train runs
	lastTokens  int64 // num_tokens of the last run
}

// NewSFTTrainer checks the configuration and that its OutputDir can be written, and tokenizes and packs the rows, which may
// stream: only their tokens stay in memory, or in SFTConfig.TokenCache. Row says which columns rows have. Errors name the
// field or the row.
func NewSFTTrainer[R Rows](model Model, tok Tokenizer, rows R, cfg SFTConfig) (*SFTTrainer, error) {
	return newSFTTrainer(model, tok, datasetOf(rows), cfg)
}

func newSFTTrainer(model Model, tok Tokenizer, rows *Dataset, cfg SFTConfig) (*SFTTrainer, error) {
	if model == nil || tok == nil {
		return nil, errors.New("sft: NewSFTTrainer needs a model and a tokenizer; one of them is nil")
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if err := checkTokens(tok, cfg); err != nil {
		return nil, err
	}
	if err := checkWritable(cfg.OutputDir); err != nil {
		return nil, err
	}
	if err := setChatTemplate(tok, cfg); err != nil {
		return nil, err
	}
	t := &SFTTrainer{model: model, tok: tok, cfg: cfg, pad: padID(tok, cfg)}
	train, report, err := prepare(rows, tok, cfg, cfg.Packing, "training")
	if err != nil {
		return nil, err
	}
	t.train, t.report = train, *report
	if cfg.EvalDataset != nil {
		if t.eval, t.evalReport, err = prepare(cfg.EvalDataset, tok, cfg, *cfg.EvalPacking, "evaluation"); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// checkTokens refuses configured tokens that the vocabulary lacks.
func checkTokens(tok Tokenizer, c SFTConfig) error {
	v := validator{}
	for field, token := range map[string]string{"EOSToken": c.EOSToken, "PadToken": c.PadToken} {
		if _, ok := tok.TokenToID(token); token != "" && !ok {
			v.fail(field, token, "the tokenizer's vocabulary has no such token")
		}
	}
	return errors.Join(v.errs...)
}

// padID is the id of padding: the configured token, the tokenizer's, its EOS token, or 0. It changes no number.
func padID(tok Tokenizer, c SFTConfig) int32 {
	for _, token := range []string{c.PadToken, tok.PadToken(), tok.EOSToken()} {
		if id, ok := tok.TokenToID(token); ok && token != "" {
			return int32(id)
		}
	}
	return 0
}

// checkWritable creates the folder and tries a file in it.
func checkWritable(dir string) error {
	err := os.MkdirAll(dir, 0o777)
	var f *os.File
	if err == nil {
		f, err = os.CreateTemp(dir, ".writable-*")
	}
	if err == nil {
		err = errors.Join(f.Close(), os.Remove(f.Name()))
	}
	if err != nil {
		return fmt.Errorf("sft: SFTConfig.OutputDir %q cannot be written: %w; choose another folder or change its permissions", dir, err)
	}
	return nil
}

// Data says what became of the training rows.
func (t *SFTTrainer) Data() DataReport { return t.report }

// Train runs the training and returns what came of it. Cancelling ctx ends the present micro-step, saves a checkpoint
// from which ResumeFromCheckpoint continues as if nothing had happened (unless SaveStrategy is No), and returns the report
// so far together with ctx's error. An error of a step names it. A loss or gradient that is not finite is an error.
func (t *SFTTrainer) Train(ctx context.Context) (*Report, error) {
	if t.active != nil {
		return nil, errors.New("sft: Train is already running")
	}
	if t.cfg.EnableJITCheckpoint {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGTERM)
		defer stop()
	}
	r, err := t.newRun(ctx)
	if err != nil {
		return nil, err
	}
	t.active = r
	defer func() { t.active = nil }()
	err = r.loop(ctx)
	report, err := r.finish(ctx, err)
	return report, errors.Join(err, r.close())
}

// loop goes through epochs and their optimizer steps; what is due at the end of each (log, evaluate, save) follows it.
func (r *run) loop(ctx context.Context) error {
	if err := r.begin(ctx); err != nil {
		return err
	}
	for epoch := r.state.GlobalStep / r.plan.stepsPerEpoch; epoch < r.plan.epochs && !r.stopped(); epoch++ {
		for s, err := range r.steps(epoch) {
			if err == nil {
				err = r.step(ctx, s)
			}
			if err != nil {
				return err
			}
			r.state.Epoch = float64(epoch) + float64(s.done)/float64(r.plan.batches)
			if err := r.stepEnd(ctx); err != nil {
				return err
			}
			if r.stopped() || r.control.ShouldEpochStop {
				break
			}
		}
		if err := r.epochEnd(ctx); err != nil {
			return err
		}
	}
	return nil
}

// optimizerStep is what an optimizer step trains on.
type optimizerStep struct {
	batches []microBatch
	next    func() ([]microBatch, error) // makes those of the step behind; none at the end of an epoch
	done    int                          // batches done in the epoch after the step
}

// steps yields an epoch's optimizer steps. Those that a resumed run has behind it are left out.
func (r *run) steps(epoch int) iter.Seq2[optimizerStep, error] {
	c := r.cfg
	first := 0
	if epoch == r.startStep/r.plan.stepsPerEpoch && !c.IgnoreDataSkip {
		first = r.startStep % r.plan.stepsPerEpoch
	}
	return func(yield func(optimizerStep, error) bool) {
		order := r.train.order(c, epoch)
		order = order[:min(len(order), r.plan.batches*c.PerDeviceTrainBatchSize)]
		parts := slices.Collect(slices.Chunk(order, c.PerDeviceTrainBatchSize*c.GradientAccumulationSteps))
		collate := func(i int) (batches []microBatch, err error) {
			if i < len(parts) {
				for numbers := range slices.Chunk(parts[i], c.PerDeviceTrainBatchSize) {
					b, err := r.train.batch(numbers, c.PerDeviceTrainBatchSize, c, r.pad)
					if err != nil {
						return nil, err
					}
					batches = append(batches, microBatch{b, numbers})
				}
			}
			return joined(r.session, batches), nil
		}
		batches, err := collate(first)
		for i := first; i < len(parts); i++ {
			next := sync.OnceValues(func() ([]microBatch, error) { return collate(i + 1) })
			done := i*c.GradientAccumulationSteps + (len(parts[i])+c.PerDeviceTrainBatchSize-1)/c.PerDeviceTrainBatchSize
			if !yield(optimizerStep{batches, next, done}, err) {
				return
			}
			batches, err = next()
		}
	}
}

// step is one optimizer step. It changes the run's state only when the whole step has succeeded.
func (r *run) step(ctx context.Context, s optimizerStep) error {
	number, batches := r.state.GlobalStep+1, s.batches
	m, loss, labels, tokens := r.meter, 0.0, 0, 0
	for i, b := range batches {
		if err := ctx.Err(); err != nil {
			return err
		}
		stats, err := r.session.MicroStep(ctx, b.Batch)
		if err != nil {
			return fmt.Errorf("sft: step %d, micro-step %d of %d: %w", number, i+1, len(batches), err)
		}
		if !finite(stats.LossSum) {
			e := &DivergedError{Step: number, Loss: stats.LossSum / float64(max(1, b.NumLabels)), remedy: "lower LearningRate, add warmup steps, or look at these rows; the last checkpoint is intact"}
			return r.blame(ctx, e, batches[i:i+1])
		}
		loss, labels, tokens = loss+stats.LossSum, labels+b.NumLabels, tokens+b.NumTokens
		m.batch(stats, max(b.NumLabels, stats.Labels))
		if err := r.prefetch(s, i+1); err != nil {
			return fmt.Errorf("sft: step %d, batch behind micro-step %d of %d: %w", number, i+1, len(batches), err)
		}
	}
	items := float64(max(1, labels))
	if err := r.watch(ctx, loss/items, batches); err != nil {
		return err
	}
	rate := r.learningRate()
	norm, err := r.session.Apply(ctx, ApplyOptions{LearningRate: rate, NumItems: items, MaxGradNorm: *r.cfg.MaxGradNorm})
	if err != nil {
		return fmt.Errorf("sft: step %d: %w", number, err)
	}
	if s, ok := r.session.(training.LossScaler); ok {
		if scale, skipped := s.LossScale(); skipped {
			r.cfg.Logger.Warn("step left out: its gradients are not finite in float16; the loss is scaled by less now", "step", number, "loss_scale", scale)
			norm = r.gradNorm
			r.skipped++
		}
	}
	if !finite(norm) {
		e := &DivergedError{Step: number, Loss: loss / items, GradNorm: norm, remedy: "lower LearningRate or add warmup steps, and resume from the last checkpoint"}
		return r.blame(ctx, e, batches)
	}
	m.LossSum += loss / items
	m.Steps++
	r.meter, r.gradNorm, r.rate = m, norm, rate
	r.lossTotal += loss / items
	r.tokens, r.labels = r.tokens+int64(tokens), r.labels+int64(labels)
	r.state.GlobalStep = number
	r.bar.step(r, loss/items)
	return nil
}

// prefetch lets the device take the step's i-th batch, or the next step's first, while it works.
func (r *run) prefetch(s optimizerStep, i int) error {
	p, ok := r.session.(training.Prefetcher)
	if !ok {
		return nil
	}
	batches := s.batches
	if i == len(batches) {
		next, err := s.next()
		if err != nil || len(next) == 0 {
			return nil // the step itself will tell
		}
		batches, i = next, 0
	}
	return p.Prefetch(batches[i].Batch)
}
