// Command logits writes what a model with an adapter computes, for scripts/check_peft.py to compare with PEFT:
//
//	go run ./scripts/logits -model MODEL -adapter out/qlora/adapter -text "What is Debian?" -out out/logits
//	python scripts/check_peft.py out/qlora/adapter MODEL out/logits/ids.json out/logits/logits.safetensors
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/safetensors"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/quant"
	"github.com/loris-ml/loris/tokenizer"
)

func main() {
	model := flag.String("model", "examples/tiny", "folder or .gguf file")
	adapter := flag.String("adapter", "out/qlora/adapter", "folder with a PEFT adapter")
	text := flag.String("text", "The quick brown fox jumps over the lazy dog.", "what is scored")
	out := flag.String("out", "out/logits", "folder for ids.json and logits.safetensors")
	on := flag.String("backend", "", "\"\" (pure Go), xla:cpu or xla:cuda")
	nf4 := flag.Bool("nf4", false, "quantize the base to 4 bits, as QLoRA does; give check_peft.py --nf4 then")
	flag.Parse()
	if err := run(*model, *adapter, *text, *out, *on, *nf4); err != nil {
		fmt.Fprintln(os.Stderr, "logits:", err)
		os.Exit(1)
	}
}

func run(path, adapter, text, out, on string, nf4 bool) (err error) {
	ctx := context.Background()
	o := models.Options{Backend: on, DType: models.Float32}
	if nf4 {
		o.Quantization = &quant.BitsAndBytesConfig{LoadIn4Bit: true, BNB4BitQuantType: quant.NF4, BNB4BitUseDoubleQuant: true}
	}
	model, err := models.FromPretrained(ctx, path, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, model.Close()) }()
	tok, err := tokenizer.FromPretrained(path)
	if err != nil {
		return err
	}
	tuned, err := peft.FromPretrained(model, adapter)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tuned.Close()) }()
	ids, err := tok.Encode(text, true)
	if err != nil {
		return err
	}
	logits, err := tuned.Logits(ctx, [][]int{ids}, nil)
	if err != nil {
		return err
	}
	var flat []float32
	for _, v := range logits[0] {
		flat = append(flat, v...)
	}
	raw, err := json.Marshal([][]int{ids})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "ids.json"), raw, 0o644); err != nil {
		return err
	}
	return safetensors.Write(filepath.Join(out, "logits.safetensors"), []safetensors.Tensor{{
		Name: "logits", DType: "F32", Shape: []int{1, len(ids), len(logits[0][0])}, Data: backend.Bytes(flat),
	}}, nil)
}
