#!/usr/bin/env python3
"""Writes versions/VERSION.json, the adapter_config.json of one LoraConfig as older versions of PEFT write it.

    pip download --no-deps peft==VERSION && unzip it into FOLDER/VERSION, for each VERSION; then
    python make_version_configs.py FOLDER

Only the modules that define the config are run, in the Python that has the current PEFT; old versions as a whole need old
versions of everything else.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import types

VERSIONS = ["0.6.0", "0.9.0", "0.13.2", "0.17.1"]
SETTINGS = dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], lora_dropout=0.1, task_type="CAUSAL_LM",
                base_model_name_or_path="loris-ml/tiny-llama", layers_to_transform=[0, 2], layers_pattern="layers")


def package(name, path):
    module = types.ModuleType(name)
    module.__path__ = [path]
    sys.modules[name] = module
    return module


def write(root, version):
    package("peft", root).__version__ = version
    package("peft.tuners", root + "/tuners")
    package("peft.tuners.lora", root + "/tuners/lora")
    utils = package("peft.utils", root + "/utils")
    kinds = importlib.import_module("peft.utils.peft_types")
    utils.PeftType, utils.TaskType, utils.CONFIG_NAME = kinds.PeftType, kinds.TaskType, "adapter_config.json"
    config = importlib.import_module("peft.tuners.lora.config").LoraConfig(**SETTINGS)
    config.inference_mode = True
    with tempfile.TemporaryDirectory() as tmp:
        config.save_pretrained(tmp)
        with open(tmp + "/adapter_config.json") as f:
            saved = json.load(f)
    saved["target_modules"].sort()  # a set
    os.makedirs("versions", exist_ok=True)
    with open(f"versions/{version}.json", "w") as f:
        f.write(json.dumps(saved, indent=2, sort_keys=True))


if len(sys.argv) == 3:
    write(os.path.join(sys.argv[1], sys.argv[2], "peft"), sys.argv[2])
else:
    for v in VERSIONS:  # one process each: a module is imported once
        subprocess.run([sys.executable, __file__, sys.argv[1], v], check=True)
