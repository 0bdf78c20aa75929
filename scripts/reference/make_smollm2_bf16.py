#!/usr/bin/env python3
"""Writes internal/reference/testdata/smollm2/bf16.json: a hundred LoRA steps of SmolLM2-135M-Instruct by torch and peft on the CPU, in float32 and in
bfloat16: how far bfloat16 strays on its own.

    scripts/fetch-smollm2.sh
    python scripts/reference/make_smollm2_bf16.py [--gguf FILE] [--out FILE] [--threads N]

The rows are those of reference.json, one a step, over and over, cut to 128 tokens; the initial A's and settings are its too. In bfloat16 the
base is rounded to it and the adapters are float32, as peft makes them. Takes ten minutes on two cores.
"""

import argparse
import json
import os

import torch
import transformers

from make_smollm2_reference import ROOT, adapt, nll, versions, write
from smollm2 import GGUF

STEPS, LENGTH, MAX_GRAD_NORM = 100, 128, 1.0


def curve(model, rows, lr):
    tuned, pairs = adapt(model)
    params = [p for _, a, b in pairs for p in (a, b)]
    assert all(p.dtype == torch.float32 for p in params)
    optimizer = torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, foreach=False)
    doc = dict(loss=[], grad_norm=[])
    for step in range(STEPS):
        ids = torch.tensor([rows[step % len(rows)][:LENGTH]])
        optimizer.zero_grad()
        total, count = nll(tuned, (ids, torch.ones_like(ids), ids))
        loss = total.float() / count
        loss.backward()
        doc["grad_norm"].append(float(torch.nn.utils.clip_grad_norm_(params, MAX_GRAD_NORM, foreach=False)))
        doc["loss"].append(float(loss.detach()))
        optimizer.step()
    return doc


def main():
    folder = os.path.join(ROOT, "internal", "reference", "testdata", "smollm2")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", default=os.path.join(ROOT, ".cache", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--out", default=os.path.join(folder, "bf16.json"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    with open(os.path.join(folder, "reference.json")) as f:
        lora = json.load(f)["lora"]
    rows = lora["rows"][lora["train_rows"][0] : lora["train_rows"][1]]
    source = GGUF(os.path.abspath(args.gguf))
    doc = dict(versions=versions(), length=LENGTH, fp32=curve(source.model(), rows, lora["lr"]),
               bf16=curve(source.model().to(torch.bfloat16), rows, lora["lr"]))
    write(args.out, doc)


if __name__ == "__main__":
    main()
