"""Copies TRL's training chat templates beside this file, and writes index.json, which says of which template each is a
variant, and ../testdata/training_templates.json, what transformers renders with them. Run: python copy.py"""

import hashlib
import json
import pathlib

import transformers
import trl
from transformers.utils.chat_template_utils import render_jinja_template

HERE = pathlib.Path(__file__).parent
SOURCE = pathlib.Path(trl.__file__).parent / "chat_templates"
TESTDATA = HERE.parent / "testdata"
KEPT = ("gemma3", "llama3", "phi3", "qwen2_5", "qwen3")  # templates themselves, to test that they are found
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def chat(*turns):
    return [{"role": role, "content": content} for role, content in turns]


CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
CHATS = {
    "one answer": chat(("user", "Hi ☃"), ("assistant", "Hello!")),
    "two answers": chat(("user", "a?"), ("assistant", "First."), ("user", "b?"), ("assistant", "Second answer.")),
    "system": chat(("system", "Be brief."), ("user", "a?"), ("assistant", "First."), ("user", "b?"), ("assistant", "Second.")),
    "a question at the end": chat(("user", "a?"), ("assistant", "First answer."), ("user", "b?")),
    "reasoning": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "A", "reasoning_content": "because", "thinking": "because"},  # transformers would add the other
        {"role": "user", "content": "q2"},
        {"role": "assistant", "content": "A2", "reasoning_content": "so", "thinking": "so"},
    ],
    "a tool": [
        {"role": "user", "content": "w?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": "f", "content": "3"},
        {"role": "assistant", "content": "It is 3."},
    ],
}


def render(template):
    out = {}
    for name, messages in CHATS.items():
        try:
            texts, spans = render_jinja_template([messages], chat_template=template, return_assistant_tokens_mask=True, date_string="today", **VARIABLES)
        except Exception as e:
            out[name] = {"error": str(e)[:60]}
            continue
        spans = [[len(texts[0][:i].encode()) for i in span] for span in spans[0]]
        out[name] = {"sha256": hashlib.sha256(texts[0].encode()).hexdigest(), "spans": spans}
    return out


index, renders = {}, {}
for path in sorted(SOURCE.glob("*_training.jinja")):
    name = path.name.removesuffix("_training.jinja")
    plain, training = (SOURCE / f"{name}.jinja").read_text(encoding="utf-8"), path.read_text(encoding="utf-8")
    (HERE / f"{name}.jinja").write_text(training, encoding="utf-8")
    index[hashlib.sha256(plain.encode()).hexdigest()] = name
    if "strftime_now" not in training:  # else what it renders depends on the day
        renders[name] = render(training)
    if name in KEPT:
        (TESTDATA / f"{name}.jinja").write_text(plain, encoding="utf-8")
versions = {m.__name__: m.__version__ for m in (trl, transformers)}
(HERE / "index.json").write_text(json.dumps({"versions": versions, "templates": index}, indent=1) + "\n")
fixture = {"versions": versions, "chats": CHATS, "renders": renders}
(TESTDATA / "training_templates.json").write_text(json.dumps(fixture, separators=(",", ":"), ensure_ascii=False) + "\n")
