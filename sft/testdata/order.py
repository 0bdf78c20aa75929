"""Writes order.json: the order in which TRL's SFTTrainer visits the rows of each epoch, and what shuffle_dataset makes of
them. Run: python order.py"""

import json
import pathlib
import tempfile

import accelerate
import datasets
import torch
import transformers
import trl
from trl import SFTConfig, SFTTrainer


def make(rows, options, folder):
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=2000, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    )
    args = SFTConfig(output_dir=folder, use_cpu=True, bf16=False, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, **options)
    tok = transformers.AutoTokenizer.from_pretrained(pathlib.Path(__file__).parent / "tokenizer")
    data = datasets.Dataset.from_dict({"input_ids": [[i + 1] * (1 + i % 3) for i in range(rows)]})
    return SFTTrainer(model, args, train_dataset=data, processing_class=tok)


def epochs(rows, options, folder):
    trainer = make(rows, {"num_train_epochs": 3, **options}, folder)
    seen, collate = [], trainer.data_collator

    def record(batch):
        seen.extend(row["input_ids"][0] - 1 for row in batch)
        return collate(batch)

    trainer.data_collator = record
    trainer.train()
    return [seen[i : i + rows] for i in range(0, len(seen), rows)]


with tempfile.TemporaryDirectory() as folder:
    orders = [
        {"rows": rows, "options": options, "epochs": epochs(rows, options, folder)}
        for rows, options in (
            (10, {"per_device_train_batch_size": 2}),
            (13, {"per_device_train_batch_size": 3, "seed": 7}),
            (9, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "seed": 1, "data_seed": 123}),
            (5, {"per_device_train_batch_size": 2, "train_sampling_strategy": "sequential"}),
            (10, {"per_device_train_batch_size": 2, "train_sampling_strategy": "group_by_length"}),
            (23, {"per_device_train_batch_size": 2, "train_sampling_strategy": "group_by_length", "seed": 7, "data_seed": 9}),
        )
    ]
    shuffles = []
    for rows, options in (
        (12, {"shuffle_dataset": True}),
        (40, {"shuffle_dataset": True, "seed": 5, "packing": True, "max_length": 6}),
        (40, {"shuffle_dataset": True, "seed": 5, "packing": True, "packing_strategy": "wrapped", "max_length": 6}),
    ):
        ids = make(rows, options, folder).train_dataset["input_ids"]
        shuffles.append({"rows": rows, "options": options, "input_ids": [list(row) for row in ids]})
versions = {m.__name__: m.__version__ for m in (trl, transformers, datasets, accelerate, torch)}
fixture = {"versions": versions, "orders": orders, "shuffles": shuffles}
pathlib.Path(__file__).with_name("order.json").write_text(json.dumps(fixture, separators=(",", ":")) + "\n")
