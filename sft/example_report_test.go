package sft_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/sft"
)

// A service shows its runs to Prometheus.
func ExampleMonitor() {
	dir := temp()
	defer os.RemoveAll(dir)
	monitor := new(sft.Monitor)
	http.Handle("GET /metrics", monitor)

	rows := []sft.Row{{"text": "one"}, {"text": "two"}}
	trainer, err := sft.NewSFTTrainer(sft.NewToyModel(), sft.ToyTokenizer, sft.FromRows(rows), sft.SFTConfig{
		OutputDir: dir, RunName: "numbers", MaxSteps: 3, Callbacks: []sft.Callback{monitor.Callback()}, Logger: silent, DisableTQDM: true,
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := trainer.Train(context.Background()); err != nil {
		log.Fatal(err)
	}
	answer := httptest.NewRecorder()
	monitor.ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(answer.Body.String()) {
		if strings.HasPrefix(line, "loris_sft_steps") {
			fmt.Print(line)
		}
	}
	// Output: loris_sft_steps{run="numbers"} 3
}

func ExampleTensorBoard() {
	dir := temp()
	defer os.RemoveAll(dir)
	config := sft.SFTConfig{OutputDir: dir, MaxSteps: 1, Logger: silent, DisableTQDM: true}
	config.Callbacks = []sft.Callback{sft.TensorBoard(filepath.Join(dir, "events")), sft.CSV(filepath.Join(dir, "log.csv"))}
	trainer, err := sft.NewSFTTrainer(sft.NewToyModel(), sft.ToyTokenizer, sft.FromRows([]sft.Row{{"text": "one"}}), config)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := trainer.Train(context.Background()); err != nil {
		log.Fatal(err)
	}
	table, err := os.ReadFile(filepath.Join(dir, "log.csv"))
	if err != nil {
		log.Fatal(err)
	}
	header, _, _ := strings.Cut(string(table), "\n")
	fmt.Println(header)
	// Output: step,epoch,train_runtime,train_samples_per_second,train_steps_per_second,train_loss,entropy,num_tokens,mean_token_accuracy
}

// A loss of one's own: the focal loss (arXiv:1708.02002), which leaves labels alone that the model knows already.
func ExampleLoss() {
	focal := &sft.Loss{Name: "focal 2", PerLabel: func(logits, labels *graph.Node) *graph.Node {
		logp := sft.LabelLogProbs(logits, labels)
		missing := graph.OneMinus(graph.Exp(logp))
		return graph.Neg(graph.Mul(graph.Mul(missing, missing), logp))
	}}
	config := sft.SFTConfig{Loss: focal}
	fmt.Println(config.Loss.Name, config.Validate())
	// Output: focal 2 <nil>
}
