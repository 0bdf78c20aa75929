package main

import (
	"testing"

	"github.com/loris-ml/loris/bench/measure"
)

func TestFLOPsOfALlama3Token(t *testing.T) {
	c := measure.Shapes["llama-3-8b"]
	if got := flops(c, 2048, false) / 1e9; got < 31.8 || got > 32.0 { // 4·7.50e9 weights and 1.88e9 of attention
		t.Errorf("%.2f GFLOP per token", got)
	}
}
