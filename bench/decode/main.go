// Command decode times greedy generation of a model with random weights from random prompts, and prints a line of JSON for
// each batch size; with -profile a second one, of the milliseconds that kinds of kernels take for a token of each row.
//
//	go run ./bench/decode -backend xla:cuda -batch 1,32 -prompt 128 -new 128 -limit 3350
//
// The time of a step is what all new tokens but the first take, by their number; the time to the first token is that of the
// prompts. Both are medians over -repeat texts, after one that compiles. Peaks of memory are those since the program began.
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
	"strconv"
	"strings"
	"time"

	"github.com/loris-ml/loris/bench/measure"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
)

type options struct {
	measure.Model
	batch, profile                      string
	rank, prompt, tokens, repeat, mixed int
	limit                               float64
}

func main() {
	var o options
	o.Flags(false)
	flag.StringVar(&o.batch, "batch", "1,32", "numbers of prompts, each timed on its own")
	flag.IntVar(&o.rank, "r", 0, "rank of adapters on all linears; 0: none")
	flag.IntVar(&o.mixed, "mixed", 0, "number of adapters of which the rows take turns, with -r; 0: one for all")
	flag.IntVar(&o.prompt, "prompt", 128, "tokens of a prompt")
	flag.IntVar(&o.tokens, "new", 128, "new tokens of each row, at least 2")
	flag.IntVar(&o.repeat, "repeat", 5, "timed texts")
	flag.Float64Var(&o.limit, "limit", 0, "GB/s that the device's memory gives; the share of it is printed")
	flag.StringVar(&o.profile, "profile", "", "file for the times of another text by program and kernel (CSV), behind which the number of rows is put")
	flag.Parse()
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "decode:", err)
		os.Exit(1)
	}
}

// result is what is printed.
type result struct {
	Shape        string  `json:"shape"`
	Base         string  `json:"base"`
	Rank         int     `json:"r"`
	Mixed        int     `json:"mixed,omitempty"`
	Backend      string  `json:"backend"`
	Batch        int     `json:"batch"`
	Prompt       int     `json:"prompt"`
	New          int     `json:"new"`
	StepMS       float64 `json:"step_ms"` // a token of each row
	StepsPerS    float64 `json:"steps_per_s"`
	TokensPerS   float64 `json:"tokens_per_s"`   // of all rows
	FirstTokenMS float64 `json:"first_token_ms"` // from the call to the first token of each row
	CompileS     float64 `json:"compile_s"`      // what the first text takes longer than the others
	ReadGB       float64 `json:"read_gb"`        // what a step must read: see reads
	GBPerS       float64 `json:"gb_per_s"`
	Share        float64 `json:"share,omitempty"` // of -limit
	PeakGiB      float64 `json:"peak_gib,omitempty"`
}

func run(ctx context.Context, o options) (err error) {
	if o.tokens < 2 || o.prompt < 1 || o.repeat < 1 {
		return errors.New("-new must be at least 2, -prompt and -repeat at least 1")
	}
	model, cfg, err := o.New(ctx, models.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, model.Close()) }()
	g, err := o.generator(model)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(g.close(), err) }()
	for _, text := range strings.Split(o.batch, ",") {
		rows, err := strconv.Atoi(text)
		if err != nil || rows < 1 {
			return fmt.Errorf("-batch %q: %q is not a number of prompts", o.batch, text)
		}
		if err := o.time(ctx, model, g, cfg, rows); err != nil {
			return fmt.Errorf("%d rows: %w", rows, err)
		}
	}
	return nil
}

// time times one batch size and prints it.
func (o options) time(ctx context.Context, model *models.CausalLM, g generator, cfg models.LlamaConfig, rows int) error {
	prompts := randomPrompts(rows, o.prompt, cfg.VocabSize)
	generate, err := g.rows(rows)
	if err != nil {
		return err
	}
	text := func(tokens int) (seconds float64, err error) {
		start := time.Now()
		out, err := generate(ctx, prompts, models.GenerationConfig{MaxNewTokens: tokens})
		if err == nil && len(out[rows-1]) != tokens {
			err = fmt.Errorf("got %d tokens, want %d", len(out[rows-1]), tokens)
		}
		return time.Since(start).Seconds(), err
	}
	cold, err := text(o.tokens)
	if err != nil {
		return err
	}
	first, err := o.median(text, 1)
	if err != nil {
		return err
	}
	whole, err := o.median(text, o.tokens)
	if err != nil {
		return err
	}
	step := (whole - first) / float64(o.tokens-1)
	r := result{
		Shape: o.Shape, Base: o.Base, Rank: o.rank, Mixed: o.mixed, Backend: o.Backend, Batch: rows, Prompt: o.prompt, New: o.tokens,
		StepMS: 1e3 * step, StepsPerS: 1 / step, TokensPerS: float64(rows) / step, FirstTokenMS: 1e3 * first, CompileS: cold - whole,
		ReadGB: o.reads(cfg, rows) / 1e9,
	}
	r.GBPerS = r.ReadGB / step
	if o.limit > 0 {
		r.Share = r.GBPerS / o.limit
	}
	peak, _ := model.DeviceMemory()
	r.PeakGiB = measure.GiB(peak)
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil || o.profile == "" {
		return err
	}
	kinds, err := measure.Profile(fmt.Sprintf("%s.%d", o.profile, rows), model, o.tokens-1, func() error {
		_, err := text(o.tokens)
		return err
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"batch": rows, "profile_ms": kinds})
}

// median is that of the seconds that texts of so many tokens take.
func (o options) median(text func(tokens int) (float64, error), tokens int) (float64, error) {
	if _, err := text(tokens); err != nil { // one more that may compile
		return 0, err
	}
	var all []float64
	for range o.repeat {
		s, err := text(tokens)
		if err != nil {
			return 0, err
		}
		all = append(all, s)
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}

// reads is how many bytes a step must read at least: the weights of the layers, the head, and the keys and values of half of
// the new tokens and of the prompts. Activations, adapters and the rows of the embedding are not counted.
func (o options) reads(c models.LlamaConfig, rows int) float64 {
	hidden, dim := float64(c.HiddenSize), float64(c.HiddenSize/c.NumAttentionHeads)
	queries, keys := dim*float64(c.NumAttentionHeads), dim*float64(c.NumKeyValueHeads)
	weights := float64(c.NumHiddenLayers) * hidden * (2*queries + 2*keys + 3*float64(c.IntermediateSize))
	size := 2.0
	if o.DType == "float32" || o.DType == "" && o.Backend != "xla:cuda" {
		size = 4
	}
	bytes := size
	if o.Base == "nf4" {
		bytes = 0.5 + 1./64 + 8./64/256 // a code, a block's scale, a group's scale and offset
	}
	context := float64(o.prompt) + float64(o.tokens)/2
	return weights*bytes + float64(c.VocabSize)*hidden*size + float64(rows*c.NumHiddenLayers)*context*2*keys*size
}

// generate continues prompts.
type generate func(ctx context.Context, ids [][]int, c models.GenerationConfig) ([][]int, error)

// generator makes what continues a number of rows.
type generator struct {
	rows  func(n int) (generate, error)
	close func() error
}

// generator is the model without adapters, with one, or with several in turns. Adapters are new ones, whose B is zeros: that
// costs as much as any.
func (o options) generator(model *models.CausalLM) (generator, error) {
	if o.rank == 0 {
		return generator{func(int) (generate, error) {
			return func(ctx context.Context, ids [][]int, c models.GenerationConfig) ([][]int, error) {
				return model.GenerateBatchIDs(ctx, nil, ids, c)
			}, nil
		}, func() error { return nil }}, nil
	}
	cfg := peft.LoraConfig{R: o.rank, LoraAlpha: float64(o.rank), TargetModules: peft.AllLinear}
	tuned, err := peft.GetPeftModel(model, cfg)
	if err != nil {
		return generator{}, err
	}
	names := tuned.AdapterNames()
	for i := 1; i < o.mixed; i++ {
		names = append(names, fmt.Sprint("adapter", i))
		if err := tuned.AddAdapter(names[i], cfg); err != nil {
			return generator{}, errors.Join(err, tuned.Close())
		}
	}
	var mixed *peft.Mixed
	closeMixed := func() (err error) {
		if mixed != nil {
			err = mixed.Close()
		}
		mixed = nil
		return err
	}
	return generator{func(n int) (generate, error) {
		if err := closeMixed(); err != nil || o.mixed == 0 {
			return tuned.GenerateBatchIDs, err
		}
		var each []string
		for i := range n {
			each = append(each, names[i%len(names)])
		}
		var err error
		mixed, err = tuned.ForRows(each...)
		return mixed.GenerateBatchIDs, err
	}, func() error { return errors.Join(closeMixed(), tuned.Close()) }}, nil
}

func randomPrompts(rows, length, vocab int) (prompts [][]int) {
	random := rand.New(rand.NewPCG(7, 7))
	for range rows {
		var p []int
		for range length {
			p = append(p, random.IntN(vocab))
		}
		prompts = append(prompts, p)
	}
	return prompts
}
