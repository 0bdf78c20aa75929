package peft

// defaultTargets is what PEFT targets in a model of that type if target_modules is None, nil where it asks for them:
// TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING of peft/utils/constants.py.
func defaultTargets(modelType string) TargetModules {
	switch modelType {
	case "llama", "llama4", "mistral", "mixtral", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3", "stablelm",
		"bart", "opt", "gptj", "gpt_neo":
		return Modules("q_proj", "v_proj")
	case "gemma4":
		return Regexp(`.*language_model\..*\.(q_proj|v_proj)`)
	case "phi":
		return Modules("q_proj", "v_proj", "fc1", "fc2")
	case "nemotron_h":
		return Modules("q_proj", "k_proj", "v_proj", "o_proj")
	case "bloom", "falcon", "gpt_neox", "chatglm", "RefinedWebModel", "RefinedWeb":
		return Modules("query_key_value")
	case "gpt2", "gpt_bigcode":
		return Modules("c_attn")
	case "btlm":
		return Modules("c_proj", "c_attn")
	case "codegen":
		return Modules("qkv_proj")
	case "mpt":
		return Modules("Wqkv")
	case "t5", "mt5":
		return Modules("q", "v")
	case "blip-2":
		return Modules("q", "v", "q_proj", "v_proj")
	case "bert", "roberta", "xlm-roberta", "electra", "layoutlm":
		return Modules("query", "value")
	case "deberta-v2":
		return Modules("query_proj", "value_proj")
	case "deberta":
		return Modules("in_proj")
	case "rwkv":
		return Modules("key", "value", "receptance", "output")
	case "rwkv7":
		return Modules("r_proj", "k_proj", "v_proj", "o_proj", "key", "value")
	}
	return nil
}
