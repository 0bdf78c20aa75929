#!/usr/bin/env python3
"""Trains the tiny model's tokenizer and writes it, in Hugging Face's files, to examples/pretrain/data.

    usage: train_tokenizer.py [CORPUS [HELDOUT]]       default: .cache/tiny/corpus.txt, .cache/tiny/heldout.txt

Byte-level BPE of 1024 tokens laid out as SmolLM2's tokenizer: single digits, GPT-2's splitting, no space put in front.
Only the corpus is trained on, not the chats of examples/qlora/data: a token that stood for one of their invented names
would never occur in the corpus, and a frozen model with an untrained embedding cannot learn to say it.
Needs the tokenizers of scripts/requirements.txt; the same version writes the same bytes.
"""

import json
import os
import re
import sys

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
OUT = os.path.join(ROOT, "examples", "pretrain", "data")

VOCAB_SIZE = 1024
END_OF_TEXT, IM_START, IM_END = SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]  # ids 0, 1, 2
MAX_LENGTH = 512

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def training_texts(corpus):
    """Yields texts without special tokens, which must not be cut into pieces of vocabulary."""
    special = re.compile("|".join(map(re.escape, SPECIAL)))
    with open(corpus, encoding="utf-8") as f:
        for document in f.read().split("\n\n"):
            yield from special.split(document)


def train(corpus):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(corpus), trainer)
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise SystemExit(f"trained {tokenizer.get_vocab_size()} tokens, wanted {VOCAB_SIZE}")
    return tokenizer


def write_json(name, value):
    write(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write(name, text):
    path = os.path.join(OUT, name)
    with open(path + ".tmp", "w", encoding="utf-8", newline="\n") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".tmp", path)


def special_token(content):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


def main():
    cache = os.path.join(ROOT, ".cache", "tiny")
    corpus = sys.argv[1] if len(sys.argv) > 1 else os.path.join(cache, "corpus.txt")
    heldout = sys.argv[2] if len(sys.argv) > 2 else os.path.join(cache, "heldout.txt")
    tokenizer = train(corpus)
    os.makedirs(OUT, exist_ok=True)
    write("tokenizer.json", tokenizer.to_str(pretty=True) + "\n")
    write_json(
        "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": {str(i): special_token(t) | {"special": True} for i, t in enumerate(SPECIAL)},
            "additional_special_tokens": [IM_START, IM_END],
            "bos_token": END_OF_TEXT,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": IM_END,
            "model_max_length": MAX_LENGTH,
            "pad_token": END_OF_TEXT,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": END_OF_TEXT,
        },
    )
    write_json(
        "special_tokens_map.json",
        {
            "additional_special_tokens": [IM_START, IM_END],
            "bos_token": special_token(END_OF_TEXT),
            "eos_token": special_token(IM_END),
            "pad_token": special_token(END_OF_TEXT),
            "unk_token": special_token(END_OF_TEXT),
        },
    )
    write_json("generation_config.json", {"bos_token_id": 0, "eos_token_id": [2, 0], "pad_token_id": 0})

    for path in corpus, heldout:
        with open(path, encoding="utf-8") as f:
            text = f.read()
        documents = text.rstrip("\n").split("\n\n")
        tokens = sum(len(encoding.ids) + 1 for encoding in tokenizer.encode_batch(documents, add_special_tokens=False))
        print(f"{os.path.basename(path)}: {len(text)} bytes, {tokens} tokens, {len(text) / tokens:.3f} bytes per token")
    print(f"tokenizers {tokenizers.__version__}, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
