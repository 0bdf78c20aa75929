// Command walkthrough is the notebook that most people fine-tune their first model with, as one program to be read from
// top to bottom: load a model in 4 bits, choose adapters, format instructions, train, try it and save.
//
//	go run ./examples/walkthrough                              # the small model of this repository, without a GPU
//	go run ./examples/walkthrough -backend xla:cuda -model path/to/Llama-3.1-8B-Instruct -data instructions.jsonl
//
// The settings are those for a model of 7 to 8 billion parameters on a card with 16 GB. What takes memory there:
//
//	weights in NF4 with double quantization    3.6 GB for the layers of Llama 3.1 8B, and 1.1 GB for its head in bfloat16
//	                                           (the embedding stays in the host's memory)
//	adapters, r 16 on all linears              0.34 GB: float32 values and gradients, 42 million of each
//	8-bit optimizer moments                    0.09 GB
//	activations                                what is left: ResidualBudget keeps as much as fits and computes the rest again
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
		fmt.Fprintln(os.Stderr, "walkthrough:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("walkthrough", flag.ContinueOnError)
	f.SetOutput(stderr)
	modelPath := f.String("model", "examples/tiny", "folder with config.json, safetensors and tokenizer.json")
	data := f.String("data", "examples/walkthrough/data/instructions.jsonl", "JSON lines with instruction, input and output")
	output := f.String("output", "out/walkthrough", "folder for checkpoints, reports and the adapter")
	backend := f.String("backend", "", "\"\" (pure Go), xla:cpu or xla:cuda")
	epochs := f.Float64("epochs", 30, "passes over the data; 1 to 3 for some thousand rows")
	rate := f.Float64("lr", 4e-3, "learning rate; 2e-4 for a model of billions of parameters")
	if err := f.Parse(args); err != nil {
		return err
	}

	// Step 1: load the model in 4 bits. Every linear of the layers is quantized to NF4 (arXiv:2305.14314) while it is read,
	// tensor after tensor: neither the host nor the card ever holds the model in 16 bits.
	model, err := models.FromPretrained(ctx, *modelPath, models.Options{
		Backend:  *backend,
		Progress: stderr,
		Quantization: &quant.BitsAndBytesConfig{
			LoadIn4Bit:            true,
			BNB4BitQuantType:      quant.NF4,
			BNB4BitUseDoubleQuant: true, // the scales of blocks in 8 bits, too: 0.4 bits less a weight
		},
	})
	if err != nil {
		return err
	}
	defer model.Close()
	tok, err := tokenizer.FromPretrained(*modelPath)
	if err != nil {
		return err
	}

	// Step 2: choose adapters. Low-rank matrices beside every linear are trained, the quantized weights stay as they are.
	// alpha over r scales what the adapters add; on all linears, r 16 is nearly as good as training everything.
	tuned, err := peft.GetPeftModel(model, peft.LoraConfig{
		R: 16, LoraAlpha: 32, TargetModules: peft.AllLinear, TaskType: "CAUSAL_LM", BaseModelNameOrPath: *modelPath,
	})
	if err != nil {
		return err
	}
	defer tuned.Close()
	fmt.Fprintln(stdout, tuned.TrainableParameters())

	// Step 3: format the instructions. Rows of instruction, input and output become conversations, which the trainer
	// renders with the model's own chat template: the one that it will see in use.
	raw, err := sft.LoadJSONL(*data)
	if err != nil {
		return err
	}
	rows := raw.Map(func(r sft.Row) (sft.Row, error) {
		question, answer, err := format(r)
		return sft.Row{"messages": []sft.Message{{"role": "user", "content": question}, {"role": "assistant", "content": answer}}}, err
	})
	if _, err := rows.Len(); err != nil {
		return fmt.Errorf("%s: %w", *data, err)
	}

	// Step 4: train. Only the assistant's words have labels. Two rows at a time, four times before each update, make a
	// batch of 8. Cancelling (Ctrl-C) saves a checkpoint, from which the next start goes on.
	trainer, err := sft.NewSFTTrainer(tuned, tok, rows, sft.SFTConfig{
		OutputDir:                 *output,
		MaxLength:                 1024,
		AssistantOnlyLoss:         true,
		PerDeviceTrainBatchSize:   2,
		GradientAccumulationSteps: 4,
		NumTrainEpochs:            *epochs,
		LearningRate:              *rate,
		LRSchedulerType:           sft.Cosine,
		WarmupSteps:               0.05,
		Optim:                     "adamw_8bit",
		LoggingSteps:              10,
		SaveSteps:                 200,
		SaveTotalLimit:            2,
		ResumeFromCheckpoint:      sft.AutoCheckpoint,
		ReportTo:                  []string{"tensorboard"},
		LossWatchdogThreshold:     100,
		Progress:                  stderr,
	})
	if err != nil {
		return err
	}
	report, err := trainer.Train(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "trained %d steps in %.1f s, mean loss %.4f\n", report.GlobalStep, report.TrainRuntime, report.TrainingLoss)

	// Step 5: try it, and save. The adapter is what PEFT and vLLM read; SaveMerged would write a whole model, SaveGGUF an
	// adapter for llama.cpp.
	for r, err := range raw.Take(3).All() {
		if err != nil {
			return err
		}
		question, want, err := format(r)
		if err != nil {
			return err
		}
		answer, err := models.Chat(ctx, tuned, tok, []tokenizer.Message{{"role": "user", "content": question}},
			tokenizer.ChatOptions{AddGenerationPrompt: true}, models.GenerationConfig{MaxNewTokens: 64})
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "\n%s\n  answer:   %s\n  expected: %s\n", question, answer, want)
	}
	adapter := filepath.Join(*output, "adapter")
	if err := tuned.SavePretrained(adapter); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "\nthe adapter is in %s\n", adapter)
	return nil
}

// format makes a question and its answer of a row.
func format(r sft.Row) (question, answer string, err error) {
	instruction, err := r.Text("instruction")
	if err != nil {
		return "", "", err
	}
	if answer, err = r.Text("output"); err != nil {
		return "", "", err
	}
	if r["input"] == nil {
		return instruction, answer, nil
	}
	input, err := r.Text("input")
	if input != "" {
		instruction += "\n\n" + input
	}
	return instruction, answer, err
}
