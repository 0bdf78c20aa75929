"""Writes trajectories.json: 50 steps of TRL's SFTTrainer per case, in float32 on the CPU: loss, gradient norm, learning
rate, number of tokens and accuracy of every step. Run: python trajectories.py [name …] (after preparation.py and curves.py,
whose tokenizer and rows it uses; with names, it prints only)

The models are in the repository: "lora" is the adapter of internal/reference/testdata/llama_a, "qlora" the same on four
bits (NF4, double quantization), "full" all of its weights, "wide" the same with rows for all tokens of the tokenizer, "tiny" all of
examples/tiny. TRL rounds a quantized model's
adapter to bfloat16; it is put back to what it was, in float32, here.
"""

import json
import pathlib
import sys
import tempfile

import bitsandbytes
import datasets
import peft
import torch
import transformers
import trl
from trl import SFTConfig, SFTTrainer

HERE = pathlib.Path(__file__).parent
LLAMA = HERE.parents[1] / "internal" / "reference" / "testdata" / "llama_a"
TINY = HERE.parents[1] / "examples" / "tiny"
curves = json.loads((HERE / "curves.json").read_text())
MARKED = (HERE / "marked.jinja").read_text()
FACTS = """Beautiful is better than ugly.
Explicit is better than implicit.
Simple is better than complex.
Complex is better than complicated.
Flat is better than nested.
Sparse is better than dense.
Readability counts.
Special cases aren't special enough to break the rules.
Although practicality beats purity.
Errors should never pass silently.
Unless explicitly silenced.
Now is better than never.
Namespaces are one honking great idea.""".split("\n")


def words(line):
    head, *tail = line.split(" ", 2)
    return head, " ".join(tail)


def chat(*turns):
    return [{"role": r, "content": c} for r, c in turns]


IDS = curves["rows"]
TEXT = [{"text": line} for line in FACTS]
PAIRS = [{"prompt": words(line)[0], "completion": " " + words(line)[1]} for line in FACTS]
CHATS = [
    {"messages": chat(("user", words(a)[0]), ("assistant", words(a)[1]), ("user", words(b)[0] + "?"), ("assistant", b))}
    for a, b in zip(FACTS, FACTS[1:] + FACTS[:1])
]
BASE = {
    "train_sampling_strategy": "sequential",
    "per_device_train_batch_size": 4,
    "learning_rate": 5e-3,
    "lr_scheduler_type": "linear",
    "max_steps": 50,
    "logging_steps": 1,
    "save_strategy": "no",
    "max_length": 48,
}
SLOW = {"learning_rate": 3e-4, "weight_decay": 0.05}
CASES = [
    ("plain", "lora", IDS, {}),
    ("packing", "lora", IDS, {"packing": True, "max_length": 96, "per_device_train_batch_size": 2}),
    ("packing, wrapped", "lora", IDS, {"packing": True, "packing_strategy": "wrapped", "max_length": 64, "per_device_train_batch_size": 2}),
    ("accumulation 1", "lora", IDS, {"per_device_train_batch_size": 8}),
    ("accumulation 4", "lora", IDS, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}),
    ("padding-free", "lora", IDS, {"padding_free": True, "max_length": None}),
    ("qlora", "qlora", IDS, {"lr_scheduler_type": "cosine"}),
    ("dft", "lora", IDS, {"loss_type": "dft", "learning_rate": 5e-3}),
    ("label smoothing", "lora", IDS, {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2}),
    ("full training", "full", IDS, SLOW),
    ("full training, adafactor", "full", IDS, SLOW | {"optim": "adafactor"}),
    ("full training, sgd", "full", IDS, {"learning_rate": 0.03, "optim": "sgd", "optim_args": "momentum=0.8,nesterov=true"}),
    ("text", "wide", TEXT, SLOW),
    ("completion only", "tiny", PAIRS, SLOW),
    ("assistant only", "wide", CHATS, SLOW | {"assistant_only_loss": True, "max_length": 128}),
    ("assistant only, packing", "wide", CHATS, SLOW | {"assistant_only_loss": True, "packing": True, "max_length": 160, "per_device_train_batch_size": 1}),
]
SCHEDULES = {
    "cosine": {},
    "cosine_with_restarts": {"num_cycles": 3},
    "cosine_with_min_lr": {"min_lr_rate": 0.2},
    "cosine_warmup_with_min_lr": {"min_lr": 1e-4, "warmup_lr_rate": 0.3},
    "polynomial": {"power": 2.0},
    "constant": {},
    "constant_with_warmup": {},
    "inverse_sqrt": {},
    "warmup_stable_decay": {"num_decay_steps": 20, "min_lr_ratio": 0.1},
    "reduce_lr_on_plateau": {"patience": 0, "factor": 0.5, "threshold": 0.1},
    "greedy": {"patience": 0, "factor": 0.5, "threshold": 0.1, "min_lr": 1e-5, "max_lr": 8e-3},
}
for name, kwargs in SCHEDULES.items():
    options = {"lr_scheduler_type": name, "lr_scheduler_kwargs": kwargs, "warmup_steps": 7}
    if name in ("reduce_lr_on_plateau", "greedy"):
        options |= {"eval_strategy": "steps", "eval_steps": 5, "per_device_eval_batch_size": 4}
    CASES.append((name, "lora", IDS, options))


def widen(model):
    """Gives embedding and head 330 rows: theirs again and again, 5/4, 6/4 … as large."""
    for layer in (model.model.embed_tokens, model.lm_head):
        w = layer.weight.data
        n = len(w)
        layer.weight.data = torch.stack([w[i % n] * (1 + 0.25 * (i // n)) for i in range(330)])
    model.config.vocab_size = model.vocab_size = model.model.embed_tokens.num_embeddings = model.lm_head.out_features = 330


def load(kind):
    if kind == "tiny":
        return transformers.AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    quantization = None
    if kind == "qlora":
        quantization = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
        )
    model = transformers.AutoModelForCausalLM.from_pretrained(LLAMA, dtype=torch.float32, quantization_config=quantization)
    if kind == "wide":
        widen(model)
    if kind in ("full", "wide"):
        return model
    return peft.PeftModel.from_pretrained(model, LLAMA / "adapter", is_trainable=True)


def train(kind, rows, options):
    tok = transformers.AutoTokenizer.from_pretrained(HERE / "tokenizer")
    if options.get("assistant_only_loss"):
        tok.chat_template = MARKED
    model = load(kind)
    initial = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(output_dir=folder, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, **options)
        trainer = SFTTrainer(
            model,
            args,
            train_dataset=datasets.Dataset.from_list(rows),
            eval_dataset=datasets.Dataset.from_list(curves["eval_rows"]) if "eval_strategy" in options else None,
            processing_class=tok,
        )
        for n, p in trainer.model.named_parameters():
            if p.requires_grad:
                p.data = initial[n]
        trainer.train()
    history = [line for line in trainer.state.log_history if "loss" in line]
    columns = ("loss", "grad_norm", "learning_rate", "num_tokens", "mean_token_accuracy")
    return {c: [float(f"{line[c]:.9g}") for line in history] for c in columns}


wanted = sys.argv[1:]
cases = [
    {"name": n, "model": kind, "options": BASE | o, "rows": None if rows is IDS else rows, "log": train(kind, rows, BASE | o)}
    for n, kind, rows, o in CASES
    if not wanted or n in wanted
]
if wanted:
    sys.exit(json.dumps(cases, indent=1))
versions = {m.__name__: m.__version__ for m in (trl, transformers, peft, bitsandbytes, torch)}
(HERE / "trajectories.json").write_text(json.dumps({"versions": versions, "cases": cases}, separators=(",", ":")) + "\n")
