"""Writes smollm2.json: TRL's SFTTrainer tuning SmolLM2-135M-Instruct on question-answer files, in float32 on the CPU:
assistant turns only, packed, with an evaluation split; on each file, and on all of them taken in turns.
Run: python smollm2.py FAQ.json …

Of the prepared data, whose texts are not the project's, only digests are kept. The model and the adapter's first values
are those of scripts/reference/make_smollm2_reference.py."""

import hashlib
import json
import pathlib
import struct
import sys
import tempfile

import datasets
import peft
import torch
import transformers
import trl
from trl import SFTConfig, SFTTrainer

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "reference"))
from make_smollm2_reference import adapt  # noqa: E402
from smollm2 import GGUF  # noqa: E402

SPLIT = {"test_size": 6, "seed": 42}
OPTIONS = {
    "train_sampling_strategy": "sequential",
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "learning_rate": 5e-4,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "max_steps": 8,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 8,
    "save_strategy": "no",
    "max_length": 512,
    "packing": True,
    "assistant_only_loss": True,
}
# SmolLM2's template, with the assistant's turns marked.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\\n' }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\\n' }}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def digest(data):
    """SHA-256 of all rows: number of documents, then of each its length, ids and labels, as little-endian int32."""
    h = hashlib.sha256()
    for row in data:
        lengths = row["seq_lengths"]
        h.update(struct.pack("<i", len(lengths)))
        at = 0
        for n in lengths:
            ids, labels = row["input_ids"][at : at + n], row["labels"][at : at + n]
            h.update(struct.pack(f"<{1 + 2 * n}i", n, *ids, *labels))
            at += n
    return h.hexdigest()


def plain(read):
    """The same model, not marked as read from GGUF, which the Trainer would refuse."""
    config = transformers.LlamaConfig(**{k: v for k, v in read.config.to_dict().items() if k != "quantization_config"})
    model = transformers.LlamaForCausalLM(config).float()
    model.load_state_dict(read.state_dict())
    return model


def train(paths, gguf):
    sets = [datasets.Dataset.from_list(json.loads(pathlib.Path(p).read_text())) for p in paths]
    rows = datasets.interleave_datasets(sets) if len(sets) > 1 else sets[0]
    split = rows.train_test_split(**SPLIT)
    tok = transformers.PreTrainedTokenizerFast(
        tokenizer_object=gguf.tokenizer(), eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=TEMPLATE
    )
    for r in rows:  # the template is the model's own but for the marks
        assert tok.apply_chat_template(r["messages"], tokenize=False) == gguf.render(r["messages"], False)
    model, _ = adapt(plain(gguf.model()))
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(output_dir=folder, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, **OPTIONS)
        trainer = SFTTrainer(
            model,
            args,
            train_dataset=split["train"],
            eval_dataset=split["test"],
            processing_class=tok,
        )
        trainer.train()
    columns = ("loss", "grad_norm", "learning_rate", "num_tokens", "mean_token_accuracy", "eval_loss", "eval_mean_token_accuracy")
    log = {c: [line[c] for line in trainer.state.log_history if c in line] for c in columns}
    return {
        "files": [pathlib.Path(p).name for p in paths],
        "rows": len(rows),
        "train": {"rows": len(trainer.train_dataset), "sha256": digest(trainer.train_dataset)},
        "eval": {"rows": len(trainer.eval_dataset), "sha256": digest(trainer.eval_dataset)},
        "log": log,
    }


gguf = GGUF(str(ROOT / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"))
fixture = {
    "versions": {m.__name__: m.__version__ for m in (trl, transformers, peft, torch)},
    "options": OPTIONS,
    "split": SPLIT,
    "runs": [],
}
for paths in [*([p] for p in sys.argv[1:]), sys.argv[1:]]:
    fixture["runs"].append(train(paths, gguf))
    (HERE / "smollm2.json").write_text(json.dumps(fixture, indent=1) + "\n")
