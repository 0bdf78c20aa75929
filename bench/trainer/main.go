// Command trainer times a run of sft.SFTTrainer (a file of conversations, chat template, tokens, packing, batches, steps, log)
// on a model with random weights, and the bare steps of the same batches without a trainer around them, in turns. It prints a
// line of JSON for each turn, and one more of how long the device was idle, in steps and between them, where the backend has
// a profiler.
//
//	go run ./bench/trainer -backend xla:cuda -shape llama-3-8b -batch 2 -length 2048
//	go run ./bench/trainer -shape tiny -dtype float32 -batch 2 -length 128 -steps 4    # pure Go
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/loris-ml/loris/bench/measure"
	"github.com/loris-ml/loris/dataset"
	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/sft"
	"github.com/loris-ml/loris/tokenizer"
)

type options struct {
	measure.Model
	tokenizer, budget, optim, profile              string
	rank, batch, accumulation, length              int
	warmup, steps, profiled, turns, logging, saves int
	assistant                                      bool
}

func main() {
	var o options
	o.Flags(true)
	flag.StringVar(&o.tokenizer, "tokenizer", filepath.Join("sft", "testdata", "tokenizer"), "folder or GGUF file of the tokenizer; its vocabulary must fit the shape's")
	flag.StringVar(&o.budget, "budget", "auto", "bytes of activations to keep: auto, 0, 12GiB")
	flag.StringVar(&o.optim, "optim", "adamw_torch", "the optimizer, as SFTConfig.Optim")
	flag.IntVar(&o.rank, "r", 16, "rank of the adapters, on all linears")
	flag.IntVar(&o.batch, "batch", 2, "packed rows of a micro-step")
	flag.IntVar(&o.accumulation, "accumulation", 1, "micro-steps of a step")
	flag.IntVar(&o.length, "length", 2048, "tokens of a packed row")
	flag.BoolVar(&o.assistant, "assistant", false, "train the assistant's turns only")
	flag.IntVar(&o.warmup, "warmup", 5, "steps before timing")
	flag.IntVar(&o.steps, "steps", 30, "timed steps of a turn")
	flag.IntVar(&o.profiled, "profiled", 10, "steps behind those of the last turn whose idle time is measured; 0: none")
	flag.IntVar(&o.turns, "turns", 2, "turns of trainer and bare steps")
	flag.IntVar(&o.logging, "logging-steps", 10, "SFTConfig.LoggingSteps")
	flag.IntVar(&o.saves, "save-steps", 0, "SFTConfig.SaveSteps; 0: no checkpoints")
	flag.StringVar(&o.profile, "profile", "", "file for the times of the trainer's profiled steps by program and kernel (CSV)")
	flag.Parse()
	if err := run(context.Background(), o, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "trainer:", err)
		os.Exit(1)
	}
}

// result is what is printed for a turn.
type result struct {
	What       string  `json:"what"` // trainer, or bare steps
	Shape      string  `json:"shape"`
	Base       string  `json:"base"`
	Backend    string  `json:"backend"`
	Batch      int     `json:"batch"`
	Length     int     `json:"length"`
	Micro      int     `json:"gradient_accumulation_steps"`
	PrepareS   float64 `json:"prepare_s,omitempty"` // from the file to packed rows
	Prepared   int     `json:"prepared_tokens,omitempty"`
	MedianMS   float64 `json:"median_ms"`
	MeanMS     float64 `json:"mean_ms"`
	TokensPerS float64 `json:"tokens_per_s"` // without padding, over all timed steps
	TrainLoss  float64 `json:"train_loss,omitempty"`
	OfBare     float64 `json:"of_bare,omitempty"` // rate over that of the bare steps before
}

// idle is what is printed of the profiled steps.
type idle struct {
	What       string  `json:"what"`
	Steps      int     `json:"profiled_steps"`
	StepMS     float64 `json:"step_ms"`
	IdleMS     float64 `json:"idle_ms"`    // a step, pauses between kernels too
	BetweenMS  float64 `json:"between_ms"` // a step: behind its optimizer, before the next step's first program
	IdleShare  float64 `json:"idle_share"`
	BetweenPct float64 `json:"between_share"`
}

// session makes one of what is trained.
type session func(training.SessionOptions) (training.Session, error)

func run(ctx context.Context, o options, stdout, stderr io.Writer) (err error) {
	model, cfg, err := o.New(ctx, models.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, model.Close()) }()
	trained, open := sft.Model(model), session(model.NewSession)
	if o.Base != "full" {
		tuned, err := peft.GetPeftModel(model, peft.LoraConfig{R: o.rank, LoraAlpha: float64(o.rank), TargetModules: peft.AllLinear})
		if err != nil {
			return err
		}
		defer tuned.Close()
		trained, open = tuned, tuned.NewSession
	}
	tok, err := tokenizer.FromPretrained(o.tokenizer)
	if err != nil {
		return err
	}
	if n := tok.VocabSize(); n > cfg.VocabSize {
		return fmt.Errorf("-tokenizer %s has %d tokens, shape %s only %d", o.tokenizer, n, o.Shape, cfg.VocabSize)
	}
	folder, err := os.MkdirTemp("", "loris-trainer-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	chats := filepath.Join(folder, "chats.jsonl")
	all := o.warmup + o.steps + o.profiled
	if err := writeChats(chats, tok, all*o.accumulation*o.batch, o.length); err != nil {
		return err
	}
	optimizer, err := training.ParseOptimizer(o.optim, "")
	if err != nil {
		return err
	}
	b := bench{options: o, ctx: ctx, model: model, tok: tok, trained: trained, open: open, chats: chats, folder: folder, log: stderr, optimizer: optimizer.String()}
	out := json.NewEncoder(stdout)
	var idles []idle
	for turn := range o.turns {
		last := turn == o.turns-1
		fromTrainer, profile, err := b.trainer(last)
		if err != nil {
			return fmt.Errorf("trainer: %w", err)
		}
		bare, bareProfile, err := b.bare(last)
		if err != nil {
			return fmt.Errorf("bare steps: %w", err)
		}
		fromTrainer.OfBare = fromTrainer.TokensPerS / bare.TokensPerS
		if err := errors.Join(out.Encode(fromTrainer), out.Encode(bare)); err != nil {
			return err
		}
		if profile != nil {
			idles = append(idles, *profile)
		}
		if bareProfile != nil {
			idles = append(idles, *bareProfile)
		}
	}
	for _, i := range idles {
		if err := out.Encode(i); err != nil {
			return err
		}
	}
	return nil
}

// bench is what is timed.
type bench struct {
	options
	ctx     context.Context
	model   *models.CausalLM
	tok     *tokenizer.Tokenizer
	trained sft.Model
	open    session
	chats   string
	folder  string
	log     io.Writer

	optimizer string            // in the names of its programs
	batches   []*training.Batch // of the trainer's last run
}

// result of timed steps that began and ended at the given times, of so many tokens.
func (b *bench) result(what string, ends []time.Time, tokens int) *result {
	var times []time.Duration
	for i := range ends[1:] {
		times = append(times, ends[i+1].Sub(ends[i]))
	}
	whole := ends[len(ends)-1].Sub(ends[0])
	return &result{
		What: what, Shape: b.Shape, Base: b.Base, Backend: b.Backend, Batch: b.batch, Length: b.length, Micro: b.accumulation,
		MedianMS: measure.Median(times), MeanMS: float64(whole.Microseconds()) / 1e3 / float64(len(times)),
		TokensPerS: float64(tokens) / whole.Seconds(),
	}
}

// trainer runs SFTTrainer, and keeps the batches that it made. The end of its step number warmup is the first of the times.
func (b *bench) trainer(profiled bool) (*result, *idle, error) {
	b.batches = nil
	rows, err := dataset.Load(b.ctx, b.chats, dataset.Options{Streaming: true})
	if err != nil {
		return nil, nil, err
	}
	var ends []time.Time
	var profile *profile
	steps := b.warmup + b.steps
	if profiled && b.profiled > 0 && b.profilable() {
		profile = newProfile(b.model)
		steps += b.profiled
	}
	c := sft.SFTConfig{
		OutputDir: filepath.Join(b.folder, "out"), MaxLength: b.length, Packing: true, AssistantOnlyLoss: b.assistant, MaxSteps: steps, Optim: b.optim,
		PerDeviceTrainBatchSize: b.batch, GradientAccumulationSteps: b.accumulation, LearningRate: 2e-4, ResidualBudget: b.budget,
		LoggingSteps: float64(b.logging), ReportTo: []string{"all"}, SaveStrategy: sft.No, Progress: b.log,
		Logger: slog.New(slog.NewTextHandler(b.log, nil)),
	}
	if b.saves > 0 {
		c.SaveStrategy, c.SaveSteps = sft.Steps, float64(b.saves)
	}
	c.Collate = func(rows sft.Collation) (*sft.Batch, error) {
		batch, err := sft.CollateRows(rows)
		b.batches = append(b.batches, batch)
		return batch, err
	}
	c.Callbacks = []sft.Callback{{OnStepEnd: func(e *sft.Event) error {
		switch n := e.State.GlobalStep; {
		case n >= b.warmup && n <= b.warmup+b.steps:
			ends = append(ends, time.Now())
			if n == b.warmup+b.steps && profile != nil {
				if err := profile.begin(); err != nil {
					fmt.Fprintln(b.log, "trainer: no profile:", err) // the times are there
					profile = nil
				}
			}
		case profile != nil && n == steps:
			return profile.end()
		}
		return nil
	}}}
	start := time.Now()
	trainer, err := sft.NewSFTTrainer(b.trained, b.tok, rows, c)
	if err != nil {
		return nil, nil, err
	}
	prepared := time.Since(start)
	report, err := trainer.Train(b.ctx)
	if err != nil {
		return nil, nil, err
	}
	r := b.result("trainer", ends, b.tokens())
	r.PrepareS, r.Prepared, r.TrainLoss = prepared.Seconds(), trainer.Data().Tokens, report.TrainingLoss
	if profile == nil {
		return r, nil, nil
	}
	if b.profile != "" {
		if err := measure.WriteProfile(b.profile, profile.all); err != nil {
			return nil, nil, err
		}
	}
	return r, b.idle("trainer", profile.all), nil
}

// tokens of the timed steps.
func (b *bench) tokens() (n int) {
	for _, batch := range b.batches[b.warmup*b.accumulation : (b.warmup+b.steps)*b.accumulation] {
		n += batch.NumTokens
	}
	return n
}

// bare runs steps over the same batches.
func (b *bench) bare(profiled bool) (r *result, i *idle, err error) {
	s, err := b.open(training.SessionOptions{
		ResidualBudget: b.budget, Optim: b.optim, AdamBeta1: 0.9, AdamBeta2: 0.999, AdamEpsilon: 1e-8, Seed: 42,
	})
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	next := 0
	step := func() error {
		_, err := measure.Step(b.ctx, s, b.batches[next:next+b.accumulation], b.batches[(next+b.accumulation)%len(b.batches)])
		next = (next + b.accumulation) % len(b.batches)
		return err
	}
	var ends []time.Time
	for n := range b.warmup + b.steps {
		if err := step(); err != nil {
			return nil, nil, err
		}
		if n+1 >= b.warmup {
			ends = append(ends, time.Now())
		}
	}
	r = b.result("bare steps", ends, b.tokens())
	if !profiled || b.profiled == 0 || !b.profilable() {
		return r, nil, nil
	}
	all, profileErr := b.model.Profile(func() error {
		for range b.profiled {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	if profileErr != nil {
		fmt.Fprintln(b.log, "trainer: no profile of the bare steps:", profileErr)
		return r, nil, nil
	}
	return r, b.idle("bare steps", all), nil
}

// profilable says whether the backend tells what ran on the device.
func (b *bench) profilable() bool { return b.Backend == "xla:cuda" }

func (b *bench) idle(what string, all []seam.Execution) *idle {
	i := measure.IdleBetween(all, "loris_"+b.optimizer)
	ms := func(d time.Duration, steps int) float64 { return d.Seconds() * 1e3 / float64(max(1, steps)) }
	return &idle{
		What: what, Steps: b.profiled, StepMS: ms(i.Busy+i.Idle, b.profiled), IdleMS: ms(i.Idle, b.profiled), BetweenMS: ms(i.Between, i.Steps),
		IdleShare: i.Share(i.Idle), BetweenPct: i.Share(i.Between),
	}
}
