#!/usr/bin/env python3
"""Writes the fixtures of the model families, computed by transformers + peft on the CPU.

    python scripts/reference/make_family_fixtures.py [--out models/testdata/families] [CASE ...]

Every case is a tiny random checkpoint, saved by transformers in bfloat16 (of whose values float32 computes, too), with a
LoRA adapter on all linears. models/testdata/families/README.md says what each folder holds. All random numbers come from
seeded generators, so a rerun with the same versions reproduces the same files.
"""

import argparse
import copy
import json
import math
import os
import platform
import shutil

import numpy
import peft
import safetensors
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

SEQ, PROMPT, NEW, IGNORE = 44, 22, 64, -100

COMMON = dict(vocab_size=67, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0,
              attention_dropout=0.0)


def rope(kind="default", theta=10000.0, **more):
    return dict(rope_type=kind, rope_theta=theta, **more)


YARN = rope("yarn", 10000.0, factor=4.0, original_max_position_embeddings=20, beta_fast=2.0, beta_slow=0.2)

CASES = {
    "mistral_window": dict(model_type="mistral", sliding_window=9, head_dim=None, rope_parameters=rope()),
    "mistral_nemo": dict(model_type="mistral", sliding_window=None, head_dim=12, hidden_size=40, num_key_value_heads=1,
                         rope_parameters=rope("linear", 1e6, factor=2.5)),
    "qwen2_window": dict(model_type="qwen2", num_hidden_layers=3, use_sliding_window=True, sliding_window=10, max_window_layers=1,
                         tie_word_embeddings=True, max_position_embeddings=30, rope_parameters=rope("dynamic", factor=2.0)),
    "qwen2_plain": dict(model_type="qwen2", hidden_size=36, num_attention_heads=6, num_key_value_heads=3,
                        rope_parameters=YARN | dict(attention_factor=1.1, truncate=False)),
    "qwen3_yarn": dict(model_type="qwen3", head_dim=16, rope_parameters=YARN),
    "qwen3_window": dict(model_type="qwen3", num_hidden_layers=3, head_dim=8, hidden_size=28, attention_bias=True, tie_word_embeddings=True,
                         use_sliding_window=True, sliding_window=7, max_window_layers=2,
                         rope_parameters=rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                              original_max_position_embeddings=32)),
    "gemma_wide": dict(model_type="gemma", head_dim=12, num_key_value_heads=1, rope_parameters=rope()),
    "gemma_bias": dict(model_type="gemma", head_dim=6, hidden_size=36, attention_bias=True, tie_word_embeddings=False,
                       rope_parameters=rope(theta=500.0)),
    "gemma2_caps": dict(model_type="gemma2", num_hidden_layers=3, head_dim=8, sliding_window=8, query_pre_attn_scalar=20,
                        attn_logit_softcapping=1.5, final_logit_softcapping=2.5, rope_parameters=rope()),
    "gemma2_plain": dict(model_type="gemma2", head_dim=12, hidden_size=28, sliding_window=11, query_pre_attn_scalar=12,
                         attn_logit_softcapping=None, final_logit_softcapping=None, layer_types=["full_attention", "sliding_attention"],
                         rope_parameters=rope()),
    "gemma3_pattern": dict(model_type="gemma3_text", num_hidden_layers=6, hidden_size=24, intermediate_size=32, head_dim=8,
                           sliding_window=9, query_pre_attn_scalar=10,
                           rope_parameters=dict(full_attention=rope("linear", 1e6, factor=8.0), sliding_attention=rope())),
    "gemma3_types": dict(model_type="gemma3_text", head_dim=12, sliding_window=6, query_pre_attn_scalar=12, final_logit_softcapping=3.0,
                         layer_types=["full_attention", "sliding_attention"],
                         rope_parameters=dict(full_attention=rope(theta=3e5), sliding_attention=rope(theta=200.0))),
    "gemma3_vision": dict(model_type="gemma3_text", head_dim=8, hidden_size=24, intermediate_size=32, sliding_window=9,
                          query_pre_attn_scalar=8, layer_types=["sliding_attention", "full_attention"],
                          rope_parameters=dict(full_attention=rope(theta=5e4), sliding_attention=rope())),
    "phi3_window": dict(model_type="phi3", sliding_window=10, original_max_position_embeddings=256, rope_parameters=rope()),
    "phi3_longrope": dict(model_type="phi3", hidden_size=64, intermediate_size=24, num_key_value_heads=1, tie_word_embeddings=True,
                          original_max_position_embeddings=36,
                          rope_parameters=rope("longrope", partial_rotary_factor=0.75, short_factor=[1.0, 1.1, 1.2, 1.4, 1.5, 1.7],
                                               long_factor=[1.3, 1.9, 2.8, 4.1, 5.2, 6.4])),
    "granite_multipliers": dict(model_type="granite", embedding_multiplier=1.7, attention_multiplier=0.4, residual_multiplier=0.6,
                                logits_scaling=0.8, rope_parameters=rope()),
    "granite_bias": dict(model_type="granite", hidden_size=36, num_attention_heads=6, num_key_value_heads=3, attention_bias=True,
                         mlp_bias=True, embedding_multiplier=2.0, attention_multiplier=0.3, residual_multiplier=1.0, logits_scaling=0.5,
                         rope_parameters=YARN),
}


def versions():
    return dict(python=platform.python_version(), torch=torch.__version__, transformers=transformers.__version__,
                peft=peft.__version__, safetensors=safetensors.__version__, numpy=numpy.__version__)


def random_model(case, seed):
    """A model whose activations, attention and logits are of order one, no weight of which is trivial."""
    gen = torch.Generator().manual_seed(seed)
    config = AutoConfig.for_model(**(COMMON | case))
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    gemma = case["model_type"].startswith("gemma")
    offset = 0.0 if gemma else 1.0
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=gen)
            if name == "model.norm.weight" and gemma:
                noise = 5 + noise  # for logits of order one from small embeddings
            elif "norm" in name:
                noise = offset + 0.2 * noise
            elif name.endswith("bias"):
                noise = 0.2 * noise
            elif "embed_tokens" in name:
                noise = (0.08 if gemma else 0.4) * noise  # Gemma multiplies by sqrt(hidden)
            else:
                noise = noise * (1.2 / math.sqrt(p.shape[1]))
            p.copy_(noise.bfloat16().float())
    return model


def seeing(text, ids):
    """The model as part of one that also sees."""
    vision = dict(model_type="siglip_vision_model", hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1,
                  image_size=4, patch_size=2)
    config = transformers.Gemma3Config(text_config=text.config.to_dict(), vision_config=vision, mm_tokens_per_image=4,
                                       boi_token_index=0, eoi_token_index=1, image_token_index=2)
    config._attn_implementation = "eager"
    whole = transformers.Gemma3ForConditionalGeneration(config).eval()
    whole.model.language_model.load_state_dict(text.model.state_dict())
    whole.tie_weights()
    with torch.no_grad():
        error = off(whole(input_ids=ids).logits, text(input_ids=ids).logits)
    assert error < 1e-5, error
    return whole.to(torch.bfloat16)


def adapted(model, seed):
    gen = torch.Generator().manual_seed(seed + 1)
    tuned = get_peft_model(model, LoraConfig(r=2, lora_alpha=3, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
    with torch.no_grad():
        for name, p in sorted(tuned.named_parameters()):
            if "lora_" in name:
                p.copy_(0.15 * torch.randn(p.shape, generator=gen))
    return tuned


def padded_batch(case, seed):
    """Two rows, the second padded on the right; labels are shifted: what should follow each position."""
    gen = torch.Generator().manual_seed(seed + 2)
    ids = torch.randint(3, COMMON["vocab_size"], (2, SEQ), generator=gen)
    mask = torch.ones_like(ids)
    ids[1, SEQ - 7:], mask[1, SEQ - 7:] = 0, 0
    labels = torch.full_like(ids, IGNORE)
    labels[:, :-1] = torch.where(mask[:, 1:] == 1, ids[:, 1:], IGNORE)
    labels[0, :5] = IGNORE
    return dict(ids=ids, mask=mask, labels=labels, positions=None, segments=mask)


def packed_batch(case, seed):
    """One row of three documents."""
    gen = torch.Generator().manual_seed(seed + 3)
    lengths = [35, 19, 6]
    ids = torch.randint(3, COMMON["vocab_size"], (1, sum(lengths)), generator=gen)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    segments = torch.cat([torch.full((n,), i + 1) for i, n in enumerate(lengths)])[None]
    labels = torch.full_like(ids, IGNORE)
    labels[:, :-1] = torch.where(segments[:, 1:] == segments[:, :-1], ids[:, 1:], IGNORE)
    return dict(ids=ids, mask=None, labels=labels, positions=positions, segments=segments)


def run(tuned, batch, grads=True):
    """Logits, loss and gradients of a copy: dynamic RoPE remembers."""
    model = copy.deepcopy(tuned)
    model.requires_grad_(True)
    out = model(input_ids=batch["ids"], attention_mask=batch["mask"], position_ids=batch["positions"], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(out.float().flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORE)
    if grads:
        loss.backward()
    return out.detach(), loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def greedy(model, prompt):
    out = copy.deepcopy(model).generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW, do_sample=False,
                                        eos_token_id=[], pad_token_id=0, output_logits=True, return_dict_in_generate=True)
    top = torch.stack(out.logits).float()[:, 0].topk(2).values
    return out.sequences[0, prompt.shape[1]:].tolist(), (top[:, 0] - top[:, 1]).min().item()


def off(a, b):
    return (torch.linalg.norm(a.double() - b.double()) / torch.linalg.norm(b.double())).item()


def flat(grads):
    return torch.cat([g.float().flatten() for n, g in sorted(grads.items()) if "lora_" in n])


def plain_name(name):
    return name.replace("base_model.model.", "").replace(".base_layer", "").replace(".default", "")


def make(name, case, out):
    seed = 1 + sum(ord(c) for c in name)
    for seed in range(seed, seed + 60):  # until greedy choices are clear
        model = random_model(case, seed)
        prompt = torch.randint(3, COMMON["vocab_size"], (1, PROMPT), generator=torch.Generator().manual_seed(seed))
        tokens, margin = greedy(model, prompt)
        if margin > 2e-3 and len(set(tokens)) > 8:
            break
    else:
        raise SystemExit(f"{name}: no seed gives clear choices: the last margin is {margin:.2g}, with {len(set(tokens))} tokens")
    folder = os.path.join(out, name)
    shutil.rmtree(folder, ignore_errors=True)
    saved = copy.deepcopy(model).to(torch.bfloat16)  # to be saved only: its frequencies are rounded, too
    (seeing(model, prompt) if name == "gemma3_vision" else saved).save_pretrained(folder)
    os.path.exists(os.path.join(folder, "generation_config.json")) and os.remove(os.path.join(folder, "generation_config.json"))
    half = AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16).eval()
    half.load_state_dict(model.state_dict())
    assert all(b.dtype == torch.float32 for n, b in half.named_buffers() if "inv_freq" in n)
    tuned, half = adapted(model, seed), adapted(half, seed)
    padded, packed = padded_batch(case, seed), packed_batch(case, seed)
    logits, loss, grads = run(tuned, padded)
    half_logits, _, half_grads = run(half, padded)
    packed_logits, packed_loss, packed_grads = run(tuned, packed)
    visible = padded["mask"] == 1
    tensors = {"logits": logits[visible]}
    for n, p in tuned.named_parameters():
        if "lora_" in n:
            tensors[plain_name(n)] = p
            tensors["grad." + plain_name(n)] = grads[n]
            tensors["packed.grad." + plain_name(n)] = packed_grads[n]
        elif "norm" in n or "embed_tokens" in n or n.endswith("bias"):
            tensors["grad." + plain_name(n)] = grads[n]
    save_file({n: t.detach().contiguous() for n, t in tensors.items()}, os.path.join(folder, "reference.safetensors"))
    def listed(b):
        return {k: v.flatten().tolist() for k, v in b.items() if v is not None and k != "mask"} | dict(rows=b["ids"].shape[0])
    reference = dict(
        versions=versions(), seed=seed, scaling=1.5,
        padded=listed(padded) | dict(loss=loss), packed=listed(packed) | dict(loss=packed_loss),
        bf16=dict(logits=off(half_logits[visible], logits[visible]), gradients=off(flat(half_grads), flat(grads))),
        prompt=prompt[0].tolist(), greedy=tokens, smallest_margin=margin)
    with open(os.path.join(folder, "reference.json"), "w") as f:
        json.dump(reference, f)
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    print(f"{name}: loss {loss:.4f}, packed {packed_loss:.4f}, bf16 {reference['bf16']}, margin {margin:.2g}, {size >> 10} KB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="models/testdata/families")
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name in args.cases or CASES:
        make(name, CASES[name], args.out)
