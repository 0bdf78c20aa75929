package models_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/tokenizer"
)

// A model of a family without a checkpoint, and the linears that adapters can be put on.
func ExampleNewRandom() {
	config := &models.Phi3Config{Decoder: models.Decoder{
		VocabSize: 50, HiddenSize: 16, IntermediateSize: 24, NumHiddenLayers: 1, NumAttentionHeads: 4, NumKeyValueHeads: 2,
	}}
	model, err := models.NewRandom(context.Background(), config, 1, models.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer model.Close()
	for _, l := range model.Linears() {
		fmt.Println(l.Path, l.Out, l.In)
	}
	// Output:
	// model.layers.0.self_attn.qkv_proj 32 16
	// model.layers.0.self_attn.o_proj 16 16
	// model.layers.0.mlp.gate_up_proj 48 16
	// model.layers.0.mlp.down_proj 16 24
	// lm_head 50 16
}

// A model with its tokenizer as one file for llama.cpp.
func ExampleCausalLM_SaveGGUF() {
	run := func(path string) error {
		ctx := context.Background()
		config := &models.LlamaConfig{
			VocabSize: 512, HiddenSize: 32, IntermediateSize: 64, NumHiddenLayers: 1, NumAttentionHeads: 4, NumKeyValueHeads: 2,
		}
		model, err := models.NewRandom(ctx, config, 1, models.Options{})
		if err != nil {
			return err
		}
		defer model.Close()
		tok, err := tokenizer.FromPretrained("../tokenizer/testdata/stories260K")
		if err != nil {
			return err
		}
		if err := model.SaveGGUF(path, models.GGUFOptions{Type: "q8_0", Tokenizer: tok}); err != nil {
			return err
		}
		if tok, err = tokenizer.FromPretrained(path); err != nil {
			return err
		}
		ids, err := tok.Encode("Once upon a time", true)
		fmt.Println(ids)
		return err
	}
	dir, err := os.MkdirTemp("", "gguf")
	if err == nil {
		defer os.RemoveAll(dir)
		err = run(filepath.Join(dir, "model.gguf"))
	}
	if err != nil {
		fmt.Println(err)
	}
	// Output: [1 403 407 261 378]
}
