"""Writes real.json: hashes of what TRL's SFTTrainer makes of real conversations: examples/qlora's rows with the tokenizer of
examples/tiny, and, where they are there, those rows and the two question-answer sets of --faq with SmolLM2's tokenizer
(scripts/fetch-smollm2.sh). Run: python real.py [--faq FOLDER]"""

import argparse
import hashlib
import json
import pathlib
import struct
import sys
import tempfile

import datasets
import tokenizers
import transformers
import trl
from trl import SFTConfig, SFTTrainer

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "scripts" / "reference"))
from smollm2 import GGUF

TURN = "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
MARKED = (
    "{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\\n' }}{% generation %}{{ message['content'] + '<|im_end|>' }}"
    "{% endgeneration %}{{ '\\n' }}{% else %}" + TURN + "{% endif %}"
)
OPTIONS = [
    {"assistant_only_loss": True, "max_length": 256},
    {"assistant_only_loss": True, "max_length": 512, "packing": True, "eval_packing": True},
    {"assistant_only_loss": True, "max_length": 512, "packing": True, "eval_packing": False, "shuffle_dataset": True},
    {"max_length": 300, "packing": True, "packing_strategy": "bfd_split"},
    {"max_length": 300, "packing": True, "packing_strategy": "wrapped", "shuffle_dataset": True, "seed": 3},
]


def marked(tok, rows):
    """The tokenizer's template with {% generation %} put in; it must render the same."""
    plain = tok.chat_template
    template = plain.replace(TURN, MARKED).replace(TURN.replace("\\n", "\n"), MARKED)  # newlines in it are escaped or not
    assert template != plain, plain
    for row in rows:
        assert tok.apply_chat_template(row["messages"], tokenize=False) == tok.apply_chat_template(row["messages"], tokenize=False, chat_template=template)
    return template


def digest(ds):
    h, tokens, labels = hashlib.sha256(), 0, 0
    for row in ds:
        ids, wanted = row["input_ids"], row["labels"]
        lengths = row.get("seq_lengths") or [len(ids)]
        h.update(struct.pack("<i", len(lengths)))
        start = 0
        for n in lengths:
            h.update(struct.pack(f"<{1 + 2 * n}i", n, *ids[start : start + n], *wanted[start : start + n]))
            start += n
        tokens += len(ids)
        labels += sum(label != -100 for label in wanted)
    return {"rows": len(ds), "tokens": tokens, "labels": labels, "sha256": h.hexdigest()}


def prepare(tok, split, options, folder):
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=len(tok), hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    )
    args = SFTConfig(output_dir=folder, use_cpu=True, bf16=False, report_to="none", **options)
    trainer = SFTTrainer(model, args, train_dataset=split["train"], eval_dataset=split["test"], processing_class=tok)
    return {"options": options, "train": digest(trainer.train_dataset), "eval": digest(trainer.eval_dataset)}


def cases(name, tok, data, path, folder):
    rows = json.loads(path.read_text()) if path.suffix == ".json" else [json.loads(line) for line in path.read_text().splitlines()]
    split = datasets.Dataset.from_list(rows).train_test_split(test_size=0.1, seed=42)
    plain, template = tok.chat_template, marked(tok, rows)
    for options in OPTIONS:
        tok.chat_template = template if options.get("assistant_only_loss") else plain
        yield {"tokenizer": name, "data": data, "test_size": 0.1, "seed": 42, **prepare(tok, split, options, folder)}
    tok.chat_template = plain


parser = argparse.ArgumentParser()
parser.add_argument("--gguf", type=pathlib.Path, default=ROOT / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf")
parser.add_argument("--faq", type=pathlib.Path, required=True, help="folder with faq_en.json and faq_ja.json")
args = parser.parse_args()
gguf = GGUF(str(args.gguf))
smollm2 = transformers.PreTrainedTokenizerFast(
    tokenizer_object=gguf.tokenizer(), bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=gguf.get("tokenizer.chat_template")
)
tiny = transformers.AutoTokenizer.from_pretrained(ROOT / "examples" / "tiny")
qlora = ROOT / "examples" / "qlora" / "data" / "train.jsonl"
with tempfile.TemporaryDirectory() as folder:
    all_cases = list(cases("examples/tiny", tiny, "examples/qlora", qlora, folder))
    all_cases += cases("smollm2", smollm2, "examples/qlora", qlora, folder)
    for language in ("en", "ja"):
        all_cases += cases("smollm2", smollm2, f"faq_{language}", args.faq / f"faq_{language}.json", folder)
versions = {m.__name__: m.__version__ for m in (trl, transformers, datasets, tokenizers)}
(HERE / "real.json").write_text(json.dumps({"versions": versions, "cases": all_cases}, indent=1) + "\n")
