"""Writes training.json: runs of TRL's SFTTrainer on a tiny Llama, with every batch, what the model made of it, and the
log and state that came out. The data order is sequential, so that it can be replayed. Run: python training.py (after
preparation.py, whose tokenizer it uses)"""

import json
import pathlib
import tempfile

import datasets
import torch
import transformers
import trl
from trl import SFTConfig, SFTTrainer

HERE = pathlib.Path(__file__).parent
ZEN = """Beautiful is better than ugly.
Explicit is better than implicit.
Simple is better than complex.
Complex is better than complicated.
Flat is better than nested.
Sparse is better than dense.
Readability counts.
Special cases aren't special enough to break the rules.
Although practicality beats purity.
Errors should never pass silently.
Unless explicitly silenced.""".split("\n")
TEXT = [{"text": line} for line in ZEN]
PAIRS = [{"prompt": " ".join(line.split()[:2]), "completion": " " + " ".join(line.split()[2:])} for line in ZEN]
BASE = {
    "train_sampling_strategy": "sequential",
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-2,
    "num_train_epochs": 2,
    "logging_steps": 2,
    "save_steps": 4,
}
CASES = [
    ("steps", TEXT, TEXT[:5], {"eval_strategy": "steps", "eval_steps": 3, "warmup_steps": 2, "logging_first_step": True}),
    ("epochs", PAIRS, PAIRS[3:6], {"eval_strategy": "epoch", "logging_strategy": "epoch", "save_strategy": "epoch", "lr_scheduler_type": "cosine"}),
    ("packed", TEXT, TEXT[4:], {"packing": True, "max_length": 40, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 5, "eval_on_start": True, "max_grad_norm": 0.1}),
    (
        "best",
        PAIRS,
        PAIRS[:2],
        {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True, "metric_for_best_model": "mean_token_accuracy", "save_total_limit": 1, "learning_rate": 0.3},
    ),
]


class Recorder(transformers.TrainerCallback):
    def __init__(self):
        self.steps, self.micro, self.evals, self.trainer = [], [], [], None

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.steps.append({"learning_rate": optimizer.param_groups[0]["lr"], "grad_norm": self.norm, "micro": self.micro})
        self.micro = []

    def watch(self, trainer):
        forward, clip = trainer.model.forward, trainer._clip_grad_norm

        def watched(*args, **inputs):
            out = forward(*args, **inputs)
            seen = {k: inputs[k].tolist() for k in ("input_ids", "labels", "attention_mask", "position_ids") if k in inputs}
            seen |= {
                "loss_sum": -out.log_probs.double().sum().item(),
                "entropy_sum": out.entropy.double().sum().item(),
                "correct": int(out.is_top1.sum()),
                "num_labels": int(out.label_mask.sum()),
            }
            (self.micro if trainer.model.training else self.evals).append(seen)
            return out

        def clipped(model):
            self.norm = float(clip(model))
            return self.norm

        trainer.model.forward, trainer._clip_grad_norm = watched, clipped


def train(rows, eval_rows, options):
    tok = transformers.AutoTokenizer.from_pretrained(HERE / "tokenizer")
    transformers.set_seed(1)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tok), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1
        )
    )
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(output_dir=folder, use_cpu=True, bf16=False, report_to="none", **BASE | options)
        trainer = SFTTrainer(
            model,
            args,
            train_dataset=datasets.Dataset.from_list(rows),
            eval_dataset=datasets.Dataset.from_list(eval_rows),
            processing_class=tok,
            callbacks=[recorder],
        )
        recorder.watch(trainer)
        trainer.train()
        trainer.save_state()
        state = json.loads((pathlib.Path(folder) / "trainer_state.json").read_text())
        if state["best_model_checkpoint"]:
            state["best_model_checkpoint"] = pathlib.Path(state["best_model_checkpoint"]).name
        checkpoints = sorted(p.name for p in pathlib.Path(folder).glob("checkpoint-*"))
    return {"steps": recorder.steps, "evals": recorder.evals, "state": state, "checkpoints": checkpoints}


cases = [
    {"name": n, "rows": rows, "eval_rows": e, "options": BASE | o, **train(rows, e, o)} for n, rows, e, o in CASES
]
versions = {m.__name__: m.__version__ for m in (trl, transformers, torch)}
(HERE / "training.json").write_text(json.dumps({"versions": versions, "cases": cases}, separators=(",", ":")) + "\n")
(HERE / "trainer_state.json").write_text(json.dumps(cases[-1]["state"], indent=2, sort_keys=True) + "\n")
