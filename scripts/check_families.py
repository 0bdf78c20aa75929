#!/usr/bin/env python3
"""Loads folders that this library saved, one of each case of models/testdata/families, into transformers, and compares the
logits in float32 with those of the case.

    for c in models/testdata/families/*/; do go run ./scripts/save -model $c -dtype bfloat16 -out out/$(basename $c); done
    python scripts/check_families.py out

Any transformers from 4.51 on will do. Exit code 1 when a tensor is missing or unknown, or logits differ.
"""

import json
import os
import sys

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

CASES = os.path.join(os.path.dirname(__file__), "..", "models", "testdata", "families")


def check(case, folder):
    reference = json.load(open(os.path.join(CASES, case, "reference.json")))
    want = load_file(os.path.join(CASES, case, "reference.safetensors"))
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            return f"{kind}: {info[kind]}"
    with torch.no_grad():  # the adapter, as PEFT would add it
        for name, a in want.items():
            if name.endswith(".lora_A.weight") and "grad." not in name:
                module = name.removesuffix(".lora_A.weight")
                b = want[module + ".lora_B.weight"]
                model.get_parameter(module + ".weight").add_(reference["scaling"] * b @ a)
    batch, rows = reference["padded"], reference["padded"]["rows"]
    ids, mask = (torch.tensor(batch[k]).view(rows, -1) for k in ("ids", "segments"))
    with torch.no_grad():
        logits = model.eval()(input_ids=ids, attention_mask=mask).logits[mask == 1]
    error = (torch.linalg.norm(logits - want["logits"]) / torch.linalg.norm(want["logits"])).item()
    return None if error < 1e-5 else f"logits differ by {error:.2g}"


def main():
    print("transformers", transformers.__version__)
    failed = 0
    for case in sorted(os.listdir(CASES)):
        if not os.path.isdir(os.path.join(CASES, case)):
            continue
        wrong = check(case, os.path.join(sys.argv[1], case))
        failed += wrong is not None
        print(f"{case}: {wrong or 'equal'}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
