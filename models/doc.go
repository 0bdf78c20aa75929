// Package models loads decoder language models (config.json with safetensors, or a GGUF file) onto a device and runs
// them: logits, generation, and the training sessions that packages peft and sft drive.
//
//	model, err := models.FromPretrained(ctx, "path/to/model", models.Options{Backend: "xla:cuda"})
//
// Each family is one file that reads like its paper (llama.go, qwen3.go, gemma2.go): a Config with the tags of
// config.json, the tensors of a layer, and the layer's maths. What configs share is in decoder.go and rope.go; everything
// else that families share (loading, quantizing on the way in, tying, generation) is in the other files. Start reading at
// [FromPretrained], [Decoder] and [Qwen3Config].
package models
