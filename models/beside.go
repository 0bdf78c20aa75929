package models

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// generationName is the file in which transformers keeps how a model generates: its end tokens among others.
const generationName = "generation_config.json"

// beside is what a checkpoint says that is nothing to the computation, kept for [CausalLM.SavePretrained]: without the ids
// of end tokens, for one, transformers would not stop.
type beside struct {
	config     map[string]json.RawMessage
	generation []byte
}

// forgotten are the keys of config.json that a saved model says anew, or that are no longer true of it.
var forgotten = []string{"quantization_config", "dtype", "torch_dtype", "rope_theta", "rope_scaling", "rope_parameters",
	"architectures", "transformers_version", "_name_or_path", "auto_map"}

// besideFolder reads what it can: config.json has been read, and the other file is not needed.
func besideFolder(dir string) (b beside) {
	if raw, err := os.ReadFile(filepath.Join(dir, "config.json")); err == nil && json.Unmarshal(raw, &b.config) == nil {
		if text, ok := b.config["text_config"]; ok { // the language model is taken out of a larger one
			ids := b.config
			b.config = map[string]json.RawMessage{}
			for _, key := range []string{"bos_token_id", "eos_token_id", "pad_token_id"} {
				if id, ok := ids[key]; ok {
					b.config[key] = id
				}
			}
			if json.Unmarshal(text, &b.config) != nil {
				return b
			}
		}
		for _, key := range forgotten {
			delete(b.config, key)
		}
	}
	if raw, err := os.ReadFile(filepath.Join(dir, generationName)); err == nil && json.Valid(raw) {
		b.generation = raw
	}
	return b
}

// padding is the id of pad_token_id, which transformers' embedding does not train; nil: there is none.
func (b beside) padding() *int32 {
	var id *int32
	if json.Unmarshal(b.config["pad_token_id"], &id) != nil {
		return nil
	}
	return id
}

// besideGGUF gives the tokens that begin and end a text.
func besideGGUF(g *ggufSource) beside {
	b := beside{config: map[string]json.RawMessage{}}
	for key, from := range map[string]string{
		"bos_token_id": "tokenizer.ggml.bos_token_id", "eos_token_id": "tokenizer.ggml.eos_token_id", "pad_token_id": "tokenizer.ggml.padding_token_id",
	} {
		if id, ok := g.file.Metadata().Uint(from); ok {
			b.config[key], _ = json.Marshal(id) // a number
		}
	}
	return b
}
