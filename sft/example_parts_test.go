package sft_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/loris-ml/loris/sft"
)

// toyTrainer trains a toy model on three lines of text, into a folder that remove removes.
func toyTrainer(config sft.SFTConfig) (trainer *sft.SFTTrainer, remove func()) {
	config.OutputDir, config.Logger, config.DisableTQDM = temp(), silent, true
	rows := []sft.Row{{"text": "one"}, {"text": "two"}, {"text": "three"}}
	trainer, err := sft.NewSFTTrainer(sft.NewToyModel(), sft.ToyTokenizer, rows, config)
	if err != nil {
		log.Fatal(err)
	}
	return trainer, func() { os.RemoveAll(config.OutputDir) }
}

func ExampleNewSFTTrainer() {
	dir := temp()
	defer os.RemoveAll(dir)
	rows := []sft.Row{{"prompt": "1 + 1 =", "completion": " 2"}, {"prompt": strings.Repeat("a long prompt ", 9), "completion": " cut off"}}
	trainer, err := sft.NewSFTTrainer(sft.NewToyModel(), sft.ToyTokenizer, rows, sft.SFTConfig{OutputDir: dir, MaxLength: 32, Logger: silent})
	if err != nil {
		log.Fatal(err)
	}
	data := trainer.Data()
	fmt.Println(data.Rows, "rows,", data.Truncated, "cut,", data.FullyMasked, "without a label,", data.Labels, "labels")
	// Output: 2 rows, 1 cut, 1 without a label, 3 labels
}

func ExampleFromRows() {
	rows := sft.FromRows([]sft.Row{{"question": "1 + 1?", "answer": "2"}, {"question": "", "answer": "3"}})
	chats := rows.
		Filter(func(r sft.Row) (bool, error) { return r["question"] != "", nil }).
		Map(func(r sft.Row) (sft.Row, error) {
			return sft.Row{"messages": []sft.Message{{"role": "user", "content": r["question"]}, {"role": "assistant", "content": r["answer"]}}}, nil
		})
	fmt.Println(chats.Len())
	// Output: 1 <nil>
}

func ExampleParseSFTConfig() {
	config, err := sft.ParseSFTConfig([]byte(`{"learning_rate": 2e-4, "packing": true, "max_length": 512}`))
	fmt.Println(config.LearningRate, config.Packing, config.MaxLength, err)
	_, err = sft.ParseSFTConfig([]byte(`{"learning_rat": 2e-4}`))
	fmt.Println(err)
	// Output:
	// 0.0002 true 512 <nil>
	// sft: settings: line 1: the key "learning_rat" is unknown; the nearest is "learning_rate"
}

// A callback stops a run whose loss is low enough.
func ExampleCallback() {
	enough := sft.Callback{OnLog: func(e *sft.Event) error {
		if loss, ok := e.Metrics.Get("loss"); ok && loss < 4.5 {
			e.Control.ShouldTrainingStop = true
		}
		return nil
	}}
	trainer, remove := toyTrainer(sft.SFTConfig{MaxSteps: 100, LearningRate: 0.1, LoggingSteps: 1, Callbacks: []sft.Callback{enough}})
	defer remove()
	report, err := trainer.Train(context.Background())
	fmt.Println(report.GlobalStep < 100, err)
	// Output: true <nil>
}

func ExampleCSV() {
	dir := temp()
	defer os.RemoveAll(dir)
	table := filepath.Join(dir, "log.csv")
	trainer, remove := toyTrainer(sft.SFTConfig{MaxSteps: 4, LoggingSteps: 2, Callbacks: []sft.Callback{sft.CSV(table)}})
	defer remove()
	if _, err := trainer.Train(context.Background()); err != nil {
		log.Fatal(err)
	}
	text, err := os.ReadFile(table)
	if err != nil {
		log.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		step, _, _ := strings.Cut(line, ",")
		fmt.Println(step)
	}
	// Output:
	// step
	// 2
	// 4
	// 4
}

func ExampleGenerationSamples() {
	generate := func(ctx context.Context, prompt string) (string, error) { return strings.ToUpper(prompt), nil } // tuned.Generate
	trainer, remove := toyTrainer(sft.SFTConfig{MaxSteps: 1, Callbacks: []sft.Callback{sft.GenerationSamples(os.Stdout, generate, "hello")}})
	defer remove()
	if _, err := trainer.Train(context.Background()); err != nil {
		log.Fatal(err)
	}
	// Output: {"step":1,"prompt":"hello","completion":"HELLO"}
}

// A collator of one's own: it leaves the first label of every row out.
func ExampleCollateRows() {
	config := sft.SFTConfig{MaxSteps: 1, Collate: func(c sft.Collation) (*sft.Batch, error) {
		b, err := sft.CollateRows(c)
		for row := range c.Rows {
			if at := row * c.Length; err == nil && b.Labels[at] != sft.Ignored {
				b.Labels[at] = sft.Ignored
				b.NumLabels--
			}
		}
		if err == nil {
			fmt.Println(b.Rows, "rows of", b.Length, "tokens,", b.NumLabels, "labels")
		}
		return b, err
	}}
	trainer, remove := toyTrainer(config)
	defer remove()
	if _, err := trainer.Train(context.Background()); err != nil {
		log.Fatal(err)
	}
	// Output: 3 rows of 64 tokens, 11 labels
}

func ExampleDivergedError() {
	trainer, remove := toyTrainer(sft.SFTConfig{MaxSteps: 9, LossWatchdogThreshold: 1, LossWatchdogPatience: 2, PerDeviceTrainBatchSize: 1})
	defer remove()
	_, err := trainer.Train(context.Background())
	if diverged := (*sft.DivergedError)(nil); errors.As(err, &diverged) {
		fmt.Println("step", diverged.Step, "with", len(diverged.Rows), "row")
	}
	// Output: step 2 with 1 row
}

func ExampleSFTTrainer_WritePreview() {
	trainer, remove := toyTrainer(sft.SFTConfig{})
	defer remove()
	if err := trainer.WritePreview(os.Stdout, 1); err != nil {
		log.Fatal(err)
	}
	tokens, err := trainer.PreviewTokens(0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", tokens[0])
	// Output:
	// row 0: documents 1, tokens 5, trained 4
	// <s>⟦one</s>⟧
	// {Document:0 ID:128 Text:<s> Label:128 Trained:false}
}
