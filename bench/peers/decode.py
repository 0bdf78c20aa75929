"""Times greedy generation of transformers + bitsandbytes (NF4, double quantization, bfloat16) with random weights from random
prompts: what bench/decode does, on the same shapes, and prints the same line of JSON for each batch size.

    python bench/peers/decode.py --shape llama-3-8b --device cuda --batch 1,32 --prompt 128 --new 128
    python bench/peers/decode.py --shape tiny --device cpu --batch 1,3 --prompt 20 --new 10 --r 4

Needs torch, transformers and bitsandbytes, and peft for --r. Nothing is downloaded: the model is made from its config, and
quantized on the device a linear at a time. The time of a step is what all new tokens but the first take, by their number;
medians over --repeat texts, after one to warm up. --cache static lets transformers compile the step with torch.compile.
"""
import argparse
import json
import statistics
import time

import bitsandbytes as bnb
import torch
import transformers
from shapes import SHAPES
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

DTYPE = torch.bfloat16


def random_model(config, device, base):
    """A model on the device whose layers' linears are quantized there; never more than one is there in full."""
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(DTYPE)

    def values(like):
        return torch.randn(like.shape, dtype=DTYPE, device=device).mul_(0.02)

    for name, module in list(model.named_modules()):
        parent = model.get_submodule(name.rpartition(".")[0])
        if isinstance(module, nn.Linear) and base == "nf4" and name != "lm_head":
            linear = bnb.nn.Linear4bit(module.in_features, module.out_features, bias=False, compute_dtype=DTYPE, compress_statistics=True,
                                       quant_type="nf4", device="meta")
            weight = bnb.nn.Params4bit(values(module.weight), requires_grad=False, compress_statistics=True, quant_type="nf4")
            linear.weight = weight.to(device)  # quantizes
            assert linear.weight.dtype == torch.uint8, linear.weight.dtype
            setattr(parent, name.rpartition(".")[2], linear)
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight = nn.Parameter(values(module.weight), requires_grad=False)
        elif name.endswith("rotary_emb"):
            setattr(parent, "rotary_emb", type(module)(config=config).to(device))
        elif hasattr(module, "weight") and module.weight is not None and module.weight.dim() == 1:
            module.weight = nn.Parameter(torch.ones(module.weight.shape, dtype=DTYPE, device=device), requires_grad=False)
    model.tie_weights()
    left = [n for n, t in [*model.named_parameters(), *model.named_buffers()] if t.device.type == "meta"]
    if left:
        raise SystemExit(f"left without values: {left}")
    model.is_loaded_in_4bit = base == "nf4"
    return model.eval()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--shape", default="llama-3-8b", choices=SHAPES)
    p.add_argument("--base", default="nf4", choices=["nf4", "16bit"])
    p.add_argument("--device", default="cuda")
    p.add_argument("--batch", default="1,32")
    p.add_argument("--layers", type=int, default=0)
    p.add_argument("--prompt", type=int, default=128)
    p.add_argument("--new", type=int, default=128)
    p.add_argument("--repeat", type=int, default=5)
    p.add_argument("--r", type=int, default=0)
    p.add_argument("--cache", default="dynamic", choices=["dynamic", "static"])
    a = p.parse_args()
    torch.manual_seed(0)
    shape = dict(SHAPES[a.shape])
    if a.layers:
        shape["num_hidden_layers"] = a.layers
    config = LlamaConfig(**shape, attn_implementation="sdpa", bos_token_id=None, eos_token_id=None)
    model = random_model(config, a.device, a.base)
    if a.r:
        from peft import LoraConfig, get_peft_model
        model = get_peft_model(model, LoraConfig(r=a.r, lora_alpha=a.r, target_modules="all-linear", init_lora_weights=False)).eval()
    sync = torch.cuda.synchronize if a.device.startswith("cuda") else lambda: None

    for rows in map(int, a.batch.split(",")):
        ids = torch.randint(0, config.vocab_size, (rows, a.prompt), device=a.device)
        more = {"cache_implementation": "static"} if a.cache == "static" else {}

        @torch.inference_mode()
        def text(tokens):
            sync()
            start = time.perf_counter()
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens,
                                 min_new_tokens=tokens, pad_token_id=0, **more)
            sync()
            assert out.shape == (rows, a.prompt + tokens), out.shape
            return time.perf_counter() - start

        def median(tokens):
            text(tokens)
            return statistics.median(text(tokens) for _ in range(a.repeat))

        first, whole = median(1), median(a.new)
        step = (whole - first) / (a.new - 1)
        result = {"peer": f"transformers {transformers.__version__}, bitsandbytes {bnb.__version__}, torch {torch.__version__}",
                  "cache": a.cache, "shape": a.shape, "base": a.base, "r": a.r, "backend": a.device, "batch": rows, "prompt": a.prompt, "new": a.new,
                  "step_ms": 1e3 * step, "steps_per_s": 1 / step, "tokens_per_s": rows / step, "first_token_ms": 1e3 * first}
        if a.device.startswith("cuda"):
            result["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
