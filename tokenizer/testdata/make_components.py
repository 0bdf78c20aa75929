"""Records what the Rust library makes of texts with every component and option of a tokenizer.json.

    python make_components.py

Needs tokenizers (written with 0.23.3) and sentencepiece (0.2.3, for a charsmap). Writes components.golden.json.gz: what each
normalizer, pre-tokenizer and decoder makes of odd texts; and encodings.golden.json.gz: whole encodings of texts, pairs and
words with truncation, padding and post-processors over the tokenizers that make_fixtures.py made; added.golden.json.gz: what adding tokens does to them.
Offsets of components are bytes of the UTF-8 text, those of encodings characters.
"""
import base64, gzip, io, json, os, tempfile
import sentencepiece
from tokenizers import Tokenizer, Regex, AddedToken, models, normalizers, pre_tokenizers, decoders, processors

here = os.path.dirname(os.path.abspath(__file__))

ODD = [
    "", " ", "   ", "\n", "\t \r\n", "a", "Hello, World!", "  Hello   there  ", "the quick (brown) fox's 12.5% -- jumps…",
    "e\u0301 \u00e9 a\u0323\u0302 q\u0307\u0323", "\u0301\u0302", "nai\u0308ve café CAFÉ Ünïcode", "\u1e9b\u0323 ﬁ ① ㌀ Å \u212b Ω ½ Ⅷ",
    "각 \u1100\u1161\u11a8", "日本語の文章です。東京ー、カタカナ！", "カ\u3099か\u3099", "中文字符abc漢字", "한국어 text", "русский язык, Ελληνικά",
    "👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 ❤️", "עברית العربية हिन्दी ไทย", "zero\u200bwidth\u200djoin\ufeff\u00ad", "non\u00a0breaking\u3000space\u2028line\u2029para",
    "a\x00b\x01c\x07d\x1b\x7f\x85\x9f", "\ufffd \U000e0001 \U0010ffff \ud7ff", "▁ under ▁▁score_", "Ġ Ċ <0x0A>", "İstanbul ΣΑΣ ß ẞ ǅ ŉ",
    "1٢٣४५ 12 345", "x\r\ny\rz", "k kx \u0001k", "ａＢｃ　ｄ", "camelCase snake_case kebab-case", "a,b;;c::d", "don't 'tis we'll", "   leading\ttabs\t\t",
]


def to_bytes(text, offsets):
    at = [0]
    for c in text:
        at.append(at[-1] + len(c.encode()))
    return [[at[a], at[b]] for a, b in offsets]


def part(name, component):
    """The component as tokenizer.json has it."""
    t = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    setattr(t, name, component)
    return json.loads(t.to_str())[name]


def charsmap():
    """A small table of replacements: longer, shorter, empty, of several characters."""
    rules = [("ﬁ", "fi"), ("①", "1"), ("㌀", "アパート"), ("e\u0301", "é"), ("\u212b", "\u00c5"), ("\r", " "), ("\u0001", ""), ("\u200b", ""), ("\u3000", " "),
             ("ａ", "a"), ("x\u0323\u0301", "y"), ("カ\u3099", "ガ"), ("…", "..."), ("ß", "ss"), ("k", ""), ("a\u0323", "ạ")]
    points = lambda s: " ".join("%X" % ord(c) for c in s)
    with tempfile.TemporaryDirectory() as d:
        with open(d + "/rules.tsv", "w") as f:
            f.write("\n".join(points(a) + "\t" + points(b) for a, b in rules))
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(["hello world", "the quick brown fox"] * 20), model_writer=model, vocab_size=40,
                                                 hard_vocab_limit=False, normalization_rule_tsv=d + "/rules.tsv", minloglevel=2)
    return field(field(model.getvalue(), 3), 2)  # ModelProto.normalizer_spec.precompiled_charsmap


def field(message, number):
    """A field of a protocol buffer that holds bytes."""
    at = 0

    def varint():
        nonlocal at
        n = shift = 0
        while True:
            b = message[at]
            at += 1
            n |= (b & 127) << shift
            shift += 7
            if b < 128:
                return n
    found = None
    while at < len(message):
        key = varint()
        if key & 7 == 0:
            varint()
        elif key & 7 == 1:
            at += 8
        elif key & 7 == 5:
            at += 4
        else:
            size = varint()
            if key >> 3 == number:
                found = message[at:at + size]
            at += size
    return found


CHARSMAP = charsmap()
N, P, D = normalizers, pre_tokenizers, decoders
NORMALIZERS = [
    N.NFC(), N.NFD(), N.NFKC(), N.NFKD(), N.Nmt(), N.StripAccents(), N.Lowercase(), N.ByteLevel(), N.Precompiled(CHARSMAP),
    N.Strip(), N.Strip(left=True, right=False), N.Strip(left=False, right=True), N.Prepend("▁"), N.Prepend("日本"), N.Replace(" ", "▁"), N.Replace("l", "LL"),
    N.Replace(Regex(r"\s+"), " "), N.Replace(Regex(r"[aeiou]"), ""), N.Replace(Regex("(?=t)"), "-"),
    *[N.BertNormalizer(clean_text=c, handle_chinese_chars=h, strip_accents=s, lowercase=l) for c in (True, False) for h in (True, False) for s in (None, True, False) for l in (True, False)],
    N.Sequence([N.NFD(), N.StripAccents(), N.Lowercase()]), N.Sequence([N.Strip(), N.Prepend("_"), N.Replace(" ", "__"), N.NFKC()]),
    N.Sequence([N.Precompiled(CHARSMAP), N.Replace(Regex(" {2,}"), " "), N.Lowercase()]), N.Sequence([N.Nmt(), N.Precompiled(CHARSMAP), N.Strip()]), N.Sequence([]),
]
BEHAVIORS = ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]
PRE_TOKENIZERS = [
    P.UnicodeScripts(), P.Whitespace(), P.WhitespaceSplit(), P.BertPreTokenizer(), P.Digits(), P.Digits(individual_digits=True), P.CharDelimiterSplit("-"), P.CharDelimiterSplit("日"),
    *[P.FixedLength(length=n) for n in (1, 2, 5)], *[P.Punctuation(b) for b in BEHAVIORS],
    *[P.Metaspace(replacement=r, prepend_scheme=s, split=c) for r in ("▁", "_") for s in ("always", "first", "never") for c in (True, False)],
    *[P.ByteLevel(add_prefix_space=a, use_regex=u) for a in (True, False) for u in (True, False)],
    *[P.Split(p, b, invert=i) for p in (" ", "e", Regex(r"\d+|[^\w\s]"), Regex(r"\w+")) for b in BEHAVIORS for i in (False, True)],
    P.Split(Regex(r"\p{Lu}\p{Ll}*|\p{Han}+"), "isolated"), P.Split(Regex(r"(?i:the|QUICK)\b"), "merged_with_next"),
    P.Sequence([P.UnicodeScripts(), P.WhitespaceSplit()]), P.Sequence([P.Whitespace(), P.Digits(True), P.FixedLength(3)]),
    P.Sequence([P.Metaspace(), P.Punctuation(), P.ByteLevel(False, use_regex=False)]), P.Sequence([]),
]
TOKENS = [
    [], [""], ["a"], ["▁Hello", "▁world"], ["Hello", "Ġworld", "!", "Ċ"], ["<0xE6>", "<0x97>", "<0xA5>", "x", "<0xE6>", "<0x97>", "<0x20>"], ["hel", "##lo", "##,", ".", "it", "'s", "n't", "do", "not"],
    ["h", "h", "<pad>", "e", "e", "l", "<pad>", "l", "o", "|", "|", "w", "<pad>", "<pad>", "a", " .", " '", "s"], ["low</w>", "est", "</w>", "a</w>b"], ["  a", "b  ", "   ", " c "], ["æ", "Ĺ", "¥", "æ"],
    ["##a", "##b", " do not", " n't", " 've", " 're", " 'm", " 's"], ["\ufffd", "é", "日本", "|日|", "▁▁", "_a_"], ["<0x0a>", "<0xZZ>", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "<0xFF>"],
]
DECODERS = [
    D.ByteLevel(), D.ByteFallback(), D.Fuse(), D.WordPiece(), D.WordPiece(prefix="▁", cleanup=False), D.WordPiece(cleanup=False), D.CTC(), D.CTC(pad_token="_", word_delimiter_token=" ", cleanup=False),
    D.CTC(cleanup=False), D.BPEDecoder(), D.BPEDecoder(suffix="o"), *[D.Metaspace(replacement=r, prepend_scheme=s) for r in ("▁", "_") for s in ("always", "first", "never")],
    D.Strip(" ", 1, 0), D.Strip(" ", 0, 2), D.Strip("a", 1, 1), D.Replace("▁", " "), D.Replace(Regex("[aeiou]+"), "*"),
    D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)]), D.Sequence([D.ByteLevel(), D.CTC()]), D.Sequence([]),
]


def components():
    out = []
    for n in NORMALIZERS:
        t = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
        t.normalizer, t.pre_tokenizer = n, P.FixedLength(1)
        out.append(dict(kind="normalizer", config=part("normalizer", n), cases=[dict(text=s, pieces=[n.normalize_str(s)], offsets=to_bytes(s, t.encode(s).offsets)) for s in ODD]))
    for p in PRE_TOKENIZERS:
        cases = []
        for s in ODD:
            pieces = p.pre_tokenize_str(s)
            cases.append(dict(text=s, pieces=[a for a, _ in pieces], offsets=to_bytes(s, [o for _, o in pieces])))
        out.append(dict(kind="pre_tokenizer", config=part("pre_tokenizer", p), cases=cases))
    for d in DECODERS:
        out.append(dict(kind="decoder", config=part("decoder", d), cases=[dict(tokens=t, text=decoded(d, t)) for t in TOKENS]))
    return out


def decoded(d, tokens):
    """null where the library crashes: Strip does with a token that is shorter than what it strips."""
    try:
        return d.decode(tokens)
    except BaseException:
        return None


TEXTS = [("", None), (" ", None), ("Hello world, the quick brown fox isn't here.", None), ("日本 👨‍👩‍👧 cafe\u0301", None), ("", ""), ("a", ""), ("", "the end"),
         ("What is this?", "The lazy dog runs."), ("the the the and", "日 of"), ("  a  b ", " 12 <s> word ")]
WORDS = [([], None), (["Hello"], None), (["Hello", " the", "", "日本", "to-in "], None), (["the", "big fox"], ["is", "12"])]
SPECIAL = {"bert": ("[CLS]", "[SEP]"), "roberta": ("<|im_start|>", "<|im_end|>"), "llama3": ("<|im_start|>", "<|im_end|>"), "mistral": ("<s>", "</s>"),
           "unigram": ("<s>", "</s>"), "wordlevel": ("<s>", "<unk>")}


def post_processors(tok, name):
    a, b = SPECIAL[name]
    x, y = (a, tok.token_to_id(a)), (b, tok.token_to_id(b))
    template = processors.TemplateProcessing(single=f"{a} $A {b}", pair=f"{a} $A {b} $B:1 {b}:1", special_tokens=[x, y])
    return [
        None, template, processors.TemplateProcessing(single=f"$A:3 {b}:2", pair=f"{a}:7 $B:5 {b} $A:2", special_tokens=[x, y]),
        processors.TemplateProcessing(single=f"{a} {b}", pair=f"$A {b} $A:1 $B", special_tokens=[x, y]),
        processors.BertProcessing(y, x), processors.RobertaProcessing(y, x), processors.RobertaProcessing(y, x, trim_offsets=True, add_prefix_space=False),
        processors.ByteLevel(trim_offsets=True, add_prefix_space=False), processors.Sequence([processors.ByteLevel(trim_offsets=True), template]),
        processors.Sequence([template, processors.ByteLevel(trim_offsets=True)]), processors.Sequence([processors.RobertaProcessing(y, x), processors.ByteLevel()]),
    ]


TRUNCATIONS = [None] + [dict(max_length=m, stride=s, strategy=g, direction=d) for m, s, g, d in [
    (6, 0, "longest_first", "right"), (7, 2, "longest_first", "left"), (8, 1, "only_first", "right"), (8, 0, "only_second", "right"), (12, 3, "only_second", "left"), (2, 0, "longest_first", "right"), (4, 0, "longest_first", "left")]]
PADDINGS = [None, dict(), dict(length=9), dict(length=16, direction="left", pad_id=2, pad_type_id=1, pad_token="<p>"), dict(pad_to_multiple_of=8), dict(length=5, pad_to_multiple_of=4, direction="left")]


def whole(e):
    """An encoding with the first three parts of what overflows; its offsets are characters, because which text they are inside is not always said."""
    none = lambda ids: [-1 if i is None else i for i in ids]
    return dict(ids=e.ids, type_ids=e.type_ids, tokens=e.tokens, offsets=e.offsets, mask=e.special_tokens_mask, attention=e.attention_mask,
                words=none(e.word_ids), sequences=none(e.sequence_ids), parts=len(e.overflowing), overflowing=[whole(o) for o in e.overflowing[:3]])


def find(e, texts):
    """For every sequence: the token of every character, and the tokens and characters of every word, -1 for none."""
    none = lambda v: [-1, -1] if v is None else list(v)
    return [dict(chars=[-1 if (t := e.char_to_token(i, s)) is None else t for i in range(len(text) + 1)],
                 words=[none(e.word_to_tokens(w, s)) + none(e.word_to_chars(w, s)) for w in range(8)]) for s, text in enumerate(texts)]


def encodings():
    out, k = [], 0
    for name in SPECIAL:
        tok = Tokenizer.from_file(os.path.join(here, name, "tokenizer.json"))
        for n, post in enumerate(post_processors(tok, name)):
            for m, trunc in enumerate(TRUNCATIONS):
                k += 1
                pad = PADDINGS[k % len(PADDINGS)]
                tok.post_processor = post
                tok.no_truncation()
                tok.no_padding()
                if trunc:
                    try:
                        tok.enable_truncation(**trunc)
                    except BaseException:
                        continue  # a stride for which the special tokens leave no room
                if pad is not None:
                    tok.enable_padding(**pad)
                d = json.loads(tok.to_str())
                cases = []
                for q, (a, b) in enumerate(TEXTS + WORDS):
                    if q % 3 != k % 3:  # a third of the texts for every setting
                        continue
                    words = isinstance(a, list)
                    for add in (True, False):
                        case = dict(words=a if words else None, text=None if words else a, pair_words=b if words else None, pair=None if words else b, add=add)
                        try:
                            e = tok.encode(a, b, is_pretokenized=words, add_special_tokens=add)
                            case["encoding"] = whole(e)
                            if not trunc and not words:
                                case["find"] = find(e, [a] if b is None else [a, b])
                        except BaseException as e:
                            case["error"] = str(e)
                        cases.append(case)
                out.append(dict(base=name, fields={f: d[f] for f in ("truncation", "padding", "post_processor")}, cases=cases))
    return out


ADDED = [
    [dict(content="<x>"), dict(content="word", single_word=True), dict(content="<l>", lstrip=True), dict(content="<r>", rstrip=True), dict(content="<n>", normalized=False)],
    [dict(content="<sp>", special=True, normalized=False), dict(content="<SP2>", special=True, normalized=True, lstrip=True, rstrip=True), dict(content="")],
    [dict(content="the"), dict(content="Hello", normalized=False, single_word=True), dict(content="<x>", special=True), dict(content="<x>", special=True)],
    [dict(content="日本", single_word=True), dict(content="cafe\u0301"), dict(content="<x><l>", normalized=False, rstrip=True, lstrip=True)],
]
ADDED_TEXTS = ["", "a <x> b", "word wordy aword word. word", "a  <l>  b<l>", "a  <r>  b<r>", "<n><N> <n>", "<sp> <SP2> <sp2>  x", "the then other the", "Hello hello HelloHello Hello", "日本語 日本 の日本",
               "caf\u00e9 cafe\u0301", "  a    b  ", " <x><l>  <x> <l><r>  ", "<s> </s> [CLS] <|im_start|> <x", "\u0301<x>\u0301"]


def added():
    out = []
    for name in ("bert", "llama3", "llama2", "metaspace", "wordlevel", "sparse_unk", "unigram", "qwen2"):
        tok = Tokenizer.from_file(os.path.join(here, name, "tokenizer.json"))
        calls = []
        for tokens in ADDED:
            count = tok.add_tokens([AddedToken(t["content"], **{"normalized": True, **{k: v for k, v in t.items() if k != "content"}}) for t in tokens])
            full = [{"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False, **t} for t in tokens]
            cases = []
            for s in ADDED_TEXTS:
                e = tok.encode(s)
                cases.append(dict(text=s, ids=e.ids, tokens=e.tokens, offsets=to_bytes(s, e.offsets), decoded=tok.decode(e.ids, skip_special_tokens=False), skipped=tok.decode(e.ids)))
            calls.append(dict(tokens=full, count=count, ids=[tok.token_to_id(t["content"]) if t["content"] else -1 for t in tokens], size=tok.get_vocab_size(), cases=cases))
        tok.encode_special_tokens = True
        plain = [tok.encode(s).ids for s in ADDED_TEXTS]
        tok.encode_special_tokens = False
        out.append(dict(base=name, calls=calls, plain=plain, saved=json.loads(tok.to_str())["added_tokens"]))
    return out


def put(name, value):
    with open(os.path.join(here, name + ".golden.json.gz"), "wb") as f:
        with gzip.GzipFile(filename="", mode="wb", fileobj=f, mtime=0) as z:
            z.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


if __name__ == "__main__":
    put("components", components())
    put("encodings", encodings())
    put("added", added())
