// Package peft attaches LoRA adapters, and those of PEFT's other tuners, to models and reads and writes PEFT's adapter folders. Names, defaults, formulas and
// files are those of huggingface/peft 0.21.
//
// [LoraConfig] says which linear modules get adapters and how they scale; [ResolveTargets] applies it to the modules of a
// model by PEFT's matching rules, Python's regular expressions included; [InitAdapter] makes the values that training
// starts from; [SaveAdapter] and [LoadAdapter] are adapter_config.json and adapter_model.safetensors.
//
// [LNTuningConfig] trains norms, [PromptTuningConfig], [PromptEncoderConfig] and [PrefixTuningConfig] train virtual tokens.
//
// A [PeftModel] may have several sets of adapters, of which [PeftModel.SetAdapter] chooses; [PeftModel.ForRows] gives each row of a
// batch its own. [PeftModel.CheckExport] says whether other programs take them.
//
// It is not for the arithmetic of an adapted linear (models, and the primitives below it, do that), nor for training (sft).
// What PEFT has and this package has not (target_parameters, P-tuning's LSTM, …) is refused by name, never ignored.
//
// Start at [LoraConfig]. match.go is who is targeted, files.go what lies on the disk; tuner.go is what tuners have in common,
// method.go what those on linears have that are no LoRA, each of which is a file: ia3.go, loha.go and others.
package peft
