package peft

import (
	"encoding/json/v2"
	"math"
	"strings"
	"testing"
)

func TestZeroConfigIsPEFTsDefault(t *testing.T) {
	if err := (LoraConfig{}).Validate(); err != nil {
		t.Fatal(err)
	}
	if s, err := (LoraConfig{}).Scaling("model.layers.0.self_attn.q_proj"); err != nil || s != 1 {
		t.Errorf("scaling %v, %v", s, err)
	}
	got, err := json.Marshal(LoraConfig{})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"alpha_pattern":{},"base_model_name_or_path":null,"bias":"none","fan_in_fan_out":false,"inference_mode":false,` +
		`"init_lora_weights":true,"layers_pattern":null,"layers_to_transform":null,"lora_alpha":8,"lora_dropout":0.0,"modules_to_save":null,` +
		`"peft_type":"LORA","r":8,"rank_pattern":{},"revision":null,"target_modules":null,"task_type":"CAUSAL_LM"}`
	if string(got) != want {
		t.Errorf("%s", got)
	}
}

func TestScalingUsesPatternsAndRankStabilization(t *testing.T) {
	c := LoraConfig{R: 2, LoraAlpha: 3, RankPattern: Ranks{{Key: "linear", Value: 25}, {Key: "embed", Value: 9}}, AlphaPattern: Alphas{{Key: "linear", Value: 11}, {Key: "embed", Value: 17}}}
	for _, rs := range []bool{false, true} {
		c.UseRSLora = rs
		for path, ra := range map[string][2]float64{"linear": {25, 11}, "a.linear": {25, 11}, "a.embed": {9, 17}, "conv": {2, 3}, "nonlinear": {2, 3}} {
			want := ra[1] / ra[0]
			if rs {
				want = ra[1] / math.Sqrt(ra[0])
			}
			if got, err := c.Scaling(path); err != nil || got != want {
				t.Errorf("rslora %v, %s: %v, %v; want %v", rs, path, got, err, want)
			}
		}
	}
}

func TestConfigRefusesWrongValuesByName(t *testing.T) {
	for want, c := range map[string]LoraConfig{
		`r -3: the rank must be positive`:                      {R: -3},
		`lora_alpha NaN: must be a finite`:                     {LoraAlpha: math.NaN()},
		`lora_alpha +Inf: must be a finite`:                    {LoraAlpha: math.Inf(1)},
		`lora_dropout 1: must be a probability`:                {LoraDropout: 1},
		`lora_dropout -0.1: must be a probability`:             {LoraDropout: -0.1},
		`lora_dropout NaN: must be a probability`:              {LoraDropout: math.NaN()},
		`rank_pattern "q_proj": rank 0 must be positive`:       {RankPattern: Ranks{{Key: "q_proj"}}},
		`alpha_pattern "q_proj": alpha NaN`:                    {AlphaPattern: Alphas{{Key: "q_proj", Value: math.NaN()}}},
		`layers_to_transform holds -1`:                         {LayersToTransform: []int{-1}},
		`bias "some" is unknown; use "none", "all" or`:         {Bias: "some"},
		`lora_bias true with bias "all": both train`:           {LoraBias: true, Bias: BiasAll},
		`lora_bias true with init_lora_weights "pissa"`:        {LoraBias: true, InitLoraWeights: InitPiSSA},
		`lora_bias true with use_dora true`:                    {LoraBias: true, UseDora: true},
		`fan_in_fan_out true is not supported yet`:             {FanInFanOut: true},
		`modules_to_save [""] holds an empty name`:             {ModulesToSave: []string{""}},
		`trainable_token_indices holds -7: tokens are`:         {TrainableTokenIndices: []int{-7}},
		`trainable_token_indices holds 7 twice`:                {TrainableTokenIndices: []int{7, 7}},
		`trainable_token_indices with modules_to_save`:         {TrainableTokenIndices: []int{7}, ModulesToSave: []string{"embed_tokens"}},
		`target_parameters ["x.weight"] is not supported yet`:  {TargetParameters: []string{"x.weight"}},
		`init_lora_weights "pissa_niter_x": N of`:              {InitLoraWeights: "pissa_niter_x"},
		`init_lora_weights "pissa_niter_-1": N of`:             {InitLoraWeights: "pissa_niter_-1"},
		`r 3: init_lora_weights "orthogonal" needs even`:       {InitLoraWeights: "Orthogonal", R: 3},
		`rank_pattern "q_proj": rank 5: init_lora_weights "or`: {InitLoraWeights: "orthogonal", RankPattern: Ranks{{Key: "q_proj", Value: 5}}},
		`loftq_config: loftq_bits 3: must be 4`:                {LoftQConfig: &LoftQConfig{LoftQBits: 3}},
		`loftq_config: loftq_iter -1: must be 1 or more`:       {LoftQConfig: &LoftQConfig{LoftQIter: -1}},
		`eva_config: rho 0.5: must be 1 or more`:               {EvaConfig: &EvaConfig{Rho: 0.5}},
		`eva_config: tau 1.5: must be more than 0`:             {EvaConfig: &EvaConfig{Tau: 1.5}},
		`init_lora_weights "corda" is not supported yet`:       {InitLoraWeights: "corda"},
		`init_lora_weights "lora_ga" is not supported yet`:     {InitLoraWeights: "lora_ga"},
		`init_lora_weights "mica" is not supported yet`:        {InitLoraWeights: "mica"},
		`init_lora_weights "xavier" is unknown; use true`:      {InitLoraWeights: "xavier"},
		`task_type "SEQ_CLS" is not supported yet`:             {TaskType: "SEQ_CLS"},
		`task_type "CHAT" is unknown; PEFT has CAUSAL_LM, SEQ`: {TaskType: "CHAT"},
		`peft_type "IA3" is not supported: this package has`:   {PeftType: "IA3"},
		`revision "\xff" is not valid UTF-8`:                   {Revision: "\xff"},
		`target_modules "\xff" is not valid UTF-8`:             {TargetModules: Modules("\xff")},
		`rank_pattern "\xff" is not valid UTF-8`:               {RankPattern: Ranks{{Key: "\xff", Value: 1}}},
	} {
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %v, want %s…", err, want)
		}
	}
}

func TestInitLoraWeightsIgnoreCase(t *testing.T) {
	for name, want := range map[Init]Init{"": InitTrue, "True": InitTrue, "Gaussian": InitGaussian, "FALSE": InitFalse, "OLoRA": InitOLoRA, "PiSSA_niter_4": InitPiSSANiter(4)} {
		c := LoraConfig{InitLoraWeights: name}
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
		if got := c.WithDefaults().InitLoraWeights; got != want {
			t.Errorf("%q: %q", name, got)
		}
	}
}

func TestConfigJSONRoundTrips(t *testing.T) {
	in := LoraConfig{R: 4, LoraAlpha: 2.5, LoraDropout: 0.05, UseRSLora: true, TargetModules: Modules("b", "a", "b"), ExcludeModules: Regexp(".*x"),
		LayersToTransform: []int{1, 3}, LayersPattern: []string{"layers"}, RankPattern: Ranks{{Key: "z", Value: 1}, {Key: "a", Value: 2}},
		AlphaPattern: Alphas{{Key: "z", Value: 1.5}}, InitLoraWeights: InitGaussian, BaseModelNameOrPath: "base", Revision: "main", InferenceMode: true}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out LoraConfig
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(out)
	if err != nil || string(again) != string(text) {
		t.Errorf("%s\n%s, %v", text, again, err)
	}
	if out.RankPattern[0].Key != "z" {
		t.Errorf("the order of rank_pattern is lost: %v", out.RankPattern)
	}
	if got := out.TargetModules.String(); got != `["a", "b"]` {
		t.Errorf("target_modules %s", got)
	}
}

func TestConfigJSONRefusesUnknownKeysAndWrongTypes(t *testing.T) {
	for text, want := range map[string]string{
		`{"rank": 8}`:                        `unknown keys ["rank"]`,
		`{"r": "8"}`:                         `r "8": must be a positive integer`,
		`{"r": 8.5}`:                         `r 8.5: must be a positive integer`,
		`{"r": 0}`:                           `r 0: must be a positive integer`,
		`{"r": null}`:                        `r null: must be a positive integer`,
		`{"lora_alpha": 0}`:                  `lora_alpha 0: must not be zero`,
		`{"lora_alpha": null}`:               `lora_alpha null: must be a number`,
		`{"lora_dropout": "no"}`:             `lora_dropout "no": must be a number`,
		`{"use_rslora": 1}`:                  `use_rslora 1: must be true or false`,
		`{"target_modules": 3}`:              `target_modules 3: must be a list of strings, a string or null`,
		`{"target_modules": [3]}`:            `target_modules [3]: must be a list of strings, a string or null`,
		`{"layers_to_transform": "all"}`:     `layers_to_transform "all": must be an integer, a list of integers or null`,
		`{"layers_pattern": 1}`:              `layers_pattern 1: must be a string, a list of strings or null`,
		`{"rank_pattern": ["a"]}`:            `rank_pattern ["a"]: must be an object of integers`,
		`{"rank_pattern": {"a": 1.5}}`:       `rank_pattern {"a": 1.5}: must be an object of integers; that of "a" is not`,
		`{"alpha_pattern": {"a": null}}`:     `must be an object of numbers; that of "a" is not`,
		`{"init_lora_weights": 1}`:           `init_lora_weights 1: must be true, false or a string`,
		`{"modules_to_save": "lm_head"}`:     `modules_to_save "lm_head": must be a list of strings or null`,
		`{"base_model_name_or_path": ["a"]}`: `base_model_name_or_path ["a"]: must be a string or null`,
		`[]`:                                 `not a JSON object`,
	} {
		var c LoraConfig
		if err := json.Unmarshal([]byte(text), &c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", text, err, want)
		}
	}
}
