package peft_test

import (
	"encoding/json/v2"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/loris-ml/loris/peft"
)

// modules are the linears of a model of one layer.
func modules() []peft.Module {
	return []peft.Module{
		{Path: "model.layers.0.self_attn.q_proj", In: 64, Out: 64},
		{Path: "model.layers.0.self_attn.v_proj", In: 64, Out: 32},
		{Path: "model.layers.0.mlp.down_proj", In: 100, Out: 64},
		{Path: "lm_head", In: 64, Out: 150, IsHead: true},
	}
}

func ExampleLoraConfig() {
	c := peft.LoraConfig{R: 16, LoraAlpha: 32, TargetModules: peft.Modules("q_proj", "v_proj"), RankPattern: peft.Ranks{{Key: "q_proj", Value: 64}}}
	for _, path := range []string{"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"} {
		scaling, err := c.Scaling(path)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(path, scaling)
	}
	// Output:
	// model.layers.0.self_attn.q_proj 0.5
	// model.layers.0.self_attn.v_proj 2
}

func ExampleLoraConfig_Validate() {
	fmt.Println(peft.LoraConfig{R: 8, LoraDropout: 1.5}.Validate())
	// Output: lora_dropout 1.5: must be a probability, 0 or more and less than 1
}

func ExampleLoraConfig_UnmarshalJSON() {
	var c peft.LoraConfig
	if err := json.Unmarshal([]byte(`{"r": 4, "target_modules": "all-linear", "use_rslora": true}`), &c); err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.R, c.TargetModules, c.UseRSLora)
	// Output: 4 "all-linear" true
}

func ExampleResolveTargets() {
	r, err := peft.ResolveTargets(peft.LoraConfig{R: 4, TargetModules: peft.AllLinear}, "llama", modules())
	if err != nil {
		log.Fatal(err)
	}
	for _, t := range r.Targets {
		fmt.Printf("%s: A [%d, %d], B [%d, %d], scaling %v\n", t.Path, t.R, t.In, t.Out, t.R, t.Scaling)
	}
	// Output:
	// model.layers.0.self_attn.q_proj: A [4, 64], B [64, 4], scaling 2
	// model.layers.0.self_attn.v_proj: A [4, 64], B [32, 4], scaling 2
	// model.layers.0.mlp.down_proj: A [4, 100], B [64, 4], scaling 2
}

func ExampleRegexp() {
	// Python's syntax, look-around included.
	r, err := peft.ResolveTargets(peft.LoraConfig{TargetModules: peft.Regexp(`(?!.*\.mlp\.).*_proj`)}, "llama", modules())
	if err != nil {
		log.Fatal(err)
	}
	for _, t := range r.Targets {
		fmt.Println(t.Path)
	}
	// Output:
	// model.layers.0.self_attn.q_proj
	// model.layers.0.self_attn.v_proj
}

func ExampleNoMatchingError() {
	_, err := peft.ResolveTargets(peft.LoraConfig{TargetModules: peft.Modules("c_attn")}, "llama", modules())
	fmt.Println(err)
	// Output: Target modules ["c_attn"] not found in the base model; the model has q_proj, v_proj, down_proj, lm_head
}

func ExampleInitAdapter() {
	a, b, err := peft.InitAdapter(42, "model.layers.0.self_attn.q_proj", peft.InitTrue, 4, 64, 32)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(a), len(b), b[0])
	// Output: 256 128 0
}

func ExampleSaveAdapter() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	adapter := filepath.Join(dir, "adapter")
	err = peft.SaveAdapter(adapter, peft.LoraConfig{R: 1, BaseModelNameOrPath: "meta-llama/Llama-3.2-1B"}, []peft.AdapterWeight{
		{Path: "model.layers.0.self_attn.q_proj", R: 1, In: 2, Out: 3, A: []float32{1, 2}, B: []float32{3, 4, 5}},
	})
	if err != nil {
		log.Fatal(err)
	}
	c, weights, warnings, err := peft.LoadAdapter(adapter)
	fmt.Println(c.BaseModelNameOrPath, weights[0].Path, weights[0].B, warnings, err)
	// Output: meta-llama/Llama-3.2-1B model.layers.0.self_attn.q_proj [3 4 5] [] <nil>
}

func ExampleLoadAdapter() {
	c, weights, _, err := peft.LoadAdapter("testdata/adapters/all_linear") // PEFT saved it
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(weights), "modules of rank", c.R)
	// Output: 21 modules of rank 2
}

func ExampleFormatTrainableParameters() {
	fmt.Println(peft.FormatTrainableParameters(294912, 125534208))
	// Output: trainable params: 294,912 || all params: 125,534,208 || trainable%: 0.2349
}

func ExampleReadConfig() {
	cfg, warnings, err := peft.ReadConfig("testdata/adapters/patterns")
	if err != nil {
		log.Fatal(err)
	}
	c := cfg.(peft.LoraConfig) // by peft_type
	fmt.Println(c.R, c.TargetModules, c.RankPattern, warnings)
	// Output: 4 ["down_proj", "q_proj"] [{^model\.layers\.1\..* 5} {down_proj 2}] []
}
