package models_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/loris-ml/loris/models"
)

// inFolder runs a function with a folder that is gone afterwards, and prints its error.
func inFolder(run func(dir string) error) {
	dir, err := os.MkdirTemp("", "model")
	if err == nil {
		defer os.RemoveAll(dir)
		err = run(dir)
	}
	if err != nil {
		fmt.Println(err)
	}
}

// small is a model with random weights.
func small() (*models.CausalLM, error) {
	return models.NewRandom(context.Background(), &models.LlamaConfig{
		VocabSize: 40, HiddenSize: 16, IntermediateSize: 32, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 2,
	}, 1, models.Options{})
}

// A folder as transformers reads it, and back.
func ExampleFromPretrained() {
	inFolder(func(dir string) error {
		model, err := small()
		if err != nil {
			return err
		}
		defer model.Close()
		if err := model.SavePretrained(dir); err != nil {
			return err
		}
		again, err := models.FromPretrained(context.Background(), dir, models.Options{Backend: "", DType: models.Float32})
		if err != nil {
			return err
		}
		defer again.Close()
		fmt.Println(again.Config().ModelType(), again.NumParameters() == model.NumParameters())
		return nil
	})
	// Output: llama true
}

// A file that is cut off is refused, and which one can be asked.
func ExampleFileError() {
	inFolder(func(dir string) error {
		path := filepath.Join(dir, "model.gguf")
		if err := os.WriteFile(path, []byte("GGUF\x03\x00\x00\x00"), 0o644); err != nil {
			return err
		}
		_, err := models.FromPretrained(context.Background(), path, models.Options{})
		var damaged *models.FileError
		fmt.Println(errors.As(err, &damaged) && damaged.Path == path)
		return nil
	})
	// Output: true
}

func ExampleReadConfig() {
	inFolder(func(dir string) error {
		path := filepath.Join(dir, "config.json")
		const text = `{"model_type": "gemma", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
			"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8, "hidden_act": "gelu_pytorch_tanh"}`
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
		config, err := models.ReadConfig(path)
		if err != nil {
			return err
		}
		fmt.Println(config.(*models.GemmaConfig).HeadDim)
		return nil
	})
	// Output: 8
}

// Two rows, of which the first is padded behind its second token.
func ExampleCausalLM_Logits() {
	model, err := small()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer model.Close()
	logits, err := model.Logits(context.Background(), [][]int{{5, 6, 0}, {7, 8, 9}}, [][]int{{1, 1, 0}, {1, 1, 1}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(logits), len(logits[0]), len(logits[0][0]))
	// Output: 2 3 40
}

// The values of one tensor by its name in the checkpoint.
func ExampleCausalLM_Tensor() {
	model, err := small()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer model.Close()
	gain, err := model.Tensor("model.layers.1.input_layernorm.weight")
	fmt.Println(len(gain), gain[0], err)
	// Output: 16 1 <nil>
}

// An adapter by hand, merged into the weights that are saved. Package peft does the same from its adapter folders.
func ExampleCausalLM_SaveWith() {
	inFolder(func(dir string) error {
		model, err := small()
		if err != nil {
			return err
		}
		defer model.Close()
		lora := models.LoRA{Path: "model.layers.0.mlp.down_proj", R: 1, Scaling: 2, A: make([]float32, 32), B: make([]float32, 16)}
		lora.A[0], lora.B[3] = 0.5, 1
		if err := model.SaveWith(dir, models.SaveOptions{DType: models.Float32, Merge: []models.LoRA{lora}}); err != nil {
			return err
		}
		merged, err := models.FromPretrained(context.Background(), dir, models.Options{DType: models.Float32})
		if err != nil {
			return err
		}
		defer merged.Close()
		before, err := model.Tensor(lora.Path + ".weight")
		if err != nil {
			return err
		}
		after, err := merged.Tensor(lora.Path + ".weight")
		if err != nil {
			return err
		}
		fmt.Printf("%.3f %.3f\n", after[3*32]-before[3*32], after[0]-before[0])
		return nil
	})
	// Output: 1.000 0.000
}

// An adapter as llama.cpp's --lora reads it.
func ExampleCausalLM_SaveGGUFAdapter() {
	inFolder(func(dir string) error {
		model, err := small()
		if err != nil {
			return err
		}
		defer model.Close()
		var loras []models.LoRA
		for _, l := range model.Linears() {
			if !l.Head {
				loras = append(loras, models.LoRA{Path: l.Path, R: 4, Scaling: 2, A: make([]float32, 4*l.In), B: make([]float32, l.Out*4)})
			}
		}
		path := filepath.Join(dir, "adapter.gguf")
		if err := model.SaveGGUFAdapter(path, 8, loras); err != nil {
			return err
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		fmt.Println(len(loras), info.Size() > 0)
		return nil
	})
	// Output: 14 true
}

// Adapters on the device, beside the model's weights.
func ExampleCausalLM_NewAdapters() {
	model, err := small()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer model.Close()
	adapters, err := model.NewAdapters([]models.LoRA{
		{Path: "model.layers.1.self_attn.q_proj", R: 2, Scaling: 1, A: make([]float32, 2*16), B: make([]float32, 16*2)},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer adapters.Close()
	config := models.GenerationConfig{MaxNewTokens: 4}
	with, err := model.GenerateIDs(context.Background(), adapters, []int{3, 1}, config)
	if err != nil {
		fmt.Println(err)
		return
	}
	without, err := model.GenerateIDs(context.Background(), nil, []int{3, 1}, config)
	fmt.Println(fmt.Sprint(with) == fmt.Sprint(without), err) // B is zero
	// Output: true <nil>
}
