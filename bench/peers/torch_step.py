"""Times whole training steps of torch + transformers + peft on a model with random weights and random tokens: what bench/step does, on
the same shapes, and prints the same line of JSON.

    python bench/peers/torch_step.py --shape smollm2-135m --base 16bit --device cpu --dtype float32 --batch 4 --length 256
    python bench/peers/torch_step.py --shape smollm2-135m --base full --device cuda --dtype bfloat16 --batch 16 --length 1024

Needs torch, transformers and peft. LoRA is on all linears. Loss, clipping to norm 1 and AdamW (fused on CUDA) are part of a step.
"""
import argparse
import json
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from shapes import SHAPES
from transformers import LlamaConfig, LlamaForCausalLM


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--shape", default="smollm2-135m", choices=SHAPES)
    p.add_argument("--base", default="16bit", choices=["16bit", "full"])
    p.add_argument("--device", default="cpu")
    p.add_argument("--dtype", default="float32")
    p.add_argument("--r", type=int, default=16)
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--length", type=int, default=2048)
    p.add_argument("--warmup", type=int, default=3)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--checkpointing", action="store_true")
    a = p.parse_args()
    torch.manual_seed(0)
    dtype = getattr(torch, a.dtype)
    with torch.device(a.device):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES[a.shape], attn_implementation="sdpa")).to(dtype)
    if a.base == "16bit":
        model = get_peft_model(model, LoraConfig(r=a.r, lora_alpha=a.r, target_modules="all-linear"))
    if a.checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model.train()
    trained = [q for q in model.parameters() if q.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0, fused=a.device == "cuda")
    ids = torch.randint(0, SHAPES[a.shape]["vocab_size"], (a.batch, a.length), device=a.device)

    def step():
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    times, first = [], None
    for i in range(a.warmup + a.steps):
        start = time.perf_counter()
        loss = step()
        if a.device == "cuda":
            torch.cuda.synchronize()
        first = loss if first is None else first
        if i >= a.warmup:
            times.append((time.perf_counter() - start) * 1e3)
    median = statistics.median(times)
    print(json.dumps(dict(
        peer=f"torch {torch.__version__}", shape=a.shape, base=a.base, device=a.device, dtype=a.dtype, batch=a.batch, length=a.length,
        threads=torch.get_num_threads(), median_ms=round(median, 1), min_ms=round(min(times), 1), max_ms=round(max(times), 1),
        tokens_per_s=round(a.batch * a.length / median * 1e3, 1), first_loss=round(first, 4), last_loss=round(loss, 4),
        peak_gib=round(torch.cuda.max_memory_allocated() / 2**30, 2) if a.device == "cuda" else None)))


if __name__ == "__main__":
    main()
