"""Writes questions.json: digests of what TRL's SFTTrainer prepares of question-answer files with SmolLM2's tokenizer:
assistant turns only, packed, with an evaluation split. Run: python questions.py FAQ.json …

The texts are not the project's, so that only digests of the prepared rows are kept."""

import hashlib
import json
import pathlib
import struct
import sys
import tempfile

import datasets
import transformers
import trl
from trl import SFTConfig, SFTTrainer

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "reference"))
from smollm2 import GGUF  # noqa: E402

EVAL_ROWS = 16  # the last ones
OPTIONS = {"max_length": 384, "packing": True, "assistant_only_loss": True}
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


def prepare(path, gguf):
    rows = json.loads(pathlib.Path(path).read_text())
    tok = transformers.PreTrainedTokenizerFast(
        tokenizer_object=gguf.tokenizer(), eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=TEMPLATE
    )
    for r in rows:  # the template is the model's own but for the marks
        assert tok.apply_chat_template(r["messages"], tokenize=False) == gguf.render(r["messages"], False)
    model = transformers.LlamaForCausalLM(  # is not run
        transformers.LlamaConfig(
            vocab_size=len(tok), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(output_dir=folder, use_cpu=True, bf16=False, report_to="none", **OPTIONS)
        trainer = SFTTrainer(
            model,
            args,
            train_dataset=datasets.Dataset.from_list(rows[:-EVAL_ROWS]),
            eval_dataset=datasets.Dataset.from_list(rows[-EVAL_ROWS:]),
            processing_class=tok,
        )
    return {
        "file": pathlib.Path(path).name,
        "rows": len(rows),
        "train": {"rows": len(trainer.train_dataset), "sha256": digest(trainer.train_dataset)},
        "eval": {"rows": len(trainer.eval_dataset), "sha256": digest(trainer.eval_dataset)},
    }


gguf = GGUF(str(ROOT / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"))
fixture = {
    "versions": {m.__name__: m.__version__ for m in (trl, transformers, datasets)},
    "options": OPTIONS,
    "eval_rows": EVAL_ROWS,
    "runs": [prepare(path, gguf) for path in sys.argv[1:]],
}
(HERE / "questions.json").write_text(json.dumps(fixture, indent=1) + "\n")
