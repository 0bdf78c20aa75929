#!/usr/bin/env python3
"""Quantizes a model with transformers and bitsandbytes, on the CPU, and saves the folder as they write it.

    python scripts/quantize_with_bitsandbytes.py MODEL OUT [--type nf4 | fp4 | int8] [--no-double-quant]
    go run ./scripts/save -model OUT -out AGAIN          # read here and written again
    python scripts/check_saved.py AGAIN OUT              # the same tensors and the same greedy text

MODEL has config.json, safetensors and tokenizer.json; the last is copied.
"""

import argparse
import shutil

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--type", choices=["nf4", "fp4", "int8"], default="nf4")
    parser.add_argument("--no-double-quant", dest="double", action="store_false")
    args = parser.parse_args()
    if args.type == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=args.type, bnb_4bit_use_double_quant=args.double)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16, quantization_config=config)
    model.save_pretrained(args.out)
    shutil.copy(f"{args.model}/tokenizer.json", args.out)


if __name__ == "__main__":
    main()
