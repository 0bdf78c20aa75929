"""Makes a folder of a model with random weights in bfloat16, in shards of 2 GB: what bench/step -model loads.

    python bench/peers/make_model.py --shape llama-3-8b --draw codes --device cuda FOLDER

A GPU at its power limit computes products of kinder numbers faster, so steps are to be compared on the same draw:
    normal  linears from N(0, 0.02²), as models are initialized
    codes   linears whose NF4 codes (block of 64) are equally likely, with log-normal scales; gains 1 + 0.1·N(0, 1), embedding N(0, 1)
Needs torch and transformers.
"""
import argparse
import math

import torch
from shapes import SHAPES
from transformers import LlamaConfig, LlamaForCausalLM

NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


def codes(p):
    """What NF4 makes of random codes and scales; a block without a 1 is one of 5,000."""
    out, width = p.shape
    scale = torch.exp(0.25 * torch.randn(out, width // 64, 1, device=p.device)) * (1.6 / math.sqrt(width))
    p.copy_((torch.tensor(NF4, device=p.device)[torch.randint(16, (out, width // 64, 64), device=p.device)] * scale).reshape(out, width))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--shape", default="llama-3-8b", choices=SHAPES)
    p.add_argument("--draw", default="normal", choices=["normal", "codes"])
    p.add_argument("--device", default="cuda")
    p.add_argument("folder")
    a = p.parse_args()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(a.device):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES[a.shape]))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if a.draw == "codes" and ".layers." in name:
                if p.dim() == 2:
                    codes(p)
                else:
                    p.add_(0.1 * torch.randn_like(p))
            elif p.dim() == 2:
                p.normal_(0, 1 if a.draw == "codes" and "embed" in name else 0.02)
    model.save_pretrained(a.folder, max_shard_size="2GB")


if __name__ == "__main__":
    main()
