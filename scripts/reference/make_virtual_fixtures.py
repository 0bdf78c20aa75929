#!/usr/bin/env python3
"""Writes the fixtures of package peft for what an adapter trains beside or in place of a model's modules, computed by PEFT on the
CPU in float32: copies of modules (modules_to_save, LN tuning) and virtual tokens (prompt, prefix and P-tuning).

    python scripts/reference/make_virtual_fixtures.py [--out peft/testdata/virtual] [CASE ...]

Bases and files are as in make_tuner_fixtures.py. Beside them reference.safetensors has

masked.logits           where rows are padded on the left and on the right, of ids and mask in case.json; virtual tokens cut off
encoder.NAME            of a prefix with projection and of P-tuning, the parameters that prompt_embeddings in the file was made with, and
                        grad.NAME theirs; the file's own, grad.prompt_embeddings, where there are none

and case.json trainable: how many parameters of how many; generated: the likeliest tokens behind each row; quantized: PEFT's error for a copy of a quantized linear.
"""

import argparse
import json
import os
import shutil

import peft
import torch
import transformers
from make_tuner_fixtures import BASES, HERE, load_base, loss_of, perturb, tidy, tokens
from peft import IA3Config, LNTuningConfig, LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, VeraConfig, get_peft_model
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors.torch import save_file

TOKENIZER = os.path.join(HERE, "..", "..", "tokenizer", "testdata", "wordlevel")
VIRTUAL = 3

CASES = {
    # Copies: linears of groups that the base stores as one, with and without biases, whole sublayers, norms by the end of their names.
    "save_llama": dict(base="llama", config=LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "gate_proj"], modules_to_save=["v_proj", "down_proj", "post_attention_layernorm"])),
    "save_qwen2": dict(base="qwen2", config=LoraConfig(r=2, target_modules=["v_proj", "down_proj"], modules_to_save=["k_proj", "mlp"])),
    "save_gemma2": dict(base="gemma2", config=LoraConfig(r=2, target_modules=["o_proj"], modules_to_save=["norm", "lm_head"])),
    "save_tied": dict(base="gemma2", config=LoraConfig(r=2, target_modules=["o_proj"], modules_to_save=["lm_head"], ensure_weight_tying=True)),
    "save_phi3": dict(base="phi3", config=LoraConfig(r=2, target_modules=["down_proj"], modules_to_save=["qkv_proj", "model.norm", "embed_tokens"])),
    "save_ia3": dict(base="qwen2", config=IA3Config(target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"], modules_to_save=["k_proj", "model.norm"])),
    "save_vera": dict(base="gemma2", config=VeraConfig(r=3, target_modules=["v_proj"], modules_to_save=["post_feedforward_layernorm", "lm_head"])),
    "save_nf4": dict(base="llama", nf4=True, quantized="v_proj", config=LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["input_layernorm", "model.norm"])),
    "ln_llama": dict(base="llama", config=LNTuningConfig()),
    "ln_gemma2": dict(base="gemma2", config=LNTuningConfig()),
    "ln_qwen2": dict(base="qwen2", config=LNTuningConfig()),
    "ln_phi3": dict(base="phi3", config=LNTuningConfig(target_modules=["input_layernorm", "model.norm"], exclude_modules=["layers.0.input_layernorm"])),
    "ln_nf4": dict(base="llama", nf4=True, config=LNTuningConfig()),
    "prompt_llama": dict(base="llama", config=PromptTuningConfig(num_virtual_tokens=VIRTUAL)),
    "prompt_text": dict(base="qwen2", config=PromptTuningConfig(
        num_virtual_tokens=VIRTUAL, prompt_tuning_init="TEXT", prompt_tuning_init_text="the cat sat", tokenizer_name_or_path=TOKENIZER)),
    "prompt_gemma2": dict(base="gemma2", config=PromptTuningConfig(num_virtual_tokens=VIRTUAL, prompt_tuning_init="SAMPLE_VOCAB")),
    "prompt_phi3": dict(base="phi3", config=PromptTuningConfig(num_virtual_tokens=VIRTUAL)),
    "ptuning_llama": dict(base="llama", config=PromptEncoderConfig(num_virtual_tokens=VIRTUAL, encoder_hidden_size=6)),
    "ptuning_gemma2": dict(base="gemma2", config=PromptEncoderConfig(num_virtual_tokens=VIRTUAL)),
    "prompt_nf4": dict(base="llama", nf4=True, config=PromptTuningConfig(num_virtual_tokens=VIRTUAL)),
    "prefix_llama": dict(base="llama", config=PrefixTuningConfig(num_virtual_tokens=VIRTUAL)),
    "prefix_gemma2": dict(base="gemma2", config=PrefixTuningConfig(num_virtual_tokens=VIRTUAL)),
    "prefix_qwen2": dict(base="qwen2", config=PrefixTuningConfig(num_virtual_tokens=VIRTUAL)),
    "prefix_phi3": dict(base="phi3", config=PrefixTuningConfig(num_virtual_tokens=VIRTUAL)),
    "prefix_nf4": dict(base="llama", nf4=True, config=PrefixTuningConfig(num_virtual_tokens=VIRTUAL)),
    "projection_llama": dict(base="llama", config=PrefixTuningConfig(num_virtual_tokens=VIRTUAL, prefix_projection=True, encoder_hidden_size=6)),
    "projection_gemma2": dict(base="gemma2", config=PrefixTuningConfig(num_virtual_tokens=VIRTUAL, prefix_projection=True)),
}


def base_of(case):
    base = load_base(case)
    for module in base.modules():
        module.support_avx512bf16_for_cpu = False  # bitsandbytes would pack weights in bfloat16 there, and not those of these shapes
    return base


def masked(model, ids):
    """Logits of rows that are padded on the left and on the right, and the mask."""
    mask = torch.ones_like(ids)
    mask[0, :2], mask[1, -3:] = 0, 0
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits[:, -ids.shape[1]:], mask


def generated(model, ids):
    """Greedy tokens by PEFT's forward, row by row. Its generate does something else with transformers 5.24: it hands four tokens to
    the cache at a time where virtual tokens are embeddings, and masks the prefix differently."""
    out = []
    for row in ids:
        new = row[None]
        with torch.no_grad():
            for _ in range(6):
                new = torch.cat([new, model(input_ids=new).logits[:, -1:].argmax(-1)], 1)
        out.append(new[0, len(row):].tolist())
    return out


def error_of(case, module):
    """What PEFT says to a copy of a quantized linear."""
    try:
        get_peft_model(base_of(case), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=[module]))
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return ""


def encoded(config):
    return getattr(config, "prefix_projection", False) or isinstance(config, PromptEncoderConfig)


def parameters(model, virtual):
    """What is trained, by its key in files; of an encoder, by its names."""
    if not virtual:
        return get_peft_model_state_dict(model, state_dict=dict(model.named_buffers(remove_duplicate=False)) | dict(model.named_parameters(remove_duplicate=False)))
    encoder = model.prompt_encoder["default"]
    if encoded(model.peft_config["default"]):
        return dict(encoder.named_parameters())
    return {"prompt_embeddings": encoder.embedding.weight}


def name_tokenizer(path):
    """Puts a name in place of the path of this machine."""
    with open(path) as f:
        text = f.read()
    with open(path, "w") as f:
        f.write(text.replace(TOKENIZER, "wordlevel"))


def write_case(name, case, out):
    folder = os.path.join(out, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    torch.manual_seed(7)
    base, config = base_of(case), case["config"]
    config.task_type = "CAUSAL_LM"
    virtual = config.is_prompt_learning
    ids = tokens(base.config.vocab_size)
    meta = dict(base=BASES[case["base"]], nf4=bool(case.get("nf4")), ids=ids.tolist(),
                versions=dict(peft=peft.__version__, torch=torch.__version__, transformers=transformers.__version__))
    tensors = {}
    with torch.no_grad():
        tensors["base.logits"] = base(input_ids=ids).logits
    model = get_peft_model(base, config).eval()
    if not virtual:
        for key, value in parameters(model, virtual).items():
            tensors["initial." + key] = value.detach().clone()
    elif name in ("prompt_text", "prompt_gemma2"):
        tensors["initial.prompt_embeddings"] = model.prompt_encoder["default"].embedding.weight.detach().clone()
    meta["trainable"] = model.get_nb_trainable_parameters()
    perturb(model, 0.05)
    if encoded(config):
        for key, value in parameters(model, virtual).items():
            tensors["encoder." + key] = value.detach().clone()
    model.save_pretrained(folder)
    name_tokenizer(os.path.join(folder, "adapter_config.json"))
    if virtual:
        out = model(input_ids=ids, labels=ids)  # with embeddings, the last virtual token predicts a row's first
        logits, loss = out.logits[:, -ids.shape[1]:], out.loss
    else:
        logits, loss = loss_of(model, ids)
    loss.backward()
    meta["loss"] = float(loss)
    tensors["logits"] = logits.detach()
    for key, p in parameters(model, virtual).items():
        if p.grad is not None:
            tensors["grad." + key] = p.grad.clone()
    tensors["masked.logits"], mask = masked(model, ids)
    meta["mask"] = mask.tolist()
    if virtual:
        meta["generated"] = generated(model, ids)
    elif not case.get("nf4"):
        with torch.no_grad():
            tensors["merged.logits"] = model.merge_and_unload()(input_ids=ids).logits
    if case.get("quantized"):
        meta["quantized"] = error_of(case, case["quantized"])
    tidy(folder)
    with open(os.path.join(folder, "case.json"), "w") as f:
        json.dump(meta, f, indent=1)
        f.write("\n")
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, os.path.join(folder, "reference.safetensors"))
    print(name, sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(folder) for f in files), "bytes", meta.get("quantized", ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=os.path.join(HERE, "..", "..", "peft", "testdata", "virtual"))
    parser.add_argument("cases", nargs="*", metavar="CASE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for name in args.cases or CASES:
        write_case(name, CASES[name], args.out)


if __name__ == "__main__":
    main()
