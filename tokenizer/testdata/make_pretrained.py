"""Records what transformers makes of folders with a tokenizer.json and the files beside it.

    python make_pretrained.py          writes pretrained.golden.json.gz (written with transformers 5.24.0)
    python make_pretrained.py A B ...  checks that A and B, and every further pair, are folders with the same tokenizer: ids,
                                       special tokens, chats
"""
import gzip, json, os, sys, tempfile
import transformers
from transformers import AutoTokenizer

transformers.logging.set_verbosity_error()
here = os.path.dirname(os.path.abspath(__file__))
TEXTS = ["", "Hello world", "a</s> <pad>x <z> <q>", "<s>the <img> quick<vid>  fox .", "it ' s a dog , isn ' t it ?", "日本語 cafe\u0301 👍🏽", "[CLS] the [SEP] [PAD] [MASK]", "<|im_start|>user\nHi<|im_end|>"]
PAIRS = [["What is this?", "The lazy dog runs."], ["the the the and", ""]]
TOKEN = dict(lstrip=False, rstrip=False, single_word=False, normalized=False, special=False)
C = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>")
B = dict(tokenizer_class="PreTrainedTokenizerFast", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]", mask_token="[MASK]")
TEMPLATE = "{% for m in messages %}{{ bos_token }}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}{{ sep_token }}>{{ image_token }}{% endif %}"
TRUNCATION = dict(max_length=3, stride=0, strategy="OnlyFirst", direction="Left")
PADDING = dict(strategy=dict(Fixed=9), direction="Left", pad_id=2, pad_type_id=1, pad_token="</s>", pad_to_multiple_of=None)
CASES = [  # base, changes of tokenizer.json, other files
    ("llama2", {}, {}),
    ("llama2", {}, {"tokenizer_config.json": C}),
    ("llama2", {}, {"tokenizer_config.json": dict(C, pad_token="<pad>", model_max_length=77, padding_side="left", truncation_side="left")}),
    ("llama2", {}, {"tokenizer_config.json": dict(C, pad_token=None), "special_tokens_map.json": dict(eos_token="<unk>", pad_token="a", mask_token=dict(TOKEN, content="<z>", lstrip=True))}),
    ("llama2", {}, {"tokenizer_config.json": dict(C, added_tokens_decoder={}), "special_tokens_map.json": dict(eos_token="<unk>", pad_token="<pad>")}),
    ("llama2", {}, {"tokenizer_config.json": dict(C, pad_token="</s>", added_tokens_decoder={"601": dict(TOKEN, content="<z>", lstrip=True), "600": dict(TOKEN, content="<q>", special=True), "2": dict(TOKEN, content="</s>", rstrip=True, special=True)})}),
    ("llama2", dict(added_tokens=[]), {"tokenizer_config.json": dict(C, unk_token="<unk>")}),
    ("llama2", {}, {"tokenizer_config.json": dict(C, extra_special_tokens=["<z>", "a", "<q>"], pad_token="<pad>")}),
    ("llama2", {}, {"tokenizer_config.json": dict(C, additional_special_tokens=["<z>"], image_token="<img>", vid_token="<vid>", add_bos_token=False), "chat_template.jinja": TEMPLATE}),
    ("llama2", {}, {"tokenizer_config.json": dict(C, extra_special_tokens=dict(vid_token="<vid>", image_token="<img>"), chat_template=TEMPLATE)}),
    ("llama2", {}, {"tokenizer_config.json": dict(C, pad_token=dict(TOKEN, __type="AddedToken", content="<pad>", lstrip=True, normalized=True))}),
    ("llama2", {}, {"special_tokens_map.json": dict(eos_token="</s>", pad_token=dict(content="<pad>", lstrip=False, normalized=False, rstrip=True, single_word=False), additional_special_tokens=["<z>"])}),
    ("llama2", dict(truncation=TRUNCATION, padding=PADDING), {"tokenizer_config.json": C}),
    ("llama2", {}, {"tokenizer_config.json": dict(C, split_special_tokens=True, pad_token="<unk>")}),
    ("llama2", {}, {"tokenizer_config.json": dict(C, clean_up_tokenization_spaces=True), "added_tokens.json": {"<q>": 600, "</s>": 2, "<z>": 601}}),
    ("bert", {}, {"tokenizer_config.json": dict(B, pad_token="[PAD]", clean_up_tokenization_spaces=True, model_max_length=12)}),
    ("bert", {}, {"tokenizer_config.json": dict(B, pad_token="[UNK]", clean_up_tokenization_spaces=False)}),
    ("unigram", {}, {"tokenizer_config.json": dict(C, clean_up_tokenization_spaces=True, pad_token="<pad>")}),
    ("smollm2", {}, {"tokenizer_config.json": dict(tokenizer_class="GPT2Tokenizer", bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<|endoftext|>", additional_special_tokens=["<|im_start|>", "<|im_end|>"],
                      chat_template=[dict(name="default", template=TEMPLATE), dict(name="tool_use", template="T" + TEMPLATE)])}),
    ("smollm2", {}, {"tokenizer_config.json": dict(C, bos_token="<|im_start|>", eos_token="<|im_end|>", chat_template=[dict(name="default", template="D"), dict(name="tool_use", template="T")]), "chat_template.jinja": TEMPLATE}),
    ("smollm2", {}, {"tokenizer_config.json": dict(C, bos_token="<|im_start|>", eos_token="<|im_end|>"), "chat_template.jinja": TEMPLATE, "additional_chat_templates/tool_use.jinja": "tools " + TEMPLATE, "additional_chat_templates/rag.jinja": "rag " + TEMPLATE}),
]
CALLS = [dict(padding="longest"), dict(padding="max_length", max_length=9), dict(padding="longest", pad_to_multiple_of=8), dict(truncation=True, max_length=6), dict(truncation="only_second", max_length=8, padding="longest"),
         dict(truncation="longest_first", max_length=7, stride=1, return_overflowing_tokens=True), dict(truncation="only_first", max_length=9, padding="max_length", padding_side="left"), dict(truncation=True)]
MESSAGES = [dict(role="user", content="Hi"), dict(role="assistant", content="Hello </s>")]


def folder(base, changes, files):
    d = tempfile.mkdtemp()
    document = json.load(open(os.path.join(here, base, "tokenizer.json")))
    document.update(changes)
    for name, value in dict(files, **{"tokenizer.json": document}).items():
        os.makedirs(os.path.dirname(os.path.join(d, name)), exist_ok=True)
        with open(os.path.join(d, name), "w") as f:
            f.write(value if isinstance(value, str) else json.dumps(value))
    return d


def call(tok, pairs, options):
    try:
        e = tok([a for a, _ in pairs], [b for _, b in pairs], return_token_type_ids=True, return_special_tokens_mask=True, **options)
    except Exception as error:
        return dict(error=type(error).__name__)
    return dict(ids=e["input_ids"], types=e["token_type_ids"], attention=e["attention_mask"], special=e["special_tokens_mask"])


def chats(tok):
    out = {}
    for name, options in dict(plain={}, prompt=dict(add_generation_prompt=True), tools=dict(tools=[dict(type="function")]), rag=dict(chat_template="rag"), text=dict(chat_template="{{ eos_token }}!")).items():
        try:
            out[name] = tok.apply_chat_template(MESSAGES, tokenize=False, **options)
        except Exception:
            out[name] = None
    return out


def describe(d):
    tok = AutoTokenizer.from_pretrained(d)
    ids = [tok(t).input_ids for t in TEXTS]
    long = tok.model_max_length > 10**12
    return dict(size=len(tok), special=tok.special_tokens_map, max_length=0 if long else tok.model_max_length, padding_side=tok.padding_side, truncation_side=tok.truncation_side, ids=ids,
                decoded=[tok.decode(i) for i in ids], skipped=[tok.decode(i, skip_special_tokens=True) for i in ids], calls=[call(tok, PAIRS, o) for o in CALLS], chats=chats(tok),
                all_special=sorted(i for i, t in tok.added_tokens_decoder.items() if t.special))


if len(sys.argv) > 1:
    for first, second in zip(sys.argv[1::2], sys.argv[2::2]):
        a, b = describe(first), describe(second)
        for key in a:
            if a[key] != b[key]:
                sys.exit(f"{first} and {second}: {key}: {a[key]!r}, {b[key]!r}")
else:
    out = [dict(base=base, changes=changes, files={n: v if isinstance(v, str) else json.dumps(v) for n, v in files.items()}, want=describe(folder(base, changes, files))) for base, changes, files in CASES]
    with open(os.path.join(here, "pretrained.golden.json.gz"), "wb") as f:
        with gzip.GzipFile(filename="", mode="wb", fileobj=f, mtime=0) as z:
            z.write(json.dumps(dict(texts=TEXTS, pairs=PAIRS, calls=CALLS, cases=out), ensure_ascii=False).encode())
