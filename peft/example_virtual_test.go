package peft_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
)

// tinyLlama is a random model of two layers.
func tinyLlama() *models.CausalLM {
	m, err := models.NewRandom(context.Background(), &models.LlamaConfig{
		VocabSize: 96, HiddenSize: 32, IntermediateSize: 64, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 2, MaxPositionEmbeddings: 128,
	}, 1, models.Options{})
	if err != nil {
		log.Fatal(err)
	}
	return m
}

// The norms of a model are trained, and nothing else.
func ExampleLNTuningConfig() {
	model := tinyLlama()
	defer model.Close()
	tuned, err := peft.GetPeftModel(model, peft.LNTuningConfig{})
	if err != nil {
		log.Fatal(err)
	}
	defer tuned.Close()
	fmt.Println(tuned.TrainableParameters())
	// Output: trainable params: 160 || all params: 24,896 || trainable%: 0.6427
}

// Eight virtual tokens before each row are trained, from random tokens of the vocabulary on.
func ExamplePromptTuningConfig() {
	model := tinyLlama()
	defer model.Close()
	tuned, err := peft.GetPeftModel(model, peft.PromptTuningConfig{Prompts: peft.Prompts{NumVirtualTokens: 8}, PromptTuningInit: peft.PromptSampleVocab})
	if err != nil {
		log.Fatal(err)
	}
	defer tuned.Close()
	logits, err := tuned.Logits(context.Background(), [][]int{{1, 2, 3}}, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(tuned.TrainableParameters())
	fmt.Println("logits of", len(logits[0]), "tokens")
	// Output:
	// trainable params: 256 || all params: 24,992 || trainable%: 1.0243
	// logits of 3 tokens
}

// Keys and values of four virtual tokens are trained in every layer, saved, and loaded again.
func ExamplePrefixTuningConfig() {
	model := tinyLlama()
	defer model.Close()
	tuned, err := peft.GetPeftModel(model, peft.PrefixTuningConfig{Prompts: peft.Prompts{NumVirtualTokens: 4}, PrefixProjection: true})
	if err != nil {
		log.Fatal(err)
	}
	defer tuned.Close()
	dir, err := os.MkdirTemp("", "prefix")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	adapter := filepath.Join(dir, "adapter")
	if err := tuned.SavePretrained(adapter); err != nil {
		log.Fatal(err)
	}
	loaded, err := peft.FromPretrained(model, adapter)
	if err != nil {
		log.Fatal(err)
	}
	defer loaded.Close()
	fmt.Println(tuned.TrainableParameters())
	fmt.Println(loaded.Config().Type())
	// Output:
	// trainable params: 1,424 || all params: 26,160 || trainable%: 5.4434
	// PREFIX_TUNING
}

// An MLP is trained that eight virtual tokens come out of.
func ExamplePromptEncoderConfig() {
	model := tinyLlama()
	defer model.Close()
	tuned, err := peft.GetPeftModel(model, peft.PromptEncoderConfig{Prompts: peft.Prompts{NumVirtualTokens: 8}, EncoderHiddenSize: 16})
	if err != nil {
		log.Fatal(err)
	}
	defer tuned.Close()
	fmt.Println(tuned.TrainableParameters())
	// Output: trainable params: 1,600 || all params: 26,336 || trainable%: 6.0753
}
