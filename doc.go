// Package loris fine-tunes large language models from Go: LoRA and QLoRA (4-bit NF4), with attention in linear memory
// and an SFTTrainer, compiled by XLA for CUDA GPUs or run by an embedded pure-Go backend. Names, defaults, files and
// numbers are those of PEFT, bitsandbytes and TRL.
//
// The shortest complete program quantizes a model while loading it, trains an adapter on a file of conversations, and
// saves it for PEFT, vLLM or llama.cpp:
//
//	func train(ctx context.Context) error {
//		model, err := models.FromPretrained(ctx, "path/to/model", models.Options{
//			Backend:      "xla:cuda", // "" is the embedded Go backend
//			Quantization: &quant.BitsAndBytesConfig{LoadIn4Bit: true, BNB4BitQuantType: quant.NF4, BNB4BitUseDoubleQuant: true},
//		})
//		if err != nil {
//			return err
//		}
//		defer model.Close()
//		tok, err := tokenizer.FromPretrained("path/to/model")
//		if err != nil {
//			return err
//		}
//		tuned, err := peft.GetPeftModel(model, peft.LoraConfig{R: 16, LoraAlpha: 16, TargetModules: peft.AllLinear})
//		if err != nil {
//			return err
//		}
//		rows, err := sft.LoadJSONL("train.jsonl")
//		if err != nil {
//			return err
//		}
//		trainer, err := sft.NewSFTTrainer(tuned, tok, rows, sft.SFTConfig{OutputDir: "out", MaxLength: 2048, Packing: true, NumTrainEpochs: 1})
//		if err != nil {
//			return err
//		}
//		if _, err := trainer.Train(ctx); err != nil {
//			return err
//		}
//		return tuned.SavePretrained("out/adapter")
//	}
//
// The packages, from the top: [github.com/loris-ml/loris/sft] trains, [github.com/loris-ml/loris/peft] attaches
// adapters, [github.com/loris-ml/loris/models] loads and runs models, [github.com/loris-ml/loris/tokenizer] turns text
// into ids, [github.com/loris-ml/loris/quant] holds 4-bit weights, [github.com/loris-ml/loris/attention] is attention.
// docs/architecture.md shows how they hang together; examples/qlora is the program above with everything around it.
package loris
