#!/usr/bin/env python3
"""Loads the adapters that a test wrote into PEFT: DIR/CASE for each case of virtual. Its logits must be the fixture's.

    python check_virtual.py DIR
"""

import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "scripts", "reference"))

import torch
from peft import PeftModel
from safetensors.torch import load_file

import make_virtual_fixtures as fixtures

worst = 0.0
for name in sorted(os.listdir(sys.argv[1])):
    with open(os.path.join(HERE, "virtual", name, "case.json")) as f:
        ids = torch.tensor(json.load(f)["ids"])
    want = load_file(os.path.join(HERE, "virtual", name, "reference.safetensors"))["logits"]
    model = PeftModel.from_pretrained(fixtures.base_of(fixtures.CASES[name]), os.path.join(sys.argv[1], name)).eval()
    with torch.no_grad():
        error = float((model(input_ids=ids).logits[:, -ids.shape[1]:] - want).norm() / want.norm())
    print(f"{name}: {error:.2e}")
    worst = max(worst, error)
sys.exit(not worst <= 1e-4)
