#!/usr/bin/env python3
"""Loads the adapters that a test wrote into PEFT: DIR/CASE for each case of tuners. Its logits must be the fixture's.

    python check_tuners.py DIR
"""

import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "scripts", "reference"))

import torch
from peft import PeftModel
from safetensors.torch import load_file

import make_tuner_fixtures as fixtures

worst = 0.0
for name in sorted(os.listdir(sys.argv[1])):
    case = fixtures.CASES[name]
    with open(os.path.join(HERE, "tuners", name, "case.json")) as f:
        ids = torch.tensor(json.load(f)["ids"])
    want = load_file(os.path.join(HERE, "tuners", name, "reference.safetensors"))["logits"]
    model = PeftModel.from_pretrained(fixtures.load_base(case), os.path.join(sys.argv[1], name)).eval()
    with torch.no_grad():
        error = float((model(input_ids=ids).logits - want).norm() / want.norm())
    print(f"{name}: {error:.2e}")
    worst = max(worst, error)
sys.exit(not worst <= 1e-4)
