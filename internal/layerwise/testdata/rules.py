"""Writes rules.json: what the optimizers of torch, transformers and PEFT make of generated parameters and gradients.

    python rules.py        # in an environment with the versions that the file records

Parameters and gradients are made as in optimizers.py. The first parameter stands for two tensors of a checkpoint that a
model keeps joined, of the given rows: each is a parameter of its own here. Values are base64 of little-endian float32.
"muon_float32" is torch.optim.Muon with its iterations in float32 instead of bfloat16.
"""
import json
import os

import numpy as np
import peft
import peft.optimizers
import torch
import transformers
from optimizers import b64, generate, gradient
from torch.optim import _muon

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS = 30
SHAPES = [(29, 17), (5, 33), (37,)]
ROWS = [[18, 11], [5], [37]]
LR, BETAS, EPS, WEIGHT_DECAY = 1e-2, (0.9, 0.99), 1e-8, 0.05


def run(make):
    """The joined parameters after the first and the last step."""
    params = []
    for i, shape in enumerate(SHAPES):
        whole = torch.from_numpy(generate("normal", 1 + i, int(np.prod(shape)), 0.1)).reshape(shape)
        params.append([torch.nn.Parameter(part.clone()) for part in whole.split(ROWS[i])])
    optimizers = make(params)
    snapshots = []
    for step in range(1, STEPS + 1):
        for i, parts in enumerate(params):
            whole = torch.from_numpy(gradient(i, step, int(np.prod(SHAPES[i])))).reshape(SHAPES[i])
            for p, g in zip(parts, whole.split(ROWS[i])):
                p.grad = g.clone()
        for o in optimizers:
            o.step()
        if step in (1, STEPS):
            snapshots.append({"step": step, "values": [b64(torch.cat(parts).detach().numpy()) for parts in params]})
    return snapshots


def flat(params):
    return [p for parts in params for p in parts]


def muon(params, float32=False, **kwargs):
    """Matrices by Muon, the vector by AdamW."""
    opts = [
        torch.optim.Muon(params[0] + params[1], lr=LR, weight_decay=WEIGHT_DECAY, **kwargs),
        torch.optim.AdamW(params[2], lr=LR, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY),
    ]
    return opts


def newton_schulz(grad, coefficients, steps, eps):
    a, b, c = coefficients
    x = grad.T if grad.size(0) > grad.size(1) else grad
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if grad.size(0) > grad.size(1) else x


def loraplus():
    """LoRAs of an embedding, A [7, 11] and B [33, 7], and of a linear, A [7, 33] and B [21, 7], by
    peft.optimizers.create_loraplus_optimizer."""
    model = peft.get_peft_model(
        torch.nn.Sequential(torch.nn.Embedding(11, 33), torch.nn.Linear(33, 21, bias=False)),
        peft.LoraConfig(r=7, target_modules=["0", "1"]),
    )
    params = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for i, p in enumerate(params.values()):
        p.data = torch.from_numpy(generate("normal", 1 + i, p.numel(), 0.1)).reshape(p.shape)
    o = peft.optimizers.create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=LR, loraplus_lr_ratio=16, loraplus_lr_embedding=LR / 8, loraplus_weight_decay=WEIGHT_DECAY,
        betas=BETAS, eps=EPS,
    )
    for step in range(1, STEPS + 1):
        for i, p in enumerate(params.values()):
            p.grad = torch.from_numpy(gradient(i, step, p.numel())).reshape(p.shape)
        o.step()
    return [{"name": n, "shape": list(p.shape), "value": b64(p.detach().numpy())} for n, p in params.items()]


decay = {"lr": LR, "weight_decay": WEIGHT_DECAY}
runs = {
    "sgd": run(lambda p: [torch.optim.SGD(flat(p), **decay)]),
    "sgd momentum=0.9": run(lambda p: [torch.optim.SGD(flat(p), momentum=0.9, **decay)]),
    "sgd momentum=0.9,dampening=0.5": run(lambda p: [torch.optim.SGD(flat(p), momentum=0.9, dampening=0.5, **decay)]),
    "sgd momentum=0.9,nesterov=true": run(lambda p: [torch.optim.SGD(flat(p), momentum=0.9, nesterov=True, **decay)]),
    "adamw_torch": run(lambda p: [torch.optim.AdamW(flat(p), betas=BETAS, eps=EPS, **decay)]),
    "adafactor": run(
        lambda p: [transformers.Adafactor(flat(p), scale_parameter=False, relative_step=False, **decay)]
    ),
    "muon adjust_lr_fn=original": run(lambda p: muon(p)),
    "muon": run(lambda p: muon(p, adjust_lr_fn="match_rms_adamw")),
}
_muon._zeropower_via_newtonschulz = newton_schulz
runs["muon_float32 adjust_lr_fn=original"] = run(lambda p: muon(p))
runs["muon_float32"] = run(lambda p: muon(p, adjust_lr_fn="match_rms_adamw"))
runs["muon_float32 momentum=0.8,nesterov=false,ns_steps=3"] = run(
    lambda p: muon(p, adjust_lr_fn="match_rms_adamw", momentum=0.8, nesterov=False, ns_steps=3)
)
for r in runs.values():  # the first step of vectors and the small matrix tells nothing new
    r[0]["values"] = r[0]["values"][1:2]
fixture = {
    "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft, np)},
    "steps": STEPS, "shapes": SHAPES, "rows": ROWS, "lr": LR, "betas": BETAS, "eps": EPS, "weight_decay": WEIGHT_DECAY,
    "runs": runs, "loraplus": loraplus(),
}
with open(os.path.join(HERE, "rules.json"), "w") as f:
    json.dump(fixture, f, separators=(",", ":"))
    f.write("\n")
