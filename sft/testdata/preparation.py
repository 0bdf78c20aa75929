"""Writes tokenizer/ (a small byte-level BPE with a ChatML template) and preparation.json: the examples that TRL's
SFTTrainer makes of a few rows. Run: python preparation.py"""

import json
import pathlib
import tempfile

import datasets
import tokenizers
import transformers
import trl
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from trl import SFTConfig, SFTTrainer

HERE = pathlib.Path(__file__).parent
TURN = "'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'"
HEAD = "{% if tools %}{{ tools | tojson }}\n{% endif %}{% if greeting is defined %}{{ greeting }}\n{% endif %}"
CHATML = (
    HEAD + "{% for message in messages %}{{" + TURN + "}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKED = (  # renders the same; tells the assistant's content and end of turn
    HEAD + "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\\n' }}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{" + TURN + "}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CORPUS = [
    "Beautiful is better than ugly. Explicit is better than implicit. Simple is better than complex.",
    "What is better than ugly? What is better than implicit? user assistant system",
    "Now is better than never. Although never is often better than right now.",
] * 4


def make_tokenizer():
    t = tokenizers.Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
    t.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=330, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", t.token_to_id("<s>"))]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=t, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=CHATML
    )


def chat(*turns):
    return [{"role": r, "content": c} for r, c in turns]


TEXT = [
    {"text": "Beautiful is better than ugly."},
    {"text": "Explicit is better than implicit.</s>"},
    {"text": "Ünïcode ☃ 漢字 and 🙂."},
    {"text": ""},
    {"text": "Although never is often better than *right* now, now is better than never. " * 3},
]
PAIRS = [
    {"prompt": "What is better than ugly?", "completion": " Beautiful."},
    {"prompt": "Simple is bett", "completion": "er than complex.</s>"},  # tokens merge across the boundary
    {"prompt": "Never is often better than right now. " * 4, "completion": "Now."},
]
CHATS = [
    {"messages": chat(("user", "What is better than ugly?"), ("assistant", "Beautiful is."))},
    {
        "messages": chat(
            ("system", "Be brief."), ("user", "Hi ☃"), ("assistant", "Hi."), ("user", "Simple?"), ("assistant", "Better than complex 🙂.")
        )
    },
    {"messages": chat(("user", "Although never is often better than *right* now. " * 4), ("assistant", "Never."))},
]
CHAT_PAIRS = [
    {"prompt": chat(("user", "What is better than implicit?")), "completion": chat(("assistant", "Explicit."))},
    {
        "prompt": chat(("system", "Be brief."), ("user", "Simple?")),
        "completion": chat(("assistant", "Yes."), ("user", "Sure?"), ("assistant", "Better than complex.")),
    },
]
SHAREGPT = [
    {"conversations": [{"from": "human", "value": "What is better?"}, {"from": "gpt", "value": "Beautiful."}]},
    {"conversations": [{"from": "human", "value": "Now?"}, {"from": "gpt", "value": "Never."}]},
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"z": {"type": "number"}, "a": [1.0, "<&>", None]}}}]
TOOL_CHATS = [
    {"messages": chat(("user", "Better?"), ("assistant", "Never.")), "tools": json.dumps(TOOLS), "chat_template_kwargs": {"greeting": "Hi ☃"}},
    {"messages": chat(("user", "Now?"), ("assistant", "Right now.")), "tools": "[]", "chat_template_kwargs": {"greeting": "user"}},
]
TOOL_PAIRS = [
    {"prompt": r["messages"][:1], "completion": r["messages"][1:], "tools": r["tools"], "chat_template_kwargs": r["chat_template_kwargs"]} for r in TOOL_CHATS
]
IDS = [
    {"input_ids": [5, 6, 7, 8], "completion_mask": [0, 0, 1, 1], "assistant_masks": [1, 0, 0, 1]},
    {"input_ids": [9, 10, 11], "completion_mask": [0, 1, 1], "assistant_masks": [0, 1, 1]},
]
LABELS = [{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, -100, 8]}, {"input_ids": [9, 10], "labels": [9, 10]}]
CASES = [
    ("text", TEXT, {}),
    ("text, other column", [{"body": r["text"]} for r in TEXT], {"dataset_text_field": "body"}),
    ("text, other end", TEXT, {"eos_token": "<|im_end|>"}),
    ("text, truncated", TEXT, {"max_length": 20}),
    ("text, not truncated", TEXT, {"max_length": None}),
    ("pairs", PAIRS, {}),
    ("pairs, whole sequence", PAIRS, {"completion_only_loss": False}),
    ("pairs, prompt fills the row", PAIRS, {"max_length": 24}),
    ("chats", CHATS, {}),
    ("chats, assistant only", CHATS, {"assistant_only_loss": True}),
    ("chats, assistant only, truncated", CHATS, {"assistant_only_loss": True, "max_length": 64}),
    ("chat pairs", CHAT_PAIRS, {}),
    ("chat pairs, whole sequence", CHAT_PAIRS, {"completion_only_loss": False}),
    ("chat pairs, assistant only", CHAT_PAIRS, {"assistant_only_loss": True}),
    ("chat pairs, assistant only, prompt too", CHAT_PAIRS, {"assistant_only_loss": True, "completion_only_loss": False}),
    ("text, end kept", TEXT, {"max_length": 20, "truncation_mode": "keep_end"}),
    ("pairs, end kept", PAIRS, {"max_length": 24, "truncation_mode": "keep_end"}),
    ("chats, assistant only, end kept", CHATS, {"assistant_only_loss": True, "max_length": 9, "truncation_mode": "keep_end"}),
    ("sharegpt", SHAREGPT, {}),
    ("tools and template variables", TOOL_CHATS, {}),
    ("tools and template variables, assistant only", TOOL_CHATS, {"assistant_only_loss": True}),
    ("tools and template variables, chat pairs", TOOL_PAIRS, {}),
    ("ids with masks", IDS, {}),
    ("ids with masks, completion only", IDS, {"completion_only_loss": True}),
    ("ids with labels", LABELS, {}),
    ("bfd", TEXT, {"packing": True, "max_length": 40}),
    ("bfd_split", TEXT, {"packing": True, "packing_strategy": "bfd_split", "max_length": 40}),
    ("wrapped", TEXT, {"packing": True, "packing_strategy": "wrapped", "max_length": 40}),
    ("bfd, pairs", PAIRS, {"packing": True, "max_length": 40}),
]


def prepare(rows, options, folder):
    tok = transformers.AutoTokenizer.from_pretrained(HERE / "tokenizer")
    if options.get("assistant_only_loss"):
        tok.chat_template = MARKED
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tok), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1
        )
    )
    args = SFTConfig(output_dir=folder, use_cpu=True, bf16=False, report_to="none", **options)
    out = SFTTrainer(model, args, train_dataset=datasets.Dataset.from_list(rows), processing_class=tok).train_dataset
    result = {"input_ids": list(out["input_ids"]), "labels": list(out["labels"])}
    if "seq_lengths" in out.column_names:
        result["seq_lengths"] = list(out["seq_lengths"])
    return result


make_tokenizer().save_pretrained(HERE / "tokenizer")
with tempfile.TemporaryDirectory() as folder:
    cases = [{"name": n, "rows": rows, "options": o, **prepare(rows, o, folder)} for n, rows, o in CASES]
versions = {m.__name__: m.__version__ for m in (trl, transformers, datasets, tokenizers)}
(HERE / "preparation.json").write_text(json.dumps({"versions": versions, "cases": cases}, separators=(",", ":"), ensure_ascii=False) + "\n")
