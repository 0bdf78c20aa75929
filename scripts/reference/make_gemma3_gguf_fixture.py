"""Writes what other libraries make of the file of scripts/fetch-gemma3.sh:

models/testdata/gemma3_270m.sha256: of each tensor, the SHA-256 of its float32 values as gguf-py decodes them.
models/testdata/gemma3_270m.json: in transformers, float32, CPU: the negative log-likelihood of a text, its sum in nats over
all tokens but the first, and greedy continuations of some beginnings with the difference of the two largest logits at each
token.

Made with: gguf 0.19.0, numpy 2.4.6, torch and transformers as in the JSON's versions. Needs five minutes and 4 GB.
"""
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
import transformers
from gguf import GGUFReader
from gguf.quants import dequantize
from transformers import AutoModelForCausalLM, AutoTokenizer

root = Path(__file__).resolve().parents[2]
folder, name, out = root / ".cache/gemma3", "gemma-3-270m-q4_k_m.gguf", root / "models/testdata"

lines = []
for t in GGUFReader(folder / name).tensors:
    values = np.ascontiguousarray(dequantize(t.data, t.tensor_type).astype("<f4"))
    lines.append(f"{hashlib.sha256(values.tobytes()).hexdigest()}  {t.name}\n")
(out / "gemma3_270m.sha256").write_text("".join(lines))

# The opening of "Alice's Adventures in Wonderland" (Lewis Carroll, 1865), public domain.
TEXT = """\
Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or twice \
she had peeped into the book her sister was reading, but it had no pictures or conversations in it, "and what is the use \
of a book," thought Alice "without pictures or conversations?"

So she was considering in her own mind (as well as she could, for the hot day made her feel very sleepy and stupid), \
whether the pleasure of making a daisy-chain would be worth the trouble of getting up and picking the daisies, when \
suddenly a White Rabbit with pink eyes ran close by her.
"""
BEGINNINGS = ["The capital of France is", "Once upon a time, there was a", "2, 4, 6, 8,", "Die Hauptstadt von Österreich heißt"]

tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32, attn_implementation="eager").eval()


def logits(ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double()


ids = tokenizer(TEXT)["input_ids"]
nll = torch.nn.functional.cross_entropy(logits(ids)[:-1], torch.tensor(ids[1:]), reduction="sum")
continued = []
for text in BEGINNINGS:
    prompt = tokenizer(text)["input_ids"]
    greedy = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24, eos_token_id=[])[0].tolist()
    two = logits(greedy[:-1])[len(prompt) - 1:].topk(2, -1).values
    continued.append(dict(text=text, ids=prompt, greedy=greedy[len(prompt):], margins=[round(float(a - b), 5) for a, b in two],
                          continuation=tokenizer.decode(greedy[len(prompt):])))
(out / "gemma3_270m.json").write_text(json.dumps(dict(
    versions=dict(torch=torch.__version__, transformers=transformers.__version__),
    text=TEXT, ids=ids, nll=float(nll), continued=continued), indent=1, ensure_ascii=False) + "\n")
