// Command pretrain trains a small model from random weights on plain text: full-parameter training with the trainer
// that also tunes adapters. It made examples/tiny, the model of the main example, in minutes on a GPU:
//
//	scripts/tiny/fetch-corpus.sh
//	go run ./examples/pretrain -backend xla:cuda -output out/tiny
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/loris-ml/loris/dataset"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/sft"
	"github.com/loris-ml/loris/tokenizer"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "pretrain:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("pretrain", flag.ContinueOnError)
	f.SetOutput(stderr)
	corpus := f.String("corpus", ".cache/tiny/corpus.txt", "text; blank lines separate documents")
	heldOut := f.String("held-out", ".cache/tiny/heldout.txt", "text that is scored but not trained on; \"\": none")
	data := f.String("tokenizer", "examples/pretrain/data", "folder with config.json of the model and tokenizer.json")
	output := f.String("output", "out/tiny", "folder for the model and its training's files")
	backend := f.String("backend", "", "\"\" (pure Go), xla:cpu or xla:cuda")
	length := f.Int("length", 256, "tokens per row")
	batch := f.Int("batch", 64, "rows per step")
	steps := f.Int("steps", 4000, "optimizer steps")
	rate := f.Float64("lr", 2e-3, "learning rate")
	decay := f.Float64("weight-decay", 0.1, "AdamW's weight decay")
	seed := f.Int64("seed", 1, "of weights and of the order of the text")
	prompt := f.String("prompt", "Once upon a time", "what the model continues at the end")
	if err := f.Parse(args); err != nil {
		return err
	}
	cfg, err := models.ReadConfig(filepath.Join(*data, "config.json"))
	if err != nil {
		return err
	}
	tok, err := tokenizer.FromPretrained(*data)
	if err != nil {
		return err
	}
	rows, err := documents(ctx, *corpus)
	if err != nil {
		return err
	}
	count, err := rows.Len()
	if err != nil {
		return err
	}
	var held *sft.Dataset
	if *heldOut != "" {
		if held, err = documents(ctx, *heldOut); err != nil {
			return err
		}
	}
	model, err := models.NewRandom(ctx, cfg, *seed, models.Options{Backend: *backend, Trainable: true})
	if err != nil {
		return err
	}
	defer model.Close()
	fmt.Fprintf(stdout, "%d parameters, %d documents\n", model.NumParameters(), count)
	trainer, err := sft.NewSFTTrainer(model, tok, rows, sft.SFTConfig{
		OutputDir: *output, MaxLength: *length, Packing: true, PackingStrategy: sft.Wrapped,
		PerDeviceTrainBatchSize: *batch, MaxSteps: *steps, LearningRate: *rate, WeightDecay: *decay,
		LRSchedulerType: sft.Cosine, WarmupSteps: 0.03, AdamBeta2: 0.95, EOSToken: "<|endoftext|>",
		ShuffleDataset: true, Seed: *seed, LoggingSteps: 50, SaveStrategy: sft.No, Progress: stderr,
	})
	if err != nil {
		return err
	}
	report, err := trainer.Train(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "trained %d steps in %.0f s, mean loss %.3f\n", report.GlobalStep, report.TrainRuntime, report.TrainingLoss)
	if held != nil {
		metrics, err := trainer.Evaluate(ctx, held)
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "held-out: %s\n", metrics)
	}
	text, err := model.Generate(ctx, tok, *prompt, models.GenerationConfig{MaxNewTokens: 80})
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s%s\n", *prompt, text)
	generation, err := os.ReadFile(filepath.Join(*data, "generation_config.json"))
	if err != nil {
		return err
	}
	return errors.Join(model.SaveAs(*output, models.BFloat16), tok.SavePretrained(*output),
		os.WriteFile(filepath.Join(*output, "generation_config.json"), generation, 0o644))
}

// documents reads a text whose documents are separated by blank lines.
func documents(ctx context.Context, path string) (*sft.Dataset, error) {
	paragraphs, err := dataset.Load(ctx, path, dataset.Options{Format: dataset.Text, SampleBy: dataset.SampleByParagraph})
	if err != nil {
		return nil, err
	}
	return paragraphs.Map(func(r dataset.Row) (dataset.Row, error) {
		text, err := r.Text("text")
		r["text"] = strings.TrimSpace(text)
		return r, err
	}).Filter(func(r dataset.Row) (bool, error) { return r["text"] != "", nil }), nil
}
