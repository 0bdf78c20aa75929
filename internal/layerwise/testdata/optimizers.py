"""Writes optimizers.json: what bitsandbytes' optimizers make of generated parameters and gradients in 100 steps on a CPU.

    python optimizers.py        # in an environment with the versions that the file records

Parameters and gradients are not stored: generate() of quant/testdata/make_fixtures.py makes them, and the Go test repeats
it (internal/reference.Normal). Values are base64 of little-endian bytes.
"""
import json
import os
import sys

import bitsandbytes
import numpy as np
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "..", "quant", "testdata"))
from make_fixtures import b64, generate  # noqa: E402

STEPS = 100
SHAPES = [(67, 65), (5, 33)]  # 8-bit with a last block of 3, and below 4096 values: float32 moments
LR, BETAS, EPS, WEIGHT_DECAY = 1e-3, (0.9, 0.99), 1e-8, 0.05


def gradient(param, step, n):
    """float32: the same direction in every step and noise, over magnitudes from 1 to 1/512 within a block."""
    steady = generate("normal", 10 + param, n, 0.01)
    noise = generate("normal", 1000 * (param + 1) + step, n, 0.02)
    size = np.array([1, 0.125, 0.015625, 0.001953125], np.float32)[np.arange(n) % 4]
    return (steady + noise) * size


def run(make):
    params = [torch.nn.Parameter(torch.from_numpy(generate("normal", 1 + i, a * b, 0.1)).reshape(a, b)) for i, (a, b) in enumerate(SHAPES)]
    optimizer = make(params)
    snapshots = []
    for step in range(1, STEPS + 1):
        for i, p in enumerate(params):
            p.grad = torch.from_numpy(gradient(i, step, p.numel())).reshape(p.shape)
        optimizer.step()
        if step in (1, STEPS):
            snapshots.append({"step": step, "params": [state(optimizer, p) for p in params]})
    return snapshots


def state(optimizer, p):
    s = optimizer.state[p]
    out = {"value": b64(p.detach().numpy())}
    for name, key in (("m", "state1"), ("m.absmax", "absmax1"), ("v", "state2"), ("v.absmax", "absmax2")):
        if s.get(key) is not None and (s[key].dtype == torch.uint8 or p.numel() < 4096 or "absmax" in key):
            out[name] = b64(s[key].numpy())
    return out


def main():
    bnb = bitsandbytes.optim
    adam = dict(lr=LR, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY)
    lion = dict(lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY)
    out = {
        "versions": {"bitsandbytes": bitsandbytes.__version__, "torch": torch.__version__, "numpy": np.__version__,
                     "cpu": torch.backends.cpu.get_cpu_capability()},
        "steps": STEPS, "shapes": SHAPES, "lr": LR, "betas": BETAS, "eps": EPS, "weight_decay": WEIGHT_DECAY,
        "runs": {
            "adamw_8bit": run(lambda p: bnb.AdamW(p, optim_bits=8, **adam)),
            "paged_adamw_32bit": run(lambda p: bnb.AdamW(p, optim_bits=32, is_paged=True, **adam)),
            "lion_8bit": run(lambda p: bnb.Lion(p, optim_bits=8, **lion)),
            "lion_32bit": run(lambda p: bnb.Lion(p, optim_bits=32, **lion)),
        },
    }
    for name in ("paged_adamw_32bit", "lion_32bit"):  # their first step tells nothing that the last does not
        out["runs"][name] = out["runs"][name][1:]
    with open(os.path.join(HERE, "optimizers.json"), "w") as f:
        json.dump(out, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
