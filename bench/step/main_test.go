package main

import (
	"strings"
	"testing"

	"github.com/loris-ml/loris/bench/measure"
)

func TestFLOPsOfALlama3Token(t *testing.T) {
	c := measure.Shapes["llama-3-8b"]
	if got := flops(c, 2048, false) / 1e9; got < 31.8 || got > 32.0 { // 4·7.50e9 weights and 1.88e9 of attention
		t.Errorf("%.2f GFLOP per token", got)
	}
}

func TestTooFewStepsAreAnErrorThatNamesTheFlag(t *testing.T) {
	for want, o := range map[string]options{
		"-steps 0:":   {},
		"-steps -2:":  {steps: -2, warmup: 3},
		"-warmup -1:": {steps: 1, warmup: -1},
	} {
		if err := run(t.Context(), o, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
