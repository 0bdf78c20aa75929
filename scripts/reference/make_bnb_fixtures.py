#!/usr/bin/env python3
"""Writes models/testdata/bnb_*: a tiny bfloat16 Llama and what transformers + bitsandbytes make of it, on the CPU.

    python scripts/reference/make_bnb_fixtures.py [--out models/testdata]

bnb_none/   the checkpoint, bfloat16; hidden 36, so that weights end inside blocks of 64
bnb_fp4/    FP4 without double quantization; down_proj and lm_head skipped
bnb_nf4/    NF4 with double quantization, its bytes stored as bfloat16
bnb_int8/   LLM.int8()
Each holds config.json, model.safetensors and reference.json: ids [1][seq], logits [1][seq][vocab] in float32 arithmetic
(for int8: of the decoded weights, which is what a model with unquantized inputs computes), and greedy, the ids that
generate() appends. A rerun with the versions in reference.json writes the same bytes.
"""

import argparse
import json
import os
import shutil

import bitsandbytes
import torch
import transformers
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

VERSIONS = dict(torch=torch.__version__, transformers=transformers.__version__, bitsandbytes=bitsandbytes.__version__)
SKIP = ["lm_head", "down_proj"]
CASES = {
    "none": None,
    "fp4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4", llm_int8_skip_modules=SKIP),
    "nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                              bnb_4bit_quant_storage=torch.bfloat16),
    "int8": BitsAndBytesConfig(load_in_8bit=True),
}


def make_base(folder):
    torch.manual_seed(5)
    config = LlamaConfig(vocab_size=70, hidden_size=36, intermediate_size=52, num_hidden_layers=2, num_attention_heads=3,
                         num_key_value_heads=1, head_dim=12, max_position_embeddings=64, rms_norm_eps=1e-5,
                         tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.2 + (1.0 if p.ndim == 1 else 0.0))
    model.to(torch.bfloat16).save_pretrained(folder)


def decoded(model):
    """The float32 model whose linears hold what the quantized ones stand for."""
    plain = LlamaForCausalLM(LlamaConfig.from_dict({k: v for k, v in model.config.to_dict().items()
                                                    if k not in ("quantization_config", "dtype")})).float()
    for name, module in plain.named_modules():
        if not hasattr(module, "weight"):
            continue
        w = model.get_submodule(name).weight
        if hasattr(w, "quant_state"):
            w = bitsandbytes.functional.dequantize_4bit(w.data, w.quant_state)
        elif hasattr(w, "SCB"):
            w = bitsandbytes.functional.int8_vectorwise_dequant(w.data, w.SCB)
        module.weight.data.copy_(w.float())
    return plain.eval()


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--out", default="models/testdata")
    out = args.parse_args().out
    base = os.path.join(out, "bnb_none")
    for name, config in CASES.items():
        folder = os.path.join(out, "bnb_" + name)
        shutil.rmtree(folder, ignore_errors=True)
        if config is None:
            make_base(folder)
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        else:
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, quantization_config=config)
            model.save_pretrained(folder)
            model = decoded(model)
        ids = torch.tensor([[1, 5, 61, 33, 9, 12, 47, 20, 3, 8, 55]])
        with torch.no_grad():
            logits = model(ids).logits
            greedy = model.generate(ids, max_new_tokens=16, do_sample=False, eos_token_id=None)
        for extra in ("generation_config.json",):
            if os.path.exists(os.path.join(folder, extra)):
                os.remove(os.path.join(folder, extra))
        with open(os.path.join(folder, "reference.json"), "w") as f:
            json.dump(dict(versions=VERSIONS, ids=ids.tolist(), logits=logits.tolist(), greedy=greedy[0, ids.shape[1]:].tolist()), f)
            f.write("\n")


main()
