"""Writes random strings and what the Rust library makes of them, for TestRandomTextsEqualRust of package tokenizer.

    make_fuzz.py TOKENIZERS OUT [NAME ...] [--strings 20000] [--seed 1]
    make_fuzz.py TOKENIZERS OUT [NAME ...] --corpus TEXTS.json

TOKENIZERS has a folder with tokenizer.json for every NAME (all of them without names). With --corpus the strings are the
"text" of the objects of a JSON list. Writes OUT/NAME.jsonl.gz, a line for
every string: text, ids and offsets (in bytes) without and with special tokens, and both decoded. Then:

    LORIS_TOKENIZERS=TOKENIZERS LORIS_TOKENIZER_FUZZ=OUT go test ./tokenizer -run RandomTexts -v
"""
import argparse
import gzip
import json
import os
import random
import unicodedata

from tokenizers import Tokenizer

WORDS = ("the of and to in a is that it was for on are with as his they be at one have this from or had by hot but some what there we can out other were all "
         "don't we're I'LL they'VE it'S isn\u017ft can'T 'tis o'clock HTTPServer fooBarBaz snake_case_word kebab-case CamelCase naïve café Größe señor "
         "Ελληνικά русский язык עברית العربية हिन्दी ไทย 한국어 日本語 東京 です ます 中文 字符 ﬁ ﬂ ½ Ⅷ ㌀ １２３ ａｂｃ").split()
CODE = ["func main() {\n\t", "if (x != 0) {", "}\n", "return nil, err", "#include <stdio.h>\n", "def f(self, *args):\n    ", "  // ", "/* */", "=> ", "&&", "||", "::", "->", "0x1F", "1e-9", "3.14159",
        "https://example.com/a?b=c&d=%20", "<div class=\"x\">", "</div>", ">\u2581</", "`code`", "$\\alpha$", "\\n", "{{ x }}", "{% if %}", "@user", "#tag", "a@b.co"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", " \n ", "\u00a0", "\u3000", "\u2028", "\u0085", "\u200b", "\ufeff", "\v", "\f", "\u2009", "\u1680", " " * 17]
ODD = ["\u0301", "\u0308", "\u0323", "\u200d", "\ufe0f", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇯🇵", "\u2581", "\u2581\u2581", "Ġ", "Ċ", "<0x0A>", "<0xE3>", "\ufffd", "\x00", "\x07", "\x7f", "\u212a", "\u212b", "\u2126", "\u1e9b\u0323",
       "각", "\u1100\u1161\u11a8", "İ", "ß", "ǅ", "\U0001d15e", "\U00020000", "\U000e0001", "\ue000", "\U0010ffff", "\u0378", "…", "—", "“", "”", "。", "、", "！", "「", "」"]
BLOCKS = [(0x20, 0x7e), (0xa0, 0x24f), (0x300, 0x36f), (0x370, 0x52f), (0x590, 0x6ff), (0x900, 0xdff), (0xe00, 0xe7f), (0x1100, 0x11ff), (0x1e00, 0x1fff), (0x2000, 0x2bff),
          (0x3000, 0x30ff), (0x3400, 0x9fff), (0xac00, 0xd7a3), (0xf900, 0xfaff), (0xfb00, 0xfdff), (0xff00, 0xffef), (0x1d400, 0x1d7ff), (0x1f300, 0x1faff), (0x20000, 0x2ffff), (1, 0x10ffff)]


def character(r):
    while True:
        c = r.randint(*r.choice(BLOCKS))
        if not 0xD800 <= c <= 0xDFFF:
            return chr(c)


def part(r, added):
    k = r.random()
    if k < 0.34:
        w = r.choice(WORDS)
        return r.choice([w, w, " " + w, w.upper(), w.capitalize(), w + " "])
    if k < 0.46:
        return r.choice(SPACES)
    if k < 0.56:
        return r.choice(CODE)
    if k < 0.66:
        return r.choice(ODD)
    if k < 0.74:
        return str(r.randint(0, 10 ** r.randint(1, 9)))
    if k < 0.80:
        return "".join(character(r) for _ in range(r.randint(1, 8)))
    if k < 0.85:
        return r.choice(["a", "ab", " ", "\n", "!", "日", "é", "0", "\u0301", "=", "🎉", "\u2581", "\t"]) * r.randint(2, 70)
    if k < 0.90 and added:
        t = r.choice(added)
        return r.choice([t, t, " " + t + " ", t[: r.randint(0, len(t))], t.upper()])
    if k < 0.95:
        return "".join(r.choice("!?.,;:'\"()[]{}<>|/\\-_=+*&^%$#@~`") for _ in range(r.randint(1, 6)))
    return unicodedata.normalize(r.choice(["NFC", "NFD", "NFKC"]), r.choice(WORDS) + r.choice(ODD))


def texts(n, seed, added):
    r = random.Random(seed)
    return ["".join(part(r, added) for _ in range(r.choice([1, 2, 4, 8, 16, 32]))) for _ in range(n)]


def byte_offsets(text, offsets):
    at = [0]
    for c in text:
        at.append(at[-1] + len(c.encode()))
    return [[at[a], at[b]] for a, b in offsets]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("tokenizers")
    p.add_argument("out")
    p.add_argument("names", nargs="*")
    p.add_argument("--strings", type=int, default=20000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--corpus")
    a = p.parse_intermixed_args()
    corpus = None
    if a.corpus:
        with open(a.corpus, encoding="utf-8") as f:
            corpus = [c["text"] for c in json.load(f)]
    os.makedirs(a.out, exist_ok=True)
    for name in a.names or sorted(os.listdir(a.tokenizers)):
        tok = Tokenizer.from_file(os.path.join(a.tokenizers, name, "tokenizer.json"))
        tok.no_truncation()
        tok.no_padding()
        added = sorted(t.content for t in tok.get_added_tokens_decoder().values())
        added = random.Random(a.seed).sample(added, min(len(added), 40))
        with gzip.open(os.path.join(a.out, name + ".jsonl.gz"), "wt", encoding="utf-8", compresslevel=3) as f:
            for text in corpus or texts(a.strings, f"{a.seed} {name}", added):
                e, s = tok.encode(text, add_special_tokens=False), tok.encode(text)
                json.dump({"text": text, "ids": e.ids, "offsets": byte_offsets(text, e.offsets), "special_ids": s.ids, "special_offsets": byte_offsets(text, s.offsets),
                           "decoded": tok.decode(e.ids, skip_special_tokens=False), "skipped": tok.decode(s.ids)}, f, ensure_ascii=False)
                f.write("\n")
        print(name, len(corpus) if corpus else a.strings, "strings", flush=True)


if __name__ == "__main__":
    main()
