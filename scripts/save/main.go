// Command save loads a model and saves it again: quantized, dequantized, in another format, or with an adapter merged in.
//
//	go run ./scripts/save -model MODEL -4bit -out out/nf4
//	python scripts/check_saved.py out/nf4 MODEL --4bit
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/quant"
)

func main() {
	path := flag.String("model", "examples/tiny", "folder or .gguf file")
	adapter := flag.String("adapter", "", "folder with a PEFT adapter, which is merged into the weights")
	out := flag.String("out", "out/saved", "folder to write")
	bits4 := flag.Bool("4bit", false, "quantize to NF4 with double quantization")
	bits8 := flag.Bool("8bit", false, "quantize to int8")
	requantize := flag.Bool("requantize", false, "with -adapter: write the merged weights quantized again")
	dtype := flag.String("dtype", "bfloat16", "format of the weights that are not quantized: float32 or bfloat16")
	flag.Parse()
	o := models.Options{DType: models.DType(*dtype)}
	if *bits4 || *bits8 {
		o.Quantization = &quant.BitsAndBytesConfig{LoadIn4Bit: *bits4, LoadIn8Bit: *bits8, BNB4BitUseDoubleQuant: *bits4}
		if *bits4 {
			o.Quantization.BNB4BitQuantType = quant.NF4
		}
	}
	if err := run(*path, *adapter, *out, o, *requantize); err != nil {
		fmt.Fprintln(os.Stderr, "save:", err)
		os.Exit(1)
	}
}

func run(path, adapter, out string, o models.Options, requantize bool) (err error) {
	model, err := models.FromPretrained(context.Background(), path, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, model.Close()) }()
	if adapter == "" {
		return model.SavePretrained(out)
	}
	tuned, err := peft.FromPretrained(model, adapter)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tuned.Close()) }()
	return tuned.SaveMerged(out, peft.MergeOptions{DType: o.DType, Requantize: requantize})
}
