#!/usr/bin/env python3
"""Writes the tiny-Llama reference fixtures, computed by transformers + peft + bitsandbytes on the CPU.

    python scripts/reference/make_llama_fixtures.py [--out internal/reference/testdata] [--only a b c]

Three random Llama checkpoints with LoRA adapters, their logits, losses, gradients and AdamW curves in float32,
bfloat16 and float64. Every folder's layout and every key is described in internal/reference/README.md. All
random numbers come from seeded generators, so a rerun with the same versions reproduces the same files.
"""

import argparse
import json
import math
import os
import platform
import shutil
import sys

import bitsandbytes
import numpy
import peft
import safetensors
import tokenizers
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM
from transformers.trainer import Trainer

from nf4 import through_nf4

IGNORE = -100
LORA_STEPS, FULL_STEPS, BATCHES = 20, 5, 4
LORA_OPTIM = dict(lr=5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
FULL_OPTIM = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
MAX_GRAD_NORM = 1.0

COMMON = dict(hidden_act="silu", attention_dropout=0.0, bos_token_id=1, eos_token_id=2, pad_token_id=0,
              initializer_range=0.02, use_cache=True, max_position_embeddings=256)

CASES = {
    "a": dict(
        what="grouped-query attention, 4 query heads on 2 key/value heads; untied head; default RoPE",
        seed=11, seq=37,
        config=dict(vocab_size=150, hidden_size=64, intermediate_size=100, num_hidden_layers=2,
                    num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5, tie_word_embeddings=False,
                    rope_parameters=dict(rope_type="default", rope_theta=10000.0)),
        lora=dict(r=4, lora_alpha=8, target_modules="all-linear"),
        full=True, nf4=True, shard=None),
    "b": dict(
        what="multi-head attention with explicit head_dim; tied embeddings; attention and MLP biases; odd sizes",
        seed=22, seq=35,
        config=dict(vocab_size=131, hidden_size=48, intermediate_size=76, num_hidden_layers=3,
                    num_attention_heads=3, num_key_value_heads=3, head_dim=16, rms_norm_eps=1e-6,
                    tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
                    rope_parameters=dict(rope_type="default", rope_theta=50000.0)),
        lora=dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
        full=False, nf4=False, shard=None),
    "c": dict(
        what="6 query heads on 3 key/value heads with heads*head_dim != hidden; llama3 RoPE scaling that bites"
             " (one frequency in each of its three bands); untied; sharded checkpoint",
        seed=33, seq=41,
        config=dict(vocab_size=149, hidden_size=60, intermediate_size=88, num_hidden_layers=2,
                    num_attention_heads=6, num_key_value_heads=3, head_dim=16, rms_norm_eps=1e-5,
                    tie_word_embeddings=False,
                    rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
                                         high_freq_factor=4.0, original_max_position_embeddings=32)),
        lora=dict(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "o_proj", "down_proj"], use_rslora=True,
                  rank_pattern={"down_proj": 2, "layers.1.self_attn.q_proj": 6},
                  alpha_pattern={"q_proj": 12, "layers.0.mlp.down_proj": 5}),
        full=False, nf4=False, shard="150KB"),
}


def versions():
    return dict(python=platform.python_version(), torch=torch.__version__, transformers=transformers.__version__,
                peft=peft.__version__, bitsandbytes=bitsandbytes.__version__, safetensors=safetensors.__version__,
                tokenizers=tokenizers.__version__, numpy=numpy.__version__)


def random_model(case):
    """A Llama whose activations, attention and logits are all of order one, and no weight of which is trivial."""
    gen = torch.Generator().manual_seed(case["seed"])
    model = LlamaForCausalLM(LlamaConfig(**COMMON, **case["config"])).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=gen)
            if "norm" in name:
                p.copy_(1 + 0.2 * noise)
            elif name.endswith("bias"):
                p.copy_(0.1 * noise)
            elif "embed_tokens" in name:
                p.copy_(0.3 * noise)
            else:
                p.copy_(noise * (1.2 / math.sqrt(p.shape[1])))
    return model


def random_batches(case):
    """BATCHES batches of two rows: row 0 full length, row 1 right-padded; labels are ids with masked spans."""
    gen = torch.Generator().manual_seed(1000 + case["seed"])
    vocab, seq = case["config"]["vocab_size"], case["seq"]
    batches = []
    for b in range(BATCHES):
        ids = torch.randint(3, vocab, (2, seq), generator=gen)
        mask = torch.ones(2, seq, dtype=torch.long)
        real = seq - 6 - 3 * b
        ids[1, real:], mask[1, real:] = 0, 0
        labels = ids.clone()
        labels[1, real:] = IGNORE
        labels[0, : 5 + b] = IGNORE  # a masked prompt; row 1 keeps its label 0, which the shift drops
        labels[1, 9:13] = IGNORE     # a masked turn in the middle
        batches.append((ids, mask, labels))
    return batches


def label_count(labels):
    return int((labels[:, 1:] != IGNORE).sum())


def loss_of(model, batch):
    """Causal cross entropy summed over labels[:, 1:] != -100 in float32 (float64 for float64 models), over their count."""
    ids, mask, labels = batch
    logits = model(input_ids=ids, attention_mask=mask).logits
    wide = logits if logits.dtype == torch.float64 else logits.float()
    total = torch.nn.functional.cross_entropy(wide[:, :-1].reshape(-1, wide.shape[-1]), labels[:, 1:].reshape(-1),
                                              ignore_index=IGNORE, reduction="sum")
    return total / label_count(labels), logits


def own_loss_of(model, batch):
    """The same loss as transformers computes it, to hold loss_of against."""
    ids, mask, labels = batch
    return model(input_ids=ids, attention_mask=mask, labels=labels, num_items_in_batch=label_count(labels)).loss


def train(model, groups, batches, steps, optim, context=None):
    """AdamW with global-norm clipping on batches[step % len]; losses before each update, norms before the clip."""
    optimizer = torch.optim.AdamW(groups, foreach=False, **optim)
    trainable = [p for g in optimizer.param_groups for p in g["params"]]
    losses, norms = [], []
    for step in range(steps):
        optimizer.zero_grad()
        with (context() if context else torch.enable_grad()):
            loss, _ = loss_of(model, batches[step % len(batches)])
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trainable, MAX_GRAD_NORM, foreach=False)))
        optimizer.step()
        losses.append(float(loss.detach()))
    with torch.no_grad(), (context() if context else torch.no_grad()):
        final = float(loss_of(model, batches[0])[0])
    return dict(loss=losses, grad_norm=norms, final_loss=final)


def lora_params(model):
    """Trainable parameters by the keys that PEFT gives them in adapter_model.safetensors."""
    return {n.replace(".default.", "."): p for n, p in model.named_parameters() if p.requires_grad}


def gradients(model, batch):
    model.zero_grad()
    loss, logits = loss_of(model, batch)
    loss.backward()
    return loss.detach(), logits.detach()


def copies(named, prefix, grad=False):
    return {prefix + n: (p.grad if grad else p.data).detach().float().contiguous().clone() for n, p in named.items()}


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def load_tuned(folder, dtype):
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return PeftModel.from_pretrained(base, os.path.join(folder, "adapter"), is_trainable=True).eval()


def save_adapter(model, case, folder):
    torch.manual_seed(100 + case["seed"])  # PEFT's own initialisation of A
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **case["lora"]))
    gen = torch.Generator().manual_seed(200 + case["seed"])
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if "lora_B" in name:
                p.copy_(0.1 * torch.randn(p.shape, generator=gen))
    target = os.path.join(folder, "adapter")
    tuned.save_pretrained(target)
    os.remove(os.path.join(target, "README.md"))
    scaling = {n[len("base_model.model."):]: m.scaling["default"] for n, m in tuned.named_modules()
               if hasattr(m, "scaling") and isinstance(m.scaling, dict)}
    return scaling


def lora_reference(folder, batches):
    tensors, doc = {}, {}
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    with torch.no_grad():
        loss, logits = loss_of(base, batches[0])
    tensors["base.logits"], doc["base_loss"] = logits, float(loss)

    tuned = load_tuned(folder, torch.float32)
    loss, logits = gradients(tuned, batches[0])
    assert relative(own_loss_of(tuned, batches[0]).detach(), loss) < 1e-6, "transformers' own loss disagrees"
    tensors["tuned.logits"], doc["tuned_loss"] = logits, float(loss)
    named = lora_params(tuned)
    assert all(float(p.grad.norm()) > 0 for p in named.values()), "a LoRA gradient is zero"
    tensors |= copies(named, "grad.", grad=True)
    doc["grad_norm"] = float(torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in named.values()])))

    bf16 = lambda: torch.autocast("cpu", torch.bfloat16)
    runs = {"fp32": (torch.float32, None), "bf16_autocast": (torch.float32, bf16), "bf16_model": (torch.bfloat16, None),
            "fp64": (torch.float64, None)}
    finals = {}
    for run, (dtype, context) in runs.items():
        model = load_tuned(folder, dtype)
        if dtype == torch.float64:
            model = model.double()
            _, logits64 = gradients(model, batches[0])
            doc["fp32_against_fp64"] = dict(
                tuned_logits=relative(tensors["tuned.logits"], logits64),
                worst_gradient=max(relative(tensors["grad." + n], p.grad) for n, p in lora_params(model).items()))
        named = lora_params(model)
        assert dtype == torch.float64 or all(p.dtype == torch.float32 for p in named.values())
        with torch.no_grad(), (context() if context else torch.no_grad()):
            logits = loss_of(model, batches[0])[1]
        if run.startswith("bf16"):
            tensors[f"{run}.tuned.logits"] = logits.to(torch.bfloat16).contiguous()
        doc.setdefault("steps", {})[run] = train(model, list(named.values()), batches, LORA_STEPS, LORA_OPTIM, context)
        finals[run] = copies(named, "")
        if run != "fp64":
            tensors |= copies(named, f"final.{run}.")
    doc["fp32_against_fp64"]["worst_final_adapter"] = max(relative(finals["fp32"][n], finals["fp64"][n]) for n in finals["fp32"])
    for run in ("bf16_autocast", "bf16_model"):
        doc["fp32_against_fp64"][f"worst_final_adapter_{run}"] = max(
            relative(finals[run][n], finals["fp64"][n]) for n in finals["fp32"])
    return tensors, doc


def full_reference(folder, batches):
    """Gradients of every base weight and a few full fine-tuning steps, decayed by the Trainer's rule (no norms, no biases)."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    loss, _ = gradients(model, batches[0])
    named = dict(model.named_parameters())
    tensors = copies(named, "full.grad.", grad=True)
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    groups = [dict(params=[p for n, p in named.items() if n in decayed]),
              dict(params=[p for n, p in named.items() if n not in decayed], weight_decay=0.0)]
    doc = dict(loss=float(loss), no_decay=[n for n in named if n not in decayed],
               steps=dict(fp32=train(model, groups, batches, FULL_STEPS, FULL_OPTIM)))
    kept = [n for n in named if "norm" in n or n.endswith("layers.0.self_attn.q_proj.weight")
            or n.endswith("layers.1.mlp.down_proj.weight")]
    return tensors | copies({n: named[n] for n in kept}, "full.final."), doc


def nf4_reference(folder, batches):
    """The base's block linears through bitsandbytes NF4 with double quantization and back, in float32; lm_head stays."""
    tuned = load_tuned(folder, torch.float32)
    errors = {n.replace("base_model.model.", "").replace(".base_layer", ""): e for n, e in through_nf4(tuned).items()}
    with torch.no_grad(), tuned.disable_adapter():
        base_loss, base_logits = loss_of(tuned, batches[0])
    loss, logits = gradients(tuned, batches[0])
    named = lora_params(tuned)
    tensors = {"nf4.base.logits": base_logits, "nf4.tuned.logits": logits} | copies(named, "nf4.grad.", grad=True)
    doc = dict(base_loss=float(base_loss), tuned_loss=float(loss), quantization_error=errors,
               steps=dict(fp32=train(tuned, list(named.values()), batches, LORA_STEPS, LORA_OPTIM)))
    tensors |= copies(named, "nf4.final.fp32.")
    return tensors, doc


def save_nf4_checkpoint(folder, batches, expected_logits):
    """The same base as a bnb-4bit checkpoint written by transformers; its logits must match the round-tripped base."""
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32,
                                                 device_map="cpu", attn_implementation="sdpa")
    with torch.no_grad():
        logits = loss_of(model, batches[0])[1]
    error = relative(logits, expected_logits)
    assert error < 1e-5, f"bnb-4bit model's logits are {error:.2e} from the round-tripped base"
    model.save_pretrained(os.path.join(folder, "model_nf4"))
    return error


def make(letter, out):
    case, folder = CASES[letter], f"llama_{letter}"
    os.chdir(out)  # so that files name the model by its folder, not by this machine's paths
    shutil.rmtree(folder, ignore_errors=True)
    model = random_model(case)
    model.save_pretrained(folder, **({"max_shard_size": case["shard"]} if case["shard"] else {}))
    batches = random_batches(case)
    scaling = save_adapter(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), case, folder)

    tensors, lora = lora_reference(folder, batches)
    doc = dict(what=case["what"], versions=versions(), seed=case["seed"], attn_implementation="sdpa",
               input_ids=[b[0].tolist() for b in batches], attention_mask=[b[1].tolist() for b in batches],
               labels=[b[2].tolist() for b in batches], label_tokens=[label_count(b[2]) for b in batches],
               optimizer=dict(lora=LORA_OPTIM, full=FULL_OPTIM, max_grad_norm=MAX_GRAD_NORM),
               scaling=scaling, lora=lora)
    if case["full"]:
        more, doc["full"] = full_reference(folder, batches)
        tensors |= more
    if case["nf4"]:
        more, doc["nf4"] = nf4_reference(folder, batches)
        tensors |= more
        doc["nf4"]["checkpoint_logits_error"] = save_nf4_checkpoint(folder, batches, more["nf4.base.logits"])
    save_file({n: t.contiguous() for n, t in tensors.items()}, f"{folder}/reference.safetensors",
              metadata={"versions": json.dumps(versions(), sort_keys=True)})
    with open(f"{folder}/reference.json", "w") as f:
        f.write(to_json(doc) + "\n")
    report(folder, doc)


def to_json(doc):
    """Indented objects, one line per innermost value list, so that the file can be read and diffed."""
    def lines(value, indent):
        pad = "  " * indent
        if isinstance(value, dict) and value:
            return "{\n" + ",\n".join(f'{pad}  {json.dumps(k)}: {lines(v, indent + 1)}' for k, v in value.items()) + f"\n{pad}}}"
        return json.dumps(value, separators=(", ", ": "))
    return lines(doc, 0)


def report(folder, doc):
    size = sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(folder) for f in files)
    lora = doc["lora"]
    print(f"{folder}: {size / 1e3:.0f} kB, base loss {lora['base_loss']:.5f}, tuned {lora['tuned_loss']:.5f}, "
          f"float32 noise {lora['fp32_against_fp64']}")
    for run, r in lora["steps"].items():
        print(f"  {run:14s} loss {r['loss'][0]:.6f} -> {r['final_loss']:.6f}, norms {r['grad_norm'][0]:.4f} .. {r['grad_norm'][-1]:.4f}")
    for extra in ("full", "nf4"):
        if extra in doc:
            r = doc[extra]["steps"]["fp32"]
            print(f"  {extra:14s} loss {r['loss'][0]:.6f} -> {r['final_loss']:.6f}")


def main():
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=os.path.join(root, "internal", "reference", "testdata"))
    parser.add_argument("--only", nargs="+", choices=sorted(CASES), default=sorted(CASES))
    args = parser.parse_args()
    out = os.path.abspath(args.out)
    os.makedirs(out, exist_ok=True)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for letter in args.only:
        make(letter, out)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # PEFT writes sets as lists: fix their order
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    main()
