"""Writes schedules.json: learning rates of transformers.get_scheduler, step by step. Run: python schedules.py"""

import json
import pathlib

import torch
import transformers

CASES = [  # name, learning rate, warmup_steps as in TrainingArguments, steps, keyword arguments
    ("linear", 2e-5, 0, 7, {}),
    ("linear", 2e-4, 3, 10, {}),
    ("linear", 1e-3, 0.25, 11, {}),
    ("linear", 1e-3, 10, 10, {}),
    ("cosine", 2e-4, 0, 9, {}),
    ("cosine", 2e-4, 2, 9, {"num_cycles": 1.25}),
    ("cosine_with_restarts", 2e-4, 2, 12, {}),
    ("cosine_with_restarts", 2e-4, 1, 12, {"num_cycles": 3}),
    ("cosine_with_min_lr", 2e-4, 2, 9, {"min_lr": 1e-5}),
    ("cosine_with_min_lr", 2e-4, 0.5, 9, {"min_lr_rate": 0.1, "num_cycles": 0.75}),
    ("polynomial", 2e-4, 2, 9, {}),
    ("polynomial", 2e-4, 0, 9, {"power": 2.5, "lr_end": 1e-6}),
    ("constant", 2e-4, 5, 4, {}),
    ("constant_with_warmup", 2e-4, 3, 6, {}),
    ("inverse_sqrt", 2e-4, 0, 6, {}),
    ("inverse_sqrt", 2e-4, 3, 8, {}),
    ("inverse_sqrt", 2e-4, 2, 8, {"timescale": 5}),
    ("cosine_warmup_with_min_lr", 2e-4, 3, 9, {"min_lr": 1e-5}),
    ("cosine_warmup_with_min_lr", 2e-4, 0.4, 11, {"min_lr_rate": 0.1, "num_cycles": 0.75, "warmup_lr_rate": 0.2}),
    ("cosine_warmup_with_min_lr", 2e-4, 0, 5, {"min_lr_rate": 0}),
    ("warmup_stable_decay", 2e-4, 2, 12, {"num_decay_steps": 4}),
    ("warmup_stable_decay", 2e-4, 3, 12, {"num_decay_steps": 5, "decay_type": "linear", "warmup_type": "cosine", "min_lr_ratio": 0.1}),
    ("warmup_stable_decay", 2e-4, 3, 12, {"num_decay_steps": 4, "decay_type": "1-sqrt", "warmup_type": "1-sqrt", "num_stable_steps": 2}),
    ("warmup_stable_decay", 2e-4, 0, 9, {"num_decay_steps": 6, "num_cycles": 0.75, "min_lr_ratio": 0.2}),
]
PLATEAU = [  # keyword arguments, and the metrics of evaluations
    ({"patience": 1}, [3, 2, 2, 2, 2, 1.99999, 1.9, 1.9, 1.9, 1.9]),
    ({"mode": "max", "factor": 0.5, "patience": 0, "cooldown": 2, "min_lr": 3e-5}, [0.1, 0.1, 0.1, 0.1, 0.1, 0.3, 0.2, 0.1, 0.1, 0.1]),
    ({"patience": 0, "threshold": 0.5, "threshold_mode": "abs", "factor": 0.3, "eps": 1e-5}, [3, 2.6, 2.4, 2, 1.9, 1.4, 1.4, 1.4, 1.4]),
    ({"mode": "max", "patience": 0, "threshold": 0.05, "threshold_mode": "abs"}, [0.1, 0.14, 0.16, 0.22]),
]


GREEDY = [  # likewise, and the learning rate
    ({}, 2e-3, [1 / i for i in range(1, 30)] + [1] * 30),
    ({"patience": 1, "factor": 0.5, "min_lr": 3e-4, "max_lr": 5e-3, "reset_start": 2}, 2e-3, [3, 2, 1, 0.9, 0.8] + [1] * 16 + [0.5, 0.4, 0.3]),
    ({"mode": "max", "patience": 0, "cooldown": 1, "warmup": 2, "threshold_mode": "rel", "threshold": 0.1}, 2e-3, [1, 2, 3, 4, 4.1, 4.2, 5, 3, 3, 3, 3]),
    ({"smooth": True, "window_size": 3, "patience": 0, "min_lr": 1e-5}, 2e-4, [3, 2.5, 2.7, 2.2, 2.9, 3.1, 1, 1.2, 0.7, 4, 4, 4]),
]


def rates(name, lr, warmup, steps, kwargs):
    args = transformers.TrainingArguments(output_dir="unused", warmup_steps=warmup, use_cpu=True)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = transformers.get_scheduler(
        name,
        optimizer,
        num_warmup_steps=args.get_warmup_steps(steps),
        num_training_steps=steps,
        scheduler_specific_kwargs=kwargs,
    )
    out = []
    for _ in range(steps):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return out


def followed(name, kwargs, lr, metrics):
    """The rate after each evaluation."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = transformers.get_scheduler(name, optimizer, scheduler_specific_kwargs=kwargs)
    out = []
    for m in metrics:
        scheduler.step(m)
        out.append(optimizer.param_groups[0]["lr"])
    return out


fixture = {
    "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    "cases": [
        {"name": n, "learning_rate": lr, "warmup_steps": w, "steps": s, "kwargs": kw, "rates": rates(n, lr, w, s, kw)}
        for n, lr, w, s, kw in CASES
    ],
    "followed": [
        {"name": n, "kwargs": kw, "learning_rate": lr, "metrics": m, "rates": followed(n, kw, lr, m)}
        for n, kw, lr, m in [("reduce_lr_on_plateau", kw, 2e-4, m) for kw, m in PLATEAU] + [("greedy", *c) for c in GREEDY]
    ],
}
path = pathlib.Path(__file__).with_name("schedules.json")
path.write_text(json.dumps(fixture, indent=1) + "\n")
