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


fixture = {
    "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    "cases": [
        {"name": n, "learning_rate": lr, "warmup_steps": w, "steps": s, "kwargs": kw, "rates": rates(n, lr, w, s, kw)}
        for n, lr, w, s, kw in CASES
    ],
}
path = pathlib.Path(__file__).with_name("schedules.json")
path.write_text(json.dumps(fixture, indent=1) + "\n")
