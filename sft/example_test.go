package sft_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/loris-ml/loris/sft"
)

// temp returns a folder for an example's files.
func temp() string {
	dir, err := os.MkdirTemp("", "sft-example-")
	if err != nil {
		log.Fatal(err)
	}
	return dir
}

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

func ExampleLoadJSONL() {
	dir := temp()
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "train.jsonl")
	text := `{"prompt": "What is 2 + 2?", "completion": " 4"}` + "\n" + `{"messages": [{"role": "user", "content": "Hi"}]}` + "\n"
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		log.Fatal(err)
	}
	rows, err := sft.LoadJSONL(path)
	if err != nil {
		log.Fatal(err)
	}
	for row := range rows.All() {
		fmt.Println(row.Columns())
	}
	// Output:
	// [completion prompt]
	// [messages]
}

func ExampleSFTTrainer_Train() {
	dir := temp()
	defer os.RemoveAll(dir)
	model, tok := sft.NewToyModel(), sft.ToyTokenizer // models.FromPretrained, peft.GetPeftModel and tokenizer.FromPretrained
	var rows []sft.Row
	for i := range 40 {
		rows = append(rows, sft.Row{"prompt": "hello", "completion": strings.Repeat(" world", i%3+1)})
	}
	trainer, err := sft.NewSFTTrainer(model, tok, sft.FromRows(rows), sft.SFTConfig{
		OutputDir: filepath.Join(dir, "out"), MaxLength: 64, Packing: true, NumTrainEpochs: 10, LearningRate: 0.1,
		Logger: silent, DisableTQDM: true,
	})
	if err != nil {
		log.Fatal(err)
	}
	report, err := trainer.Train(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	first, _ := report.LogHistory[0].Get("loss")
	fmt.Printf("%d rows packed into %d, %d steps, loss fell: %v\n", report.Data.Rows, report.Data.BatchRows, report.GlobalStep, report.TrainingLoss < first)
	fmt.Println(filepath.Base(report.LastCheckpoint))
	// Output:
	// 40 rows packed into 13, 20 steps, loss fell: true
	// checkpoint-20
}

func ExampleSFTConfig_resumeFromCheckpoint() {
	dir := temp()
	defer os.RemoveAll(dir)
	ctx, stop := context.WithCancel(context.Background()) // signal.NotifyContext in a program
	config := sft.SFTConfig{
		OutputDir: dir, MaxSteps: 6, Logger: silent, DisableTQDM: true,
		ResumeFromCheckpoint: sft.AutoCheckpoint,
		Callbacks: []sft.Callback{{OnStepEnd: func(e *sft.Event) error {
			if e.State.GlobalStep == 3 {
				stop()
			}
			return nil
		}}},
	}
	rows := []sft.Row{{"text": "one"}, {"text": "two"}, {"text": "three"}}
	for range 2 {
		trainer, err := sft.NewSFTTrainer(sft.NewToyModel(), sft.ToyTokenizer, sft.FromRows(rows), config)
		if err != nil {
			log.Fatal(err)
		}
		report, err := trainer.Train(ctx)
		fmt.Println(report.GlobalStep, "steps, cancelled:", errors.Is(err, context.Canceled))
		ctx, stop = context.Background(), func() {}
	}
	// Output:
	// 3 steps, cancelled: true
	// 6 steps, cancelled: false
}

func ExamplePreview() {
	rows := []sft.Row{{"prompt": "What is 2 + 2?", "completion": " 4"}, {"prompt": "And 3 + 3?", "completion": " 6"}}
	report, err := sft.Preview(os.Stdout, sft.ToyTokenizer, sft.FromRows(rows), sft.SFTConfig{Packing: true, Logger: silent}, 1)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(report.Tokens, "tokens,", report.Labels, "labels")
	// Output:
	// row 0: documents 2, tokens 32, trained 6
	// <s>What is 2 + 2?⟦ 4</s>⟧
	// <s>And 3 + 3?⟦ 6</s>⟧
	// 32 tokens, 6 labels
}

func ExampleSFTTrainer_Preview() {
	dir := temp()
	defer os.RemoveAll(dir)
	rows := []sft.Row{{"messages": []sft.Message{{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}}}}
	trainer, err := sft.NewSFTTrainer(sft.NewToyModel(), sft.ToyTokenizer, sft.FromRows(rows), sft.SFTConfig{OutputDir: dir, AssistantOnlyLoss: true, Logger: silent})
	if err != nil {
		log.Fatal(err)
	}
	text, err := trainer.Preview(0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(text)
	// Output:
	// <|im_start|>user
	// Hi<|im_end|>
	// <|im_start|>assistant
	// ⟦Hello!<|im_end|>⟧
}

func ExampleSFTTrainer_Evaluate() {
	dir := temp()
	defer os.RemoveAll(dir)
	rows := []sft.Row{{"text": "one"}, {"text": "two"}, {"text": "three"}}
	trainer, err := sft.NewSFTTrainer(sft.NewToyModel(), sft.ToyTokenizer, sft.FromRows(rows), sft.SFTConfig{OutputDir: dir, Logger: silent})
	if err != nil {
		log.Fatal(err)
	}
	metrics, err := trainer.Evaluate(context.Background(), sft.FromRows(rows[:2]))
	if err != nil {
		log.Fatal(err)
	}
	loss, _ := metrics.Get("eval_loss")
	fmt.Printf("%.1f nats per token, untrained\n", loss)
	// Output:
	// 4.9 nats per token, untrained
}

func ExampleEarlyStopping() {
	config := sft.SFTConfig{
		EvalDataset: sft.FromRows([]sft.Row{{"text": "held out"}}), EvalStrategy: sft.Epoch,
		MetricForBestModel: "loss", LoadBestModelAtEnd: true, SaveStrategy: sft.Epoch,
		Callbacks: []sft.Callback{sft.EarlyStopping(3, 0.001)},
	}
	fmt.Println(config.Validate())
	// Output:
	// <nil>
}

func ExampleJSONLines() {
	dir := temp()
	defer os.RemoveAll(dir)
	config := sft.SFTConfig{OutputDir: dir, MaxSteps: 1, LoggingSteps: 1, SaveStrategy: sft.No, Logger: silent, DisableTQDM: true}
	var lines strings.Builder
	config.Callbacks = []sft.Callback{sft.JSONLines(&lines)}
	trainer, err := sft.NewSFTTrainer(sft.NewToyModel(), sft.ToyTokenizer, sft.FromRows([]sft.Row{{"text": "one"}}), config)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := trainer.Train(context.Background()); err != nil {
		log.Fatal(err)
	}
	first, _, _ := strings.Cut(lines.String(), ",")
	fmt.Println(first[:len(`{"loss":4.8`)], strings.Count(lines.String(), "\n"), "lines")
	// Output:
	// {"loss":4.8 2 lines
}

func ExampleSFTConfig_Validate() {
	err := sft.SFTConfig{Optim: "adagrad", WarmupSteps: 2.5}.Validate()
	fmt.Println(err)
	// Output:
	// sft: SFTConfig.Optim is "adagrad": want one of adafactor, adamw_8bit, adamw_bnb_8bit, adamw_torch, adamw_torch_fused, lion_32bit, lion_8bit, muon, paged_adamw_32bit, paged_adamw_8bit, paged_lion_32bit, paged_lion_8bit, sgd
	// sft: SFTConfig.WarmupSteps is 2.5: want a whole number of steps, or a fraction of all steps below 1
}
