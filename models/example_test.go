package models_test

import (
	"context"
	"fmt"

	"github.com/loris-ml/loris/models"
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
