// Command step times whole training steps (embedding, blocks, head, loss and optimizer) of a model with random weights
// on random tokens, and prints one line of JSON; with -profile a second one, of the milliseconds that kinds of kernels
// take.
//
//	go run ./bench/step -backend xla:cuda -shape llama-3-8b -batch 2 -length 2048 -budget auto
//
// Arguments such as 2x2048:0 8x2048:0 2x2048:auto (rows, tokens per row, budget) are timed one after the other on one
// model, in place of -batch, -length and -budget. Peaks of memory are those since the program began: the leanest first.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/bench/measure"
	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
)

var started = time.Now()

type options struct {
	measure.Model
	budget, optim, profile, save       string
	rank, batch, length, warmup, steps int
	limit, dropout                     float64
	tiled, dora                        bool
	cap                                int64
}

func main() {
	var o options
	o.Flags(true)
	flag.StringVar(&o.budget, "budget", "auto", "bytes of activations to keep: auto, 0, 12GiB")
	flag.StringVar(&o.optim, "optim", "adamw_torch", "the optimizer, as SFTConfig.Optim")
	flag.IntVar(&o.rank, "r", 16, "rank of the adapters, on all linears")
	flag.Float64Var(&o.dropout, "dropout", 0, "LoRA dropout")
	flag.BoolVar(&o.dora, "dora", false, "DoRA in place of LoRA")
	flag.BoolVar(&o.tiled, "tiled", false, "attention in graph operations, as on cards that cuDNN's does not take")
	flag.Int64Var(&o.cap, "cap", 0, "bytes of device memory that automatic budgets count on; 0: all")
	flag.StringVar(&o.save, "save", "", "folder to save the model of -model in, quantized as -base says, instead of timing it")
	flag.IntVar(&o.batch, "batch", 2, "rows")
	flag.IntVar(&o.length, "length", 2048, "tokens per row")
	flag.IntVar(&o.warmup, "warmup", 3, "steps before timing")
	flag.IntVar(&o.steps, "steps", 20, "timed steps")
	flag.Float64Var(&o.limit, "limit", 0, "TFLOP/s of which the share is printed; 0: on a GPU, what large bfloat16 products reach there for a second, measured behind the first steps")
	flag.StringVar(&o.profile, "profile", "", "file for the times of two more steps by program and kernel (CSV)")
	flag.Parse()
	if err := run(context.Background(), o, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "step:", err)
		os.Exit(1)
	}
}

// result is what is printed.
type result struct {
	Shape         string    `json:"shape"`
	Base          string    `json:"base"`
	Backend       string    `json:"backend"`
	Batch         int       `json:"batch"`
	Length        int       `json:"length"`
	Budget        string    `json:"budget"`
	Optim         string    `json:"optim"`
	LoadSeconds   float64   `json:"load_s"`
	FirstStep     float64   `json:"first_step_s"` // from process start to the end of the first step
	MedianMS      float64   `json:"median_ms"`
	MinMS         float64   `json:"min_ms"`
	MaxMS         float64   `json:"max_ms"`
	TokensPerS    float64   `json:"tokens_per_s"`
	TFLOPs        float64   `json:"tflops"`                 // a second, of what the step must compute: see flops
	Share         float64   `json:"share,omitempty"`        // of -limit, or of the limit that was measured
	Limit         float64   `json:"limit_tflops,omitempty"` // that
	MemoryGiB     float64   `json:"memory_gib"`             // in use on the device after the last step, as its allocator tells
	PeakGiB       float64   `json:"peak_gib,omitempty"`     // the most that was in use
	ForecastGiB   []float64 `json:"forecast_gib,omitempty"` // what the planner expected of the peak, and in forward pass, head, backward pass and update
	DriverGiB     float64   `json:"driver_gib,omitempty"`   // the allocator's pool and CUDA's own, as the driver sees it at the end
	FirstLoss     float64   `json:"first_loss"`
	LastLoss      float64   `json:"last_loss"`
	TrainedParams string    `json:"trained"`
}

// check refuses numbers of steps of which there are no times.
func (o *options) check() error {
	switch {
	case o.steps < 1:
		return fmt.Errorf("-steps %d: want at least 1, of which the times are told", o.steps)
	case o.warmup < 0:
		return fmt.Errorf("-warmup %d: want 0 or more", o.warmup)
	}
	return nil
}

func run(ctx context.Context, o options, cases []string) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	m := models.Options{MaxDeviceMemory: o.cap}
	if o.tiled {
		m.Attention = attention.RouteTiled
	}
	model, cfg, err := o.New(ctx, m)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, model.Close()) }()
	if o.save != "" {
		return model.SavePretrained(o.save)
	}
	t := trial{options: o, model: model, trained: fmt.Sprintf("all %d parameters", model.NumParameters()), session: model.NewSession, cfg: cfg}
	if o.Base != "full" {
		tuned, err := peft.GetPeftModel(model, peft.LoraConfig{R: o.rank, LoraAlpha: float64(o.rank), LoraDropout: o.dropout, UseDora: o.dora, TargetModules: peft.AllLinear})
		if err != nil {
			return err
		}
		defer tuned.Close()
		t.session, t.trained = tuned.NewSession, tuned.TrainableParameters()
	}
	t.load = time.Since(started).Seconds()
	if len(cases) == 0 {
		return t.run(ctx)
	}
	for _, c := range cases {
		var tail string
		if n, err := fmt.Sscanf(c, "%dx%d:%s", &t.batch, &t.length, &tail); n != 3 {
			return fmt.Errorf("case %q: want ROWSxLENGTH:BUDGET, such as 2x2048:auto (%v)", c, err)
		}
		t.budget = tail
		if err := t.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
	}
	return nil
}

// trial is what is timed.
type trial struct {
	options
	model   *models.CausalLM
	trained string
	session func(training.SessionOptions) (training.Session, error)
	cfg     models.LlamaConfig
	load    float64 // seconds
}

func (o *trial) run(ctx context.Context) (err error) {
	session, err := o.session(training.SessionOptions{
		ResidualBudget: o.budget, Optim: o.optim, AdamBeta1: 0.9, AdamBeta2: 0.999, AdamEpsilon: 1e-8, Seed: 1,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	r := result{
		Shape: o.Shape, Base: o.Base, Backend: o.Backend, Batch: o.batch, Length: o.length, Budget: o.budget, Optim: o.optim,
		LoadSeconds: o.load, TrainedParams: o.trained,
	}
	batch := randomBatch(o.options, o.cfg.VocabSize)
	step := func() (err error) {
		r.LastLoss, err = measure.Step(ctx, session, []*training.Batch{batch}, batch)
		return err
	}
	var ms []float64
	for i := range o.warmup + o.steps {
		t := time.Now()
		if err := step(); err != nil {
			return err
		}
		if i == 0 {
			r.FirstStep, r.FirstLoss = time.Since(started).Seconds(), r.LastLoss
		}
		if i >= o.warmup {
			ms = append(ms, float64(time.Since(t).Microseconds())/1e3)
		}
	}
	if bytes, ok := session.MemoryInUse(); ok {
		r.MemoryGiB = measure.GiB(bytes)
	}
	peak, driver := o.model.DeviceMemory()
	r.PeakGiB, r.DriverGiB = measure.GiB(peak), measure.GiB(driver)
	if f, ok := session.(interface {
		ForecastMemory(rows, length int) (layerwise.Forecast, bool)
	}); ok {
		parts, _ := f.ForecastMemory(o.batch, o.length)
		for _, bytes := range []int64{parts.Peak(), parts.Forward, parts.Head, parts.Backward, parts.Update} {
			r.ForecastGiB = append(r.ForecastGiB, measure.GiB(bytes))
		}
	}
	slices.Sort(ms)
	r.MinMS, r.MedianMS, r.MaxMS = ms[0], ms[len(ms)/2], ms[len(ms)-1]
	r.TokensPerS = float64(o.batch*o.length) / r.MedianMS * 1e3
	r.TFLOPs = flops(o.cfg, o.length, o.Base == "full") * r.TokensPerS / 1e12
	if o.limit == 0 {
		if o.limit, err = productRate(session); err != nil {
			fmt.Fprintln(os.Stderr, "step: the device's limit is not known:", err)
		}
	}
	if r.Limit = o.limit; r.Limit > 0 {
		r.Share = r.TFLOPs / r.Limit
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil || o.profile == "" {
		return err
	}
	p, ok := session.(measure.Profiler)
	if !ok {
		return errors.New("-profile: the session has no profiler")
	}
	const steps = 2
	kinds, err := measure.Profile(o.profile, p, steps, func() error {
		for range steps {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"profile_ms": kinds})
}

// productRate is what a GPU reaches in large products, with what a session leaves free; 0 elsewhere.
func productRate(session training.Session) (tflops float64, err error) {
	s, ok := session.(interface{ Device() *backend.Device })
	if !ok || s.Device().Kind != backend.CUDA {
		return 0, nil
	}
	return measure.ProductRate(s.Device(), 8192, time.Second)
}

// flops is what a training step must compute per token: the products with the weights forward and backward, those for the
// weights' gradients if they are trained, and attention over the half of the scores that a causal mask leaves, the backward
// two and a half times the forward. Adapters, and what is computed again, are not counted.
func flops(c models.LlamaConfig, length int, full bool) float64 {
	hidden, dim := float64(c.HiddenSize), float64(c.HiddenSize/c.NumAttentionHeads)
	queries, keys := dim*float64(c.NumAttentionHeads), dim*float64(c.NumKeyValueHeads)
	weights := float64(c.NumHiddenLayers) * hidden * (2*queries + 2*keys + 3*float64(c.IntermediateSize))
	weights += float64(c.VocabSize) * hidden
	passes := 2.0
	if full {
		passes = 3
	}
	return 2*passes*weights + 3.5*float64(c.NumHiddenLayers)*2*float64(length)*queries
}

// randomBatch is full rows of random tokens, every token but a row's first a label.
func randomBatch(o options, vocab int) *training.Batch {
	random := rand.New(rand.NewPCG(7, 7))
	b := &training.Batch{Rows: o.batch, Length: o.length}
	for range o.batch * o.length {
		b.IDs = append(b.IDs, int32(random.IntN(vocab)))
	}
	for i := range b.IDs {
		label := int32(-100)
		if (i+1)%o.length != 0 {
			label = b.IDs[i+1]
			b.NumLabels++
		}
		b.Labels = append(b.Labels, label)
	}
	b.NumTokens = len(b.IDs)
	return b
}
