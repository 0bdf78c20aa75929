"""Trains BPE vocabularies with the Rust library: writes tokenizer/testdata/train/NAME.json.gz (written with tokenizers 0.23.3).

    make_train_fixtures.py [--corpus]      --corpus also writes corpus.txt.gz anew, from this repository's text

Every case is trained in three processes, because the library's hash maps differ from one to the next: the script fails where
that changes the result, except in the order of equally frequent pairs whose ids the library leaves to chance (prefix, suffix):
of these only the set of tokens is kept.
"""
import gzip
import json
import os
import subprocess
import sys

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
OUT = os.path.join(ROOT, "tokenizer", "testdata", "train")
BYTES = [f"<0x{b:02X}>" for b in range(256)]
SPM = ["<unk>", "<s>", "</s>"]


def byte_level():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return t


def sentence_piece(split=True, normalizer=None):
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace(split=split)
    if normalizer:
        t.normalizer = normalizer
    return t


def words(**model):
    t = Tokenizer(models.BPE(**model))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    return t


ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
CASES = {  # name: tokenizer, arguments of BpeTrainer, whether the ids are left to chance
    "bytelevel": (byte_level, dict(vocab_size=2000, special_tokens=["<|endoftext|>", "<|im_start|>"], initial_alphabet=ALPHABET), False),
    "bytelevel_all": (byte_level, dict(vocab_size=1_000_000, min_frequency=2), False),
    "bytelevel_short": (byte_level, dict(vocab_size=1500, max_token_length=5, min_frequency=3, initial_alphabet=ALPHABET), False),
    "bytelevel_limit": (byte_level, dict(vocab_size=900, limit_alphabet=50), False),
    "sentencepiece": (sentence_piece, dict(vocab_size=1500, special_tokens=SPM + BYTES), False),
    "sentencepiece_nfkc": (lambda: sentence_piece(normalizer=normalizers.NFKC()), dict(vocab_size=1200, special_tokens=SPM + BYTES, limit_alphabet=90), False),
    "sentencepiece_whole": (lambda: sentence_piece(split=False), dict(vocab_size=1200, special_tokens=SPM + BYTES, max_token_length=12), False),
    "prefix": (lambda: words(continuing_subword_prefix="##"), dict(vocab_size=700, continuing_subword_prefix="##"), True),
    "suffix": (lambda: words(end_of_word_suffix="</w>"), dict(vocab_size=700, end_of_word_suffix="</w>", min_frequency=2), True),
}


def corpus():
    with gzip.open(os.path.join(OUT, "corpus.txt.gz"), "rt", encoding="utf-8", newline="") as f:
        return f.read().split("\n\n")


def train(name):
    make, arguments, _ = CASES[name]
    tokenizer = make()
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(show_progress=False, **arguments))
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [t for t, _ in sorted(model["vocab"].items(), key=lambda e: e[1])]
    return {"tokens": tokens, "merges": model["merges"]}


def write(name, data):
    with open(os.path.join(OUT, name), "wb") as f, gzip.GzipFile(filename="", mode="wb", fileobj=f, mtime=0) as z:
        z.write(data)


def write_corpus():
    """The text of this repository and the texts of the golden data, paragraphs apart."""
    with gzip.open(os.path.join(OUT, "..", "gpt2.golden.json.gz"), "rt") as f:
        parts = [g["text"].replace("\n\n", "\n") for g in json.load(f)]
    for folder in "docs", "tokenizer":
        for file in sorted(os.listdir(os.path.join(ROOT, folder))):
            if file.endswith((".md", ".go")) and not file.startswith(("unicodetables", "train")):
                with open(os.path.join(ROOT, folder, file), encoding="utf-8") as f:
                    parts.append(f.read())
    write("corpus.txt.gz", "\n\n".join(parts).encode())


def main():
    if sys.argv[1:2] == ["--one"]:
        return print(json.dumps(train(sys.argv[2])))
    os.makedirs(OUT, exist_ok=True)
    if sys.argv[1:] == ["--corpus"]:
        write_corpus()
    for name, (_, _, chance) in CASES.items():
        runs = [json.loads(subprocess.run([sys.executable, __file__, "--one", name], check=True, capture_output=True).stdout) for _ in range(3)]
        if any(r != runs[0] for r in runs):
            same = [set(r["tokens"]) == set(runs[0]["tokens"]) for r in runs]
            if not chance:
                raise SystemExit(f"{name}: the library's result differs from process to process")
            print(f"{name}: ids differ from process to process; same sets of tokens: {all(same)}")
        common = set.intersection(*(set(r["tokens"]) for r in runs))
        result = {"tokens": sorted(common), "of": len(runs[0]["tokens"])} if chance else runs[0]
        write(name + ".json.gz", json.dumps(result, ensure_ascii=False).encode())
        print(name, len(runs[0]["tokens"]), "tokens", len(runs[0]["merges"]), "merges", len(common), "in all runs")


if __name__ == "__main__":
    main()
