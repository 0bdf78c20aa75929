"""Times the Rust library on the text of BenchmarkPublishedEncode of package tokenizer: one core, one text at a time.

    speed.py TOKENIZERS TESTDATA [CORE]      TESTDATA has faq_en.json and faq_ja.json
"""
import glob
import json
import os
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"], os.environ["RAYON_NUM_THREADS"] = "false", "1"
from tokenizers import Tokenizer, __version__  # noqa: E402

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
NAMES = "llama3 qwen3 gpt2 smollm2_like gpt4o gemma3 mistral03_like llama2".split()
RUNS = 5


def texts(testdata):
    out = []
    for name in "faq_en.json", "faq_ja.json":
        with open(os.path.join(testdata, name), encoding="utf-8") as f:
            out += [m["content"] for row in json.load(f) for m in row["messages"]]
    for name in sorted(glob.glob(os.path.join(ROOT, "internal", "jinja", "*.go"))):
        with open(name, encoding="utf-8") as f:
            out.append(f.read())
    return out


def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def main():
    tokenizers, testdata = sys.argv[1:3]
    os.sched_setaffinity(0, {int(sys.argv[3]) if len(sys.argv) > 3 else 0})
    all_texts = texts(testdata)
    size = sum(len(t.encode()) for t in all_texts)
    print(f"tokenizers {__version__}, {len(all_texts)} texts, {size} bytes, best of {RUNS}")
    for name in NAMES:
        file = os.path.join(tokenizers, name, "tokenizer.json")
        load = min(seconds(lambda: Tokenizer.from_file(file)) for _ in range(3))
        tok = Tokenizer.from_file(file)
        one = min(seconds(lambda: [tok.encode(t, add_special_tokens=False) for t in all_texts]) for _ in range(RUNS))
        batch = min(seconds(lambda: tok.encode_batch_fast(all_texts, add_special_tokens=False)) for _ in range(RUNS))
        print(f"{name:16} load {load * 1e3:5.0f} ms   encode {size / one / 1e6:5.2f} MB/s   encode_batch_fast {size / batch / 1e6:5.2f} MB/s", flush=True)


if __name__ == "__main__":
    main()
