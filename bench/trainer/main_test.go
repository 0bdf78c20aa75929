package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/loris-ml/loris/bench/measure"
)

func TestTrainerAndBareStepsAreTimed(t *testing.T) {
	o := options{
		Model:     measure.Model{Shape: "tiny", Base: "16bit", DType: "float32", Layers: 1},
		tokenizer: filepath.Join("..", "..", "sft", "testdata", "tokenizer"), budget: "auto", optim: "adamw_torch", rank: 2,
		batch: 2, accumulation: 2, length: 64, warmup: 1, steps: 2, profiled: 1, turns: 1, logging: 1,
	}
	var stdout, stderr bytes.Buffer
	if err := run(t.Context(), o, &stdout, &stderr); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines:\n%s", len(lines), stdout.String())
	}
	var trainer, bare result
	for i, r := range []*result{&trainer, &bare} {
		if err := json.Unmarshal([]byte(lines[i]), r); err != nil {
			t.Fatal(err)
		}
		if r.TokensPerS <= 0 || r.MedianMS <= 0 {
			t.Errorf("%+v", r)
		}
	}
	if trainer.What != "trainer" || bare.What != "bare steps" || trainer.Prepared < 2*2*2*64 {
		t.Errorf("trainer %+v, bare steps %+v", trainer, bare)
	}
}
