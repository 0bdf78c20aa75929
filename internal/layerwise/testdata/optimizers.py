"""Writes optimizers.json: what bitsandbytes' optimizers make of generated parameters and gradients in 100 steps on a CPU.

    python optimizers.py        # in an environment with the versions that the file records

"cuda" is what its CUDA kernels make of the first parameter, computed here in float32 from their source
(csrc/kernels.cu: quantize_2D, kOptimizerStatic8bit2StateBlockwise, kOptimizerStatic8bit1StateBlockwise).

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


def quantize_2d(code, x, signed):
    """Codes of x as quantize_2D finds them: a binary search from 127, then the nearer neighbour."""
    pivot, lower_pivot, upper_pivot = np.full(x.shape, 127), np.zeros(x.shape, int), np.full(x.shape, 255)
    lower, upper = np.full(x.shape, -1 if signed else 0, np.float32), np.ones(x.shape, np.float32)
    val, step = code[pivot], 64
    while step:
        right = x > val
        lower_pivot, lower = np.where(right, pivot, lower_pivot), np.where(right, val, lower)
        upper_pivot, upper = np.where(right, upper_pivot, pivot), np.where(right, upper, val)
        pivot = np.where(right, pivot + step, pivot - step)
        val, step = code[pivot], step // 2
    half = np.float32(0.5)
    above = np.where(x > (upper + val) * half, upper_pivot, pivot)
    below = np.where(x < (lower + val) * half, lower_pivot, pivot)
    return np.where(x > val, above, below)


def requantize(code, s, signed):
    blocks = np.zeros((-(-s.size // 256), 256), np.float32)
    blocks.reshape(-1)[: s.size] = s
    absmax = np.abs(blocks).max(1)
    q = quantize_2d(code, blocks / absmax[:, None], signed).reshape(-1)[: s.size]
    if signed:  # the sign is kept
        flipped = np.signbit(code[q]) != np.signbit(s)
        q = np.where(flipped, np.where(s > 0, q + 1, q - 1), q)
    return q.astype(np.uint8), absmax


def cuda(lion):
    """100 steps of the kernels on the first parameter."""
    f = np.float32
    lr, b1, b2, eps, wd = f(LR), f(BETAS[0]), f(BETAS[1]), f(EPS), f(WEIGHT_DECAY)
    n = SHAPES[0][0] * SHAPES[0][1]
    p = generate("normal", 1, n, 0.1)
    code1, code2 = (bitsandbytes.functional.create_dynamic_map(signed).numpy() for signed in (True, False))
    c1, c2 = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
    a1, a2 = np.zeros(-(-n // 256), f), np.zeros(-(-n // 256), f)
    block = np.arange(n) // 256
    for step in range(1, STEPS + 1):
        g = gradient(0, step, n)
        m = code1[c1] * a1[block]
        if lion:
            p = p * (f(1) - lr * wd)
            p = p - lr * np.sign(m * b1 + (f(1) - b1) * g)
            m = m * b2 + (f(1) - b2) * g
        else:
            correction1, correction2 = f(1) - b1 ** f(step), np.sqrt(f(1) - b2 ** f(step))
            v = code2[c2] * a2[block] * b2 + (f(1) - b2) * g * g
            m = m * b1 + (f(1) - b1) * g
            p = p + (-lr * correction2 / correction1) * (m / (np.sqrt(v) + correction2 * eps))
            p = p * (f(1) - lr * wd)
            c2, a2 = requantize(code2, v, False)
        c1, a1 = requantize(code1, m, True)
    out = {"value": b64(p.astype(f)), "m": b64(c1), "m.absmax": b64(a1)}
    return out if lion else {**out, "v": b64(c2), "v.absmax": b64(a2)}


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
    out["cuda"] = {"adamw_8bit": cuda(False), "lion_8bit": cuda(True)}
    for name in ("paged_adamw_32bit", "lion_32bit"):  # their first step tells nothing that the last does not
        out["runs"][name] = out["runs"][name][1:]
    with open(os.path.join(HERE, "optimizers.json"), "w") as f:
        json.dump(out, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
