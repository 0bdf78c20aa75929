// Command qlora is the main job: a model and a file of examples in, a LoRA adapter out.
//
// The model is quantized to 4 bits while it is loaded (QLoRA, arXiv:2305.14314), every linear of its layers gets an
// adapter, and the adapter is saved as PEFT saves it. Before and after, the model answers the same questions. Without
// flags it runs on the small model of this repository, on the embedded backend:
//
//	go run ./examples/qlora
//	go run ./examples/qlora -backend xla:cuda -model path/to/Llama-3-8B -data train.jsonl -questions "" -max-length 2048 -packing
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
	"time"

	"github.com/loris-ml/loris/dataset"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/quant"
	"github.com/loris-ml/loris/sft"
	"github.com/loris-ml/loris/tokenizer"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "qlora:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	model, data, questions, output, backend, budget, dtype string
	rank, alpha, length, batch, accumulation, steps, limit int
	epochs, rate                                           float64
	packing, full, report                                  bool
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	f := flag.NewFlagSet("qlora", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.model, "model", "examples/tiny", "folder with config.json, safetensors and tokenizer.json, or a .gguf file")
	f.StringVar(&o.data, "data", "examples/qlora/data/train.jsonl", "JSON lines, JSON, CSV, Parquet, Arrow or text, a folder of such files or a cached data set's id, with rows of text, prompt and completion, or messages")
	f.StringVar(&o.questions, "questions", "examples/qlora/data/questions.jsonl", "JSONL of questions to answer before and after, with what the answer must contain; \"\": none")
	f.StringVar(&o.output, "output", "out/qlora", "folder for checkpoints, plot, trainer_state.json and the adapter")
	f.StringVar(&o.backend, "backend", "", "\"\" (pure Go), xla:cpu or xla:cuda")
	f.StringVar(&o.budget, "budget", "auto", "bytes of activations to keep for the backward pass: auto, 0, 12GiB")
	f.StringVar(&o.dtype, "dtype", "", "float32 or bfloat16, or float8_e4m3fn: bfloat16 with the products of frozen weights in float8; \"\": the backend's own")
	f.IntVar(&o.rank, "r", 16, "rank of the adapters")
	f.IntVar(&o.alpha, "alpha", 0, "lora_alpha; 0: twice the rank")
	f.IntVar(&o.length, "max-length", 256, "longest row in tokens")
	f.IntVar(&o.batch, "batch", 8, "rows per micro-batch")
	f.IntVar(&o.accumulation, "accumulate", 1, "micro-batches per optimizer step")
	f.IntVar(&o.steps, "steps", 0, "optimizer steps; 0: as many as the epochs make")
	f.IntVar(&o.limit, "rows", 0, "use only the first rows of the data; 0: all")
	f.Float64Var(&o.epochs, "epochs", 12, "passes over the data")
	f.Float64Var(&o.rate, "lr", 4e-3, "learning rate")
	f.BoolVar(&o.packing, "packing", false, "pack short rows into full ones")
	f.BoolVar(&o.full, "16bit", false, "do not quantize the base model (LoRA instead of QLoRA)")
	f.BoolVar(&o.report, "report", true, "tell what the weights take and what quantizing them has cost (reads the model once more)")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if o.alpha == 0 {
		o.alpha = 2 * o.rank
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	questions, err := readQuestions(o.questions)
	if err != nil {
		return err
	}
	rows, err := dataset.Load(ctx, o.data, dataset.Options{})
	if err != nil {
		return err
	}
	if o.limit > 0 {
		rows = rows.Take(o.limit)
	}
	start := time.Now()
	model, err := models.FromPretrained(ctx, o.model, o.loading(stderr))
	if err != nil {
		return err
	}
	defer model.Close()
	tok, err := tokenizer.FromPretrained(o.model)
	if err != nil {
		return err
	}
	tuned, err := peft.GetPeftModel(model, peft.LoraConfig{
		R: o.rank, LoraAlpha: float64(o.alpha), TargetModules: peft.AllLinear, TaskType: "CAUSAL_LM",
	})
	if err != nil {
		return err
	}
	defer tuned.Close()
	fmt.Fprintf(stdout, "%s: loaded in %.1f s\n%s\n", o.model, time.Since(start).Seconds(), tuned.TrainableParameters())

	before, err := answer(ctx, tuned, tok, questions)
	if err != nil {
		return err
	}
	trainer, err := sft.NewSFTTrainer(tuned, tok, rows, o.training(stderr))
	if err != nil {
		return err
	}
	report, err := trainer.Train(ctx)
	if err != nil {
		return err
	}
	after, err := answer(ctx, tuned, tok, questions)
	if err != nil {
		return err
	}
	printAnswers(stdout, questions, before, after)
	adapter := filepath.Join(o.output, "adapter")
	if err := tuned.SavePretrained(adapter); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "trained %d steps in %.1f s, mean loss %.4f; adapter in %s\n",
		report.GlobalStep, report.TrainRuntime, report.TrainingLoss, adapter)
	if o.full || !o.report {
		return nil
	}
	weights, err := quant.NewReport(model)
	if err == nil {
		fmt.Fprintf(stdout, "\n%s", weights)
	}
	return err
}

func (o options) loading(progress io.Writer) models.Options {
	m := models.Options{Backend: o.backend, DType: models.DType(o.dtype), Progress: progress}
	if m.DType == models.Float8E4M3 {
		m.DType, m.ComputeDType = models.BFloat16, models.Float8E4M3
	}
	if !o.full {
		m.Quantization = &quant.BitsAndBytesConfig{
			LoadIn4Bit: true, BNB4BitQuantType: quant.NF4, BNB4BitUseDoubleQuant: true, BNB4BitComputeDType: string(m.DType),
		}
	}
	return m
}

func (o options) training(progress io.Writer) sft.SFTConfig {
	return sft.SFTConfig{
		OutputDir: o.output, MaxLength: o.length, Packing: o.packing,
		PerDeviceTrainBatchSize: o.batch, GradientAccumulationSteps: o.accumulation,
		NumTrainEpochs: o.epochs, MaxSteps: o.steps,
		LearningRate: o.rate, LRSchedulerType: sft.Cosine, WarmupSteps: 0.05,
		ShuffleDataset: true, LoggingSteps: 5, SaveStrategy: sft.No,
		ResidualBudget: o.budget, Progress: progress,
	}
}

// printAnswers shows question by question what was said before and after.
func printAnswers(w io.Writer, questions []question, before, after []string) {
	if len(questions) == 0 {
		return
	}
	count := func(answers []string) (n int) {
		for i, q := range questions {
			if q.right(answers[i]) {
				n++
			}
		}
		return n
	}
	for i, q := range questions {
		fmt.Fprintf(w, "\n%s\n  before: %s\n  after:  %s\n", q.Question, oneLine(before[i]), oneLine(after[i]))
	}
	fmt.Fprintf(w, "\nright answers: %d of %d before, %d of %d after\n", count(before), len(questions), count(after), len(questions))
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
