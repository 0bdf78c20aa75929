#!/usr/bin/env python3
"""Loads adapters that this package wrote into PEFT; exit code 1 when anything differs.

    python peft/testdata/check_loads.py FOLDER

Each folder in FOLDER is an adapter of the tiny Llama (tiny_llama.py), with adapter_config.json, adapter_model.safetensors,
README.md and loris.json: {module path: scaling}. Checked for each:

- adapter_config.json is byte for byte what json.dumps(indent=2, sort_keys=True) makes of it; where the order of patterns
  decides, they keep their own
- PEFT warns of nothing, adapts the same modules with the same scaling, and holds every tensor of the file unchanged
- what PEFT saves then has the same bytes in adapter_model.safetensors, the same values in adapter_config.json
- logits differ from those of the base, and equal those of base weights plus scaling * B @ A
- the metadata of README.md are those that PEFT writes

TestPEFTLoadsWrittenAdapters in peft/interop_test.go runs it.
"""

import json
import os
import sys
import tempfile
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from huggingface_hub import ModelCard
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tiny_llama import tiny_llama

IDS = torch.tensor([[1, 7, 13, 2, 30, 39, 5]])


def read(*path):
    with open(os.path.join(*path), "rb") as f:
        return f.read()


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits.double()


def sets(config):
    """The config with lists that are sets in order, without what PEFT adds."""
    return {k: sorted(v) if k in ("target_modules", "exclude_modules") and isinstance(v, list) else v for k, v in config.items()}


def problems(folder):
    text = read(folder, "adapter_config.json").decode()
    config = json.loads(text)
    expected = json.loads(read(folder, "loris.json"))
    if text != json.dumps(config, indent=2, sort_keys=True) and text != json.dumps(dict(sorted(config.items())), indent=2):
        yield "adapter_config.json is not formatted as json.dumps does"

    base = tiny_llama()
    plain = logits(base)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, folder).eval()
    yield from (f"PEFT warns: {w.message}" for w in caught if not issubclass(w.category, FutureWarning))

    stored, loaded = load_file(os.path.join(folder, "adapter_model.safetensors")), get_peft_model_state_dict(model)
    if stored.keys() != loaded.keys():
        yield f"keys differ: {sorted(stored.keys() ^ loaded.keys())}"
    yield from (f"{k} changed while loading" for k in stored.keys() & loaded.keys() if not torch.equal(stored[k], loaded[k]))
    scaling = {p: model.base_model.model.get_submodule(p).scaling["default"] for p in model.base_model.targeted_module_names}
    if scaling != expected:
        yield f"scaling is {scaling}, written as {expected}"

    with tempfile.TemporaryDirectory() as again:
        model.save_pretrained(again)
        if read(again, "adapter_model.safetensors") != read(folder, "adapter_model.safetensors"):
            yield "PEFT writes other bytes into adapter_model.safetensors"
        theirs = sets(json.loads(read(again, "adapter_config.json")))
        yield from (f"{k} is {v!r}, PEFT writes {theirs.get(k)!r}" for k, v in sets(config).items() if k not in theirs or theirs[k] != v)
        ours, card = ModelCard.load(os.path.join(folder, "README.md")).data.to_dict(), ModelCard.load(os.path.join(again, "README.md")).data.to_dict()
        if ours != card:
            yield f"README.md has {ours}, PEFT writes {card}"

    tuned = logits(model)
    merged = tiny_llama()
    with torch.no_grad():
        for path, s in expected.items():
            key = "base_model.model." + path
            merged.get_submodule(path).weight += s * stored[key + ".lora_B.weight"] @ stored[key + ".lora_A.weight"]
    error = float((tuned - logits(merged)).norm() / tuned.norm())
    if not error < 1e-5:
        yield f"logits differ from those of W + scaling*B*A by {error:.2e}"
    if torch.allclose(tuned, plain):
        yield "the adapter changes nothing"


def main():
    folders = sorted(e.path for e in os.scandir(sys.argv[1]) if e.is_dir())
    bad = [f"{os.path.basename(f)}: {p}" for f in folders for p in problems(f)]
    for line in bad:
        print("MISMATCH", line)
    print(f"{len(folders)} adapters, {len(bad)} mismatches")
    sys.exit(1 if bad or not folders else 0)


if __name__ == "__main__":
    main()
