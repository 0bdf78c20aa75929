#!/usr/bin/env python3
"""Loads a folder that this library saved into transformers and compares it with what Python makes of the same base.

    python scripts/check_saved.py SAVED BASE [--adapter ADAPTER] [--4bit | --8bit] [--prompt TEXT]... [--tolerance 1e-4]

SAVED       config.json and safetensors, as scripts/save writes them
BASE        what SAVED was made from: a folder with config.json, safetensors and tokenizer.json
--adapter   PEFT merges this adapter into BASE first (in float32); with --4bit, into the decoded weights of the 4-bit BASE
--4bit      SAVED is to be what bitsandbytes makes of BASE: NF4, double quantization; or, with --adapter, its merged copy
--8bit      the same with LLM.int8()

Compared are all tensors of the two models' states, bit for bit unless an adapter was merged; the logits of the prompts in
float32 (without --8bit, whose products bitsandbytes rounds); and the text of a greedy continuation of 48 tokens. Exit code 1
when something differs.
"""

import argparse
import logging
import sys

import bitsandbytes
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedTokenizerFast

PROMPTS = ["Debian is", "The capital of France is a city where", "def fibonacci(n):\n", "1, 2, 3, 5, 8,"]


def load(path, dtype, config=None):
    more = dict(quantization_config=config) if config else {}
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager", **more).eval()


def dequantized(model, path):
    """A float32 copy of BASE with the values that the 4-bit linears stand for."""
    plain = load(path, torch.float32)
    for name, module in plain.named_modules():
        weight = getattr(model.get_submodule(name), "weight", None)
        if hasattr(weight, "quant_state"):
            module.weight.data.copy_(bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state).float())
    return plain


def expected(args, dtype):
    config = None
    if args.bits4:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    if args.bits8:
        config = BitsAndBytesConfig(load_in_8bit=True)
    if not args.adapter:
        return load(args.base, dtype, config)
    base = dequantized(load(args.base, dtype, config), args.base) if config else load(args.base, torch.float32)
    return PeftModel.from_pretrained(base, args.adapter).merge_and_unload().eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saved")
    parser.add_argument("base")
    parser.add_argument("--adapter")
    parser.add_argument("--4bit", dest="bits4", action="store_true")
    parser.add_argument("--8bit", dest="bits8", action="store_true")
    parser.add_argument("--prompt", action="append")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # int8 products warn of every cast

    saved = AutoModelForCausalLM.from_pretrained(args.saved, dtype="auto", attn_implementation="eager").eval()
    want = expected(args, saved.dtype)
    problems, worst = [], 0.0
    a, b = saved.state_dict(), want.state_dict()
    problems += [f"{n} is only in one of the models" for n in sorted(a.keys() ^ b.keys())]
    for n in sorted(a.keys() & b.keys()):
        if args.adapter:
            worst = max(worst, float((a[n].double() - b[n].double()).norm() / b[n].double().norm().clamp_min(1e-30)))
        elif a[n].dtype != b[n].dtype or not torch.equal(a[n], b[n]):
            problems.append(f"{n} differs")
    print(f"{len(a)} tensors, " + (f"largest relative difference {worst:.2e}" if args.adapter else f"{len(problems)} differ"))

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{args.base}/tokenizer.json")
    same = 0
    prompts = args.prompt or PROMPTS
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            x, y = (m(ids).logits.double() for m in (saved, want))
            error = float((x - y).norm() / y.norm())
            texts = [tokenizer.decode(m.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=48, do_sample=False,
                                                 pad_token_id=0)[0]) for m in (saved, want)]
        same += texts[0] == texts[1]
        print(f"{prompt!r}: logits differ by {error:.2e}, greedy text {'equal' if texts[0] == texts[1] else 'DIFFERS'}")
        if texts[0] != texts[1]:
            problems.append(f"continued with {texts[0]!r}, want {texts[1]!r}")
        if not args.bits8 and not error <= args.tolerance:
            problems.append(f"logits of {prompt!r} differ by {error:.3e}, above {args.tolerance:g}")
    print(f"{same} of {len(prompts)} continuations are equal")
    for problem in problems:
        print(f"MISMATCH: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
