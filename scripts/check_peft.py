#!/usr/bin/env python3
"""Loads an adapter that this library wrote into PEFT and compares logits; exit code 1 when they differ.

    python scripts/check_peft.py ADAPTER_DIR MODEL IDS_JSON LOGITS_SAFETENSORS [--tolerance 1e-4] [--nf4]

ADAPTER_DIR          adapter_config.json and adapter_model.safetensors
MODEL                the base: a folder with config.json and safetensors, or a .gguf file
IDS_JSON             [[id, ...], ...], or {"input_ids": [[...]], "attention_mask": [[...]]}; shorter rows are padded right
LOGITS_SAFETENSORS   this library's logits of base and adapter, tensor "logits" [batch, seq, vocab]

PEFT runs in float32 on the CPU. Compared is ||ours - peft|| / ||peft|| over the positions that the mask keeps. Every
tensor of the adapter file must also have found its place in PEFT's model, unchanged, and leave none unset.
"""

import argparse
import json
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # PEFT would look a local base's name up on the hub

import torch
import transformers
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "reference"))
from nf4 import through_nf4
from smollm2 import GGUF


def load_base(path):
    if path.endswith(".gguf"):
        return GGUF(os.path.abspath(path)).model()
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def read_ids(path):
    with open(path) as f:
        doc = json.load(f)
    rows = doc["input_ids"] if isinstance(doc, dict) else doc
    masks = (doc.get("attention_mask") if isinstance(doc, dict) else None) or [[1] * len(r) for r in rows]
    longest = max(map(len, rows))
    pad = lambda values: torch.tensor([v + [0] * (longest - len(v)) for v in values])
    return pad(rows), pad(masks)


def adapter_mismatches(model, folder):
    """What the adapter file and PEFT's loaded state do not agree on."""
    stored, loaded = load_file(os.path.join(folder, "adapter_model.safetensors")), get_peft_model_state_dict(model)
    problems = [f"PEFT has no place for {n}" for n in sorted(stored.keys() - loaded.keys())]
    problems += [f"PEFT expects {n}, the file lacks it" for n in sorted(loaded.keys() - stored.keys())]
    problems += [f"{n} changed while loading" for n in sorted(stored.keys() & loaded.keys())
                 if stored[n].shape != loaded[n].shape or not torch.equal(stored[n].float(), loaded[n].float())]
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("adapter", "model", "ids", "logits"):
        parser.add_argument(name)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--nf4", action="store_true", help="send the base's linears through bitsandbytes NF4 first")
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()

    base = load_base(args.model)
    if args.nf4:
        through_nf4(base)
    model = PeftModel.from_pretrained(base, args.adapter).eval()
    problems = adapter_mismatches(model, args.adapter)

    ids, mask = read_ids(args.ids)
    ours = load_file(args.logits)["logits"].double()
    with torch.no_grad():
        theirs = model(input_ids=ids, attention_mask=mask).logits.double()
        with model.disable_adapter():
            plain = model(input_ids=ids, attention_mask=mask).logits.double()
    if ours.shape != theirs.shape:
        sys.exit(f"logits are {list(ours.shape)} in {args.logits}, {list(theirs.shape)} in PEFT")
    keep = mask.bool()
    ours, theirs, plain = ours[keep], theirs[keep], plain[keep]
    error = float((ours - theirs).norm() / theirs.norm())
    print(f"relative error {error:.3e} (tolerance {args.tolerance:g}), largest {float((ours - theirs).abs().max()):.3e}, "
          f"same argmax {float((ours.argmax(-1) == theirs.argmax(-1)).double().mean()):.4f} of {int(keep.sum())} positions, "
          f"adapter moves the logits by {float((plain - theirs).norm() / theirs.norm()):.3e}")
    if not error <= args.tolerance:
        problems.append(f"relative error {error:.3e} is above {args.tolerance:g}")
    for problem in problems:
        print(f"MISMATCH: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
