"""Times torch's scaled_dot_product_attention, forward and backward: what BenchmarkAttend of package attention does. One causal row,
32 query heads over 8 key heads in bfloat16. Prints a line of JSON per length and head size.

    python bench/peers/sdpa.py [--lengths 2048,8192,32768] [--dims 64,128] [--backend flash|cudnn|any]

TFLOP/s count the scores that a causal mask leaves, and 2.5 times as much work for the backward as for the forward.
"""
import argparse
import contextlib
import json
import statistics

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

HEADS, KV_HEADS = 32, 8


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--lengths", default="2048,8192,32768")
    p.add_argument("--dims", default="64,128")
    p.add_argument("--backend", default="any", choices=["flash", "cudnn", "any"])
    p.add_argument("--times", type=int, default=20)
    a = p.parse_args()
    kernel = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}.get(a.backend)
    for length in map(int, a.lengths.split(",")):
        for dim in map(int, a.dims.split(",")):
            def tensor(heads):
                return torch.randn(1, heads, length, dim, device="cuda", dtype=torch.bfloat16, requires_grad=True)

            q, k, v = tensor(HEADS), tensor(KV_HEADS), tensor(KV_HEADS)
            d = torch.randn_like(q)
            times = []
            with sdpa_kernel(kernel) if kernel else contextlib.nullcontext():
                for i in range(a.times + 3):
                    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                    start.record()
                    out = sdpa(q, k, v, is_causal=True, enable_gqa=True)
                    torch.autograd.grad(out, (q, k, v), d)
                    end.record()
                    end.synchronize()
                    if i >= 3:
                        times.append(start.elapsed_time(end))
            ms = statistics.median(times)
            flop = 3.5 * 4 * HEADS * dim * length * (length + 1) / 2
            print(json.dumps(dict(peer=f"torch {torch.__version__} {a.backend}", length=length, dim=dim, ms=round(ms, 3),
                                  min_ms=round(min(times), 3), tflops=round(flop / ms / 1e9, 1))), flush=True)


if __name__ == "__main__":
    main()
