"""Trains the small tokenizers of this folder and records what the Rust library makes of some texts.

    python make_fixtures.py [SmolLM2.gguf]

Needs tokenizers (written with 0.23.3) and gguf (0.17). Writes NAME/tokenizer.json, NAME.golden.json.gz and tiny.gguf
beside this script. With the GGUF file of SmolLM2-135M-Instruct, also smollm2.golden.json.gz: the ids of the Rust library
over a tokenizer.json with SmolLM2's published components and the vocabulary of that file.
A tokenizer.json that is there already is kept: equally frequent pairs are learned in an order that differs from run to run.
Offsets of the golden data are bytes of the UTF-8 text (the library counts characters).
"""
import gzip, json, os, random, sys
from tokenizers import Tokenizer, Regex, AddedToken, models, normalizers, pre_tokenizers, decoders, processors, trainers

here = os.path.dirname(os.path.abspath(__file__))

TRAINING = [
    "The quick brown fox jumps over the lazy dog. The dog isn't amused; it doesn't care, and they'll never know.",
    "In 2024 there were 1234567 lines of code, 3.14159 of them useful. def main(args):\n    return sum(x for x in args)\n",
    "func Encode(text string) ([]int, error) {\n\tif text == \"\" {\n\t\treturn nil, nil\n\t}\n}\n",
    "Hello world, hello there, hello again. What is the meaning of this? We're here; you've seen it, I'd say.",
    "日本語の文章を分割する。東京は日本の首都です。これは小さな例です。",
    "Größe, naïve café, résumé, señor, Ελληνικά, русский язык, עברית, العربية",
    "the the the and and of of to to in in a a is is that that for for it it with with as as was was on on",
    "training a tokenizer on a small text gives a small vocabulary, and small vocabularies give long sequences",
] * 4

TEXTS = [
    "", " ", "  ", "   \n\n  ", "\n", "\n\n\n", "\t\tx", "a", "Hello world", " Hello world ", "hello  world   again",
    "The quick brown fox isn't here. They'LL know; WE'RE sure, it'S fine.", "isn\u017f it'\u017f",
    "1234567 12 1 3.14159 ½ Ⅷ 1٢٣४५", "def f(x):\n    return x\n\n\nprint( f(3) )\t# done\r\n",
    "日本語の文章です。東京、日本！", "中文字符测试", "한국어 문장", "Ελληνικά и русский", "naïve café", "nai\u0308ve cafe\u0301 A\u030a\u0323",
    "\u1e9b\u0323 ﬁ ① ㌀ Å Ω", "각 \u1100\u1161\u11a8", "İstanbul DŽ ß ẞ", "👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 ❤️", "zero\u200bwidth\u200djoin\ufeff",
    "non\u00a0breaking\u3000space\u2028line", "a\x00b\x07c\x7f", "\ufffd\ufffd", "▁ under ▁▁score", "Ġ Ċ ĉ <0x0A> <0xE3>",
    "!!! ??? ... ,,, --- ###", "(a) [b] {c} <d>", "x" * 70, "ab" * 40, " " * 40, "🎉" * 12, "a b" * 30,
    "<s>", "</s>", "<unk>", "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n", "<|endoftext|>", "x<|endoftext|>y <|endoftext|> z",
    "<|im_start|><|im_end|>", "<|im_start", "a <mask> b", "a  <mask>  b", "<mask>", "word wordy aword word.", "  <pad> x <pad>", "[CLS] hello [SEP] [UNK] [MASK]",
    "Größe\u0301", "\u0301leading mark", "e\u0301\u0323x", "\u0f73\u0f71", "q\u0307\u0323", "\U0001d15e\U0001d15f", "\u2126\u212b",
    "tab\tand\nnewline", "trailing space ", "trailing newline\n", "\r\n\r\n windows\r\n", "CamelCaseWord snake_case_word kebab-case", "don't won't can't 'tis 'twas",
    "unaffable reading readings", "the and of to in a is that",
]

ALPHABET = ("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789" "      \n\n\t\r.,;:!?'\"()[]{}<>|/-_=+*&^%$#@~`"
            "éüßñçøåΩλджאبहิ日本語のです한국東京，。！①½Ⅷ👍🎉\u0301\u0308\u0323\u200b\u200d\u00a0\u3000\u2028▁Ġ\ufeff\u1100\u1161\u11a8\u212bﬁİ")
PARTS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<mask>", "<s>", "</s>", "<unk>", "the ", " and", "hello", "'s", "'ll", "word", " 123", "\n\n", "  ", "日本", "<pad>"]


def fuzz(n, seed):
    r = random.Random(seed)
    out = []
    for _ in range(n):
        out.append("".join(r.choice(PARTS) if r.random() < 0.2 else r.choice(ALPHABET) for _ in range(r.randint(1, 40))))
    return out


ALL = TEXTS + fuzz(120, 7)


def to_bytes(text, offsets):
    at = [0]
    for c in text:
        at.append(at[-1] + len(c.encode()))
    return [[at[a], at[b]] for a, b in offsets]


def golden(tok, texts):
    out = []
    for text in texts:
        a, b = tok.encode(text, add_special_tokens=False), tok.encode(text, add_special_tokens=True)
        out.append(dict(text=text, ids=a.ids, offsets=to_bytes(text, a.offsets), tokens=a.tokens, special_ids=b.ids, special_offsets=to_bytes(text, b.offsets),
                        special_tokens=b.tokens, type_ids=b.type_ids, mask=b.special_tokens_mask,
                        decoded=tok.decode(a.ids, skip_special_tokens=False), skipped=tok.decode(b.ids, skip_special_tokens=True)))
    return out


def put(name, value):
    with open(os.path.join(here, name + ".golden.json.gz"), "wb") as f:
        with gzip.GzipFile(filename="", mode="wb", fileobj=f, mtime=0) as z:
            z.write(json.dumps(value, ensure_ascii=False).encode())


def save(name, tok, texts=ALL):
    path = os.path.join(here, name, "tokenizer.json")
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        tok.save(path, pretty=False)
    put(name, golden(Tokenizer.from_file(path), texts))


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level(ignore_merges=False):
    """The byte-level BPE that the layouts below share."""
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(TRAINING, trainers.BpeTrainer(vocab_size=480, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
                                                        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"]))
    return t


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level_layouts():
    t = byte_level()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    save("gpt2", t)

    t = byte_level()
    t.add_tokens([AddedToken("<mask>", lstrip=True, special=True), AddedToken("word", single_word=True), AddedToken("<pad>", rstrip=True, normalized=False)])
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    t.post_processor = processors.RobertaProcessing(("<|im_end|>", 2), ("<|im_start|>", 1), trim_offsets=True, add_prefix_space=True)
    save("roberta", t)

    t = byte_level()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    save("smollm2", t)

    t = byte_level(ignore_merges=True)
    t.pre_tokenizer = split(LLAMA3)
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single="<|im_start|> $A", pair="<|im_start|> $A <|im_start|>:1 $B:1", special_tokens=[("<|im_start|>", 1)])])
    save("llama3", t)

    t = byte_level()
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = split(QWEN2)
    t.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False)
    save("qwen2", t)

    t = byte_level()  # an expression without a scanner of its own, and a piece that is neither first nor last
    t.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.Replace(Regex(r"\s+"), "  ")])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                                               pre_tokenizers.Digits(), pre_tokenizers.Split("Ġ", "merged_with_next")])
    save("falcon", t)

    t = byte_level()
    t.normalizer = normalizers.NFKC()
    t.pre_tokenizer = split(O200K)
    save("o200k", t)

    for name, unk in ("sparse", None), ("sparse_unk", "<unk>"):  # a vocabulary without all bytes, as SmolLM2's
        t = Tokenizer(models.BPE(unk_token=unk))
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        t.decoder = decoders.ByteLevel()
        t.train_from_iterator(TRAINING[:1], trainers.BpeTrainer(vocab_size=60, show_progress=False, special_tokens=["<unk>", "<s>"]))
        save(name, t)


def sentence_piece():
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.train_from_iterator(TRAINING, trainers.BpeTrainer(vocab_size=600, show_progress=False, limit_alphabet=60,
                                                        special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]))
    d = json.loads(t.to_str())
    d["added_tokens"] = [x for x in d["added_tokens"] if not x["content"].startswith("<0x")]
    d["decoder"] = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                                                     {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    t = Tokenizer.from_str(json.dumps(d))
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    save("llama2", t)
    d = json.loads(t.to_str())
    d["normalizer"] = None
    d["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    save("mistral", Tokenizer.from_str(json.dumps(d)))
    d["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    d["pre_tokenizer"] = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    d["decoder"]["decoders"].pop()
    save("gemma", Tokenizer.from_str(json.dumps(d)))
    d["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Replace", "pattern": {"String": "he"}, "content": "日x"}]}
    d["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    d["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    d["model"]["byte_fallback"] = False
    d["model"]["fuse_unk"] = False
    d["post_processor"] = None
    save("metaspace", Tokenizer.from_str(json.dumps(d)))


def others():
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    t.train_from_iterator(TRAINING, trainers.UnigramTrainer(vocab_size=180, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"], show_progress=False))
    t.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    save("unigram", t)

    t = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=60))
    t.normalizer = normalizers.BertNormalizer()
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    t.train_from_iterator(TRAINING, trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
    t.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    save("bert", t)

    t = Tokenizer(models.WordLevel(unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.train_from_iterator(TRAINING, trainers.WordLevelTrainer(vocab_size=120, special_tokens=["<unk>", "<s>"], show_progress=False))
    save("wordlevel", t)

    t = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>", continuing_subword_prefix="##"))
    t.normalizer = normalizers.Lowercase()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[a-z]+"), "removed", invert=True)])
    t.decoder = decoders.BPEDecoder()
    t.train_from_iterator(TRAINING, trainers.BpeTrainer(vocab_size=200, end_of_word_suffix="</w>", continuing_subword_prefix="##", special_tokens=["<unk>"], show_progress=False))
    save("bpe_suffix", t)


def with_charsmap():
    from make_components import CHARSMAP
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.Precompiled(CHARSMAP), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    t.train_from_iterator(TRAINING, trainers.UnigramTrainer(vocab_size=180, unk_token="<unk>", special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False))
    d = json.loads(t.to_str())
    d["model"]["byte_fallback"] = True
    d["model"]["vocab"] += [[f"<0x{b:02X}>", -20.0] for b in range(256)]
    d["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}]}
    t = Tokenizer.from_str(json.dumps(d))
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    save("xlmr", t)

    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.UnicodeScripts(), pre_tokenizers.WhitespaceSplit(), pre_tokenizers.FixedLength(6)])
    t.decoder = decoders.CTC(pad_token="<s>", word_delimiter_token="_", cleanup=True)
    t.train_from_iterator(TRAINING, trainers.BpeTrainer(vocab_size=200, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"]))
    t.add_tokens([AddedToken("word", normalized=True), AddedToken("<mask>", lstrip=True, rstrip=True, special=True)])
    save("ctc", t)


def smollm2_json(tokens, merges, types):
    """A tokenizer.json with the published components of SmolLM2."""
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [dict(id=i, content=s, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True) for i, s in enumerate(tokens) if types[i] == 3],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                              {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]},
            "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                      "byte_fallback": False, "ignore_merges": False, "vocab": {s: i for i, s in enumerate(tokens)}, "merges": merges}}


def tiny_gguf():
    """A GGUF file with nothing but the vocabulary of smollm2/tokenizer.json."""
    import gguf
    d = json.load(open(os.path.join(here, "smollm2", "tokenizer.json")))
    vocab = sorted(d["model"]["vocab"], key=d["model"]["vocab"].get)
    special = {a["content"] for a in d["added_tokens"]}
    w = gguf.GGUFWriter(os.path.join(here, "tiny.gguf"), "llama")
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("smollm")
    w.add_token_list(vocab + ["[PAD480]", "[PAD481]"])
    w.add_token_types([3 if s in special else 1 for s in vocab] + [5, 5])
    w.add_token_merges([" ".join(m) for m in d["model"]["merges"]])
    w.add_bos_token_id(1); w.add_eos_token_id(2); w.add_unk_token_id(0); w.add_pad_token_id(2)
    w.add_add_bos_token(False); w.add_add_space_prefix(False)
    w.add_chat_template("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
                        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
    w.write_header_to_file(); w.write_kv_data_to_file(); w.close()


def real_smollm2(path):
    import gguf
    f = gguf.GGUFReader(path).fields
    tokens, merges, types = (f["tokenizer.ggml." + k].contents() for k in ("tokens", "merges", "token_type"))
    tok = Tokenizer.from_str(json.dumps(smollm2_json(tokens, merges, types)))
    put("smollm2_real", golden(tok, ALL + fuzz(300, 11)))


byte_level_layouts()
sentence_piece()
others()
with_charsmap()
tiny_gguf()
if len(sys.argv) > 1:
    real_smollm2(sys.argv[1])
