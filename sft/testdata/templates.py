"""Writes templates.json: what TRL's SFTTrainer makes of conversations with assistant_only_loss and published chat templates,
which it replaces by its training variants. Run after preparation.py: python templates.py"""

import json
import pathlib
import tempfile

import datasets
import transformers
import trl
from trl import SFTConfig, SFTTrainer

HERE = pathlib.Path(__file__).parent
TEMPLATES = HERE.parent.parent / "tokenizer" / "testdata"


def chat(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def think(role, content, reasoning=None):
    return {"role": role, "content": content, "reasoning": reasoning}


CHATS = [
    {"messages": chat(("user", "What is better than ugly?"), ("assistant", "Beautiful is."))},
    {"messages": chat(("user", "Simple?"), ("assistant", "Better than complex 🙂."), ("user", "Now?"), ("assistant", "Never."))},
    {"messages": chat(("user", "Hi ☃"), ("assistant", "Hi."), ("user", "Explicit?"))},
]
REASONED = [
    {"messages": [think("user", "Now?"), think("assistant", "Never.", "now or never"), think("user", "Sure?"), think("assistant", "Yes.", "I am")]},
    {"messages": [think("user", "Better?"), think("assistant", "Beautiful.")]},
]
PAIRS = [{"prompt": r["messages"][:1], "completion": r["messages"][1:]} for r in CHATS]


def prepare(template, rows, folder):
    tok = transformers.AutoTokenizer.from_pretrained(HERE / "tokenizer")
    tok.chat_template = template
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=len(tok), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    )
    args = SFTConfig(output_dir=folder, use_cpu=True, bf16=False, report_to="none", assistant_only_loss=True)
    out = SFTTrainer(model, args, train_dataset=datasets.Dataset.from_list(rows), processing_class=tok).train_dataset
    return {"rows": rows, "input_ids": list(out["input_ids"]), "labels": list(out["labels"])}


cases = []
with tempfile.TemporaryDirectory() as folder:
    for name in ("gemma3", "llama3", "phi3", "qwen2_5", "qwen3"):
        template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
        for rows in (CHATS, PAIRS, REASONED):
            cases.append({"template": name, **prepare(template, rows, folder)})
versions = {m.__name__: m.__version__ for m in (trl, transformers, datasets)}
(HERE / "templates.json").write_text(json.dumps({"versions": versions, "cases": cases}, separators=(",", ":"), ensure_ascii=False) + "\n")
