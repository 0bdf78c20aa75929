"""Writes models/testdata/gguf: the tiny checkpoints of models/testdata/families as GGUF files, and the logits of transformers.

Names of tensors and keys are those of gguf-py (TensorNameMap and GGUFWriter); what is stored otherwise than in transformers
is what llama.cpp's conversion does: rows of q and k for interleaved RoPE, 1 + weight for Gemma's norms, divisors of
frequencies as tensors. What GGUF has no key for is set as llama.cpp assumes it: OVERRIDES. NAME.gguf has its matrices in
BF16, which holds the checkpoint's numbers, and logits.safetensors has NAME: [1, len, vocab] of ids(len, vocab).

Made with: gguf 0.19.0, torch 2.13.0, transformers 5.24.0.
"""
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

root = Path(__file__).resolve().parents[2] / "models/testdata"
out = root / "gguf"
out.mkdir(exist_ok=True)
LENGTH = 41
ARCHS = {"mistral": "llama", "gemma3_text": "gemma3"}
OVERRIDES = {
    "gemma2_caps": dict(query_pre_attn_scalar=8),
    "gemma3_pattern": dict(query_pre_attn_scalar=8),
    "gemma3_types": {},
    "gemma_wide": {},
    "granite_bias": {},
    "granite_multipliers": {},
    "mistral_nemo": {},
    "mistral_window": dict(sliding_window=None),
    "phi3_longrope": {},
    "phi3_window": {},
    "qwen2_window": dict(use_sliding_window=False, layer_types=["full_attention"] * 3, sliding_window=None,
                         rope_parameters=dict(rope_type="default", rope_theta=10000.0)),
    "qwen3_yarn": {},
}


def ids(length, vocab):
    return [(7 * i * i + 3 * i + 1) % vocab for i in range(length)]


def interleaved(w, heads):
    """Rows i and i + head_dim/2 of each head become rows 2i and 2i+1."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def scaling(w, c, rope, rotary):
    kind = rope["rope_type"]
    if kind == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(rope["factor"])
    elif kind == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(rope["factor"])
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        w.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        w.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    elif kind == "longrope":
        original = c.original_max_position_embeddings
        w.add_rope_scaling_orig_ctx_len(original)
        w.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(c.max_position_embeddings / original) / np.log(original))))
        w.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], np.float32))
        w.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], np.float32))
    else:
        assert kind == "default", kind


def write(name, c, tensors):
    arch = ARCHS.get(c.model_type, c.model_type)
    w = gguf.GGUFWriter(str(out / f"{name}.gguf"), arch)
    w.add_type(gguf.GGUFType.MODEL)
    heads, kv = c.num_attention_heads, c.num_key_value_heads
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // heads
    rope = c.rope_parameters
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    if head_dim != c.hidden_size // heads or arch.startswith("gemma"):
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
    if arch == "gemma3":
        w.add_sliding_window(c.sliding_window)
        if name != "gemma3_pattern":  # five of six is what a file without says
            w.add_sliding_window_pattern([t == "sliding_attention" for t in c.layer_types])
        w.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
        rope = rope["full_attention"]
        if c.final_logit_softcapping:
            w.add_final_logit_softcapping(c.final_logit_softcapping)
    if arch == "gemma2":
        w.add_sliding_window(c.sliding_window)
        w.add_attn_logit_softcapping(c.attn_logit_softcapping)
        w.add_final_logit_softcapping(c.final_logit_softcapping)
    if arch == "granite":
        w.add_attention_scale(c.attention_multiplier)
        w.add_embedding_scale(c.embedding_multiplier)
        w.add_residual_scale(c.residual_multiplier)
        w.add_logit_scale(c.logits_scaling)
    rotary = head_dim
    if arch == "phi3":
        rotary = int(head_dim * rope.get("partial_rotary_factor", 1.0))
        w.add_sliding_window(c.sliding_window or 0)
    if arch in ("llama", "granite", "phi3"):
        w.add_rope_dimension_count(rotary)
    if arch not in ("gemma", "gemma2"):
        w.add_rope_freq_base(rope["rope_theta"])
    scaling(w, c, rope, rotary)

    names = gguf.get_tensor_name_map({v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[arch], c.num_hidden_layers)
    for key, t in tensors.items():
        t = t.float().numpy()
        if arch.startswith("gemma") and key.endswith("norm.weight"):
            t = t + np.float32(1)
        if arch in ("llama", "granite"):
            if "q_proj" in key:
                t = interleaved(t, heads)
            elif "k_proj" in key:
                t = interleaved(t, kv)
        kind = gguf.GGMLQuantizationType.BF16 if t.ndim > 1 else gguf.GGMLQuantizationType.F32
        stored = names.get_name(key, try_suffixes=(".weight", ".bias"))
        w.add_tensor(stored, gguf.quants.quantize(np.ascontiguousarray(t), kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


logits = {}
for name, over in OVERRIDES.items():
    folder = root / "families" / name
    c = AutoConfig.from_pretrained(folder, **over)
    c = getattr(c, "text_config", c)
    model = AutoModelForCausalLM.from_pretrained(folder, config=c, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits[name] = model(torch.tensor([ids(LENGTH, c.vocab_size)])).logits.contiguous()
    write(name, c, load_file(folder / "model.safetensors"))
save_file(logits, out / "logits.safetensors")
