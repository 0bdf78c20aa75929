"""Writes curves.json: the logs of TRL's SFTTrainer training the LoRA adapter of the reference model llama_a
(internal/reference/testdata), in float32 on the CPU. Run: python curves.py (after preparation.py, whose tokenizer it
needs for its padding id only)"""

import json
import pathlib
import tempfile

import datasets
import peft
import torch
import transformers
import trl
from trl import SFTConfig, SFTTrainer

HERE = pathlib.Path(__file__).parent
LLAMA = HERE.parents[1] / "internal" / "reference" / "testdata" / "llama_a"


def row(i):
    """A sequence that can be learned, of odd length, its first tokens masked in every other row."""
    length = 5 + (i * 7) % 36
    ids = [(11 * i + 1) % 150]
    while len(ids) < length:
        ids.append((3 * ids[-1] + i % 4 + 2) % 150)
    masked = i % 2 * (2 + i % 3)
    return {"input_ids": ids, "labels": [-100] * masked + ids[masked:]}


ROWS = [row(i) for i in range(27)]
EVAL_ROWS = [row(i) for i in range(30, 37)]
BASE = {
    "train_sampling_strategy": "sequential",
    "per_device_train_batch_size": 3,
    "per_device_eval_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 5e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 4,
    "weight_decay": 0.01,
    "max_steps": 50,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 20,
    "save_strategy": "no",
    "max_length": 33,
}
CASES = [
    ("padded", {}),
    ("packed", {"packing": True, "max_length": 48, "per_device_train_batch_size": 2, "max_grad_norm": 0.5, "lr_scheduler_type": "linear"}),
    ("split", {"packing": True, "packing_strategy": "bfd_split", "max_length": 24, "gradient_accumulation_steps": 1, "eval_packing": False}),
]


def train(options):
    tok = transformers.AutoTokenizer.from_pretrained(HERE / "tokenizer")
    base = transformers.AutoModelForCausalLM.from_pretrained(LLAMA, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, LLAMA / "adapter", is_trainable=True)
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(output_dir=folder, use_cpu=True, bf16=False, report_to="none", **BASE | options)
        trainer = SFTTrainer(
            model,
            args,
            train_dataset=datasets.Dataset.from_list(ROWS),
            eval_dataset=datasets.Dataset.from_list(EVAL_ROWS),
            processing_class=tok,
        )
        trainer.train()
    timed = ("_runtime", "_per_second", "total_flos")
    return [{k: v for k, v in line.items() if not k.endswith(timed)} for line in trainer.state.log_history]


cases = [{"name": n, "options": BASE | o, "log_history": train(o)} for n, o in CASES]
versions = {m.__name__: m.__version__ for m in (trl, transformers, peft, torch)}
fixture = {"versions": versions, "rows": ROWS, "eval_rows": EVAL_ROWS, "cases": cases}
(HERE / "curves.json").write_text(json.dumps(fixture, separators=(",", ":")) + "\n")
