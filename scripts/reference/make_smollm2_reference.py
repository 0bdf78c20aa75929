#!/usr/bin/env python3
"""Writes internal/reference/testdata/smollm2/reference.json: SmolLM2-135M-Instruct in transformers and peft, float32, CPU.

    scripts/fetch-smollm2.sh
    python scripts/reference/make_smollm2_reference.py [--gguf FILE] [--faq FILE] [--out FILE] [--threads N]

First greedy continuations of five chats and the perplexity of a fixed text, in a minute; then two LoRA curves of 36
steps (dense base, NF4 base), a quarter of an hour on two cores. Without the question-answer file of --faq the curves are
skipped and the ones already in --out are kept. Fields are described in internal/reference/README.md.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import sys
import time

import bitsandbytes
import gguf
import jinja2
import numpy
import peft
import tokenizers
import torch
import transformers
from peft import LoraConfig, get_peft_model

from nf4 import through_nf4
from smollm2 import GGUF

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
IGNORE, NEW_TOKENS = -100, 48
TRAIN_ROWS, HELD_OUT_ROWS, BATCH, EPOCHS, MAX_LENGTH = 48, 16, 4, 3, 256
R, ALPHA, LEARNING_RATE, MAX_GRAD_NORM = 8, 16, 2e-4, 1.0
LINEARS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
           "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]

CHATS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": "Write a short poem about the sea."}],
    [{"role": "system", "content": "You are a patient maths teacher."},
     {"role": "user", "content": "What is 1234 + 56, and why does 2026 have 4 digits?"}],
    [{"role": "user", "content": "Name three fruits."},
     {"role": "assistant", "content": "Apple, banana and cherry."},
     {"role": "user", "content": "Now explain in two sentences how one of them grows."}],
    [{"role": "user", "content": "Explique-moi en français ce qu’est une « goroutine » 🙂, s’il te plaît:\n\n```go\ngo func() { x[0] += 1 }()\n```"}],
]

# The opening of "Alice's Adventures in Wonderland" (Lewis Carroll, 1865), public domain.
TEXT = """\
Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or twice \
she had peeped into the book her sister was reading, but it had no pictures or conversations in it, "and what is the use \
of a book," thought Alice "without pictures or conversations?"

So she was considering in her own mind (as well as she could, for the hot day made her feel very sleepy and stupid), \
whether the pleasure of making a daisy-chain would be worth the trouble of getting up and picking the daisies, when \
suddenly a White Rabbit with pink eyes ran close by her.

There was nothing so very remarkable in that; nor did Alice think it so very much out of the way to hear the Rabbit say \
to itself, "Oh dear! Oh dear! I shall be late!" (when she thought it over afterwards, it occurred to her that she ought \
to have wondered at this, but at the time it all seemed quite natural); but when the Rabbit actually took a watch out of \
its waistcoat-pocket, and looked at it, and then hurried on, Alice started to her feet, for it flashed across her mind \
that she had never before seen a rabbit with either a waistcoat-pocket, or a watch to take out of it, and burning with \
curiosity, she ran across the field after it, and fortunately was just in time to see it pop down a large rabbit-hole \
under the hedge.

In another moment down went Alice after it, never once considering how in the world she was to get out again.

The rabbit-hole went straight on like a tunnel for some way, and then dipped suddenly down, so suddenly that Alice had \
not a moment to think about stopping herself before she found herself falling down a very deep well.

Either the well was very deep, or she fell very slowly, for she had plenty of time as she went down to look about her \
and to wonder what was going to happen next. First, she tried to look down and make out what she was coming to, but it \
was too dark to see anything; then she looked at the sides of the well, and noticed that they were filled with cupboards \
and book-shelves; here and there she saw maps and pictures hung upon pegs. She took down a jar from one of the shelves \
as she passed; it was labelled "ORANGE MARMALADE", but to her great disappointment it was empty: she did not like to \
drop the jar for fear of killing somebody underneath, so managed to put it into one of the cupboards as she fell past it.
"""


def versions():
    return dict(python=platform.python_version(), torch=torch.__version__, transformers=transformers.__version__,
                peft=peft.__version__, bitsandbytes=bitsandbytes.__version__, tokenizers=tokenizers.__version__,
                gguf=getattr(gguf, "__version__", "0.19.0"), jinja2=jinja2.__version__, numpy=numpy.__version__)


def greedy(source, tokenizer, model, messages):
    """Continues a chat by argmax for NEW_TOKENS tokens, or to the end-of-turn token inclusive."""
    text = source.render(messages, True)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
                         max_new_tokens=NEW_TOKENS, pad_token_id=source.eos, eos_token_id=source.eos)[0]
    with torch.no_grad():  # without a cache, and all at once: the cached generation must have followed the argmax
        logits = model(out[None]).logits[0, len(ids) - 1 : -1].double()
    continued = out[len(ids):]
    assert torch.equal(logits.argmax(-1), continued), "cached and uncached argmax differ"
    two = logits.topk(2, -1).values
    top = logits[0].topk(8)
    return dict(messages=messages, text=text, ids=ids, greedy_ids=continued.tolist(),
                greedy_text=tokenizer.decode(continued.tolist(), skip_special_tokens=False),
                smallest_margin=float((two[:, 0] - two[:, 1]).min()),
                first_token=dict(ids=top.indices.tolist(), logits=rounded(top.values.tolist(), 6),
                                 logsumexp=round(float(logits[0].logsumexp(-1)), 6)))


def rounded(values, digits):
    return [round(v, digits) for v in values]


def perplexity(tokenizer, model):
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    tokens = torch.tensor([ids])
    with torch.no_grad():
        logits = model(tokens).logits[0, :-1].double()
    nll = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")
    return dict(text=TEXT, ids=ids, nll_sum=float(nll.sum()), count=len(ids) - 1, perplexity=math.exp(float(nll.mean())),
                token_nll=rounded(nll.tolist(), 5))


def mix64(x):
    """splitmix64's output function of x, on numpy uint64."""
    x = x + numpy.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return x ^ (x >> numpy.uint64(31))


def initial_a(module, r, width):
    """A of linear number `module`, [r, width]: uniform in ±1/sqrt(width) by a hash of (module, element), in float32."""
    element = numpy.arange(r * width, dtype=numpy.uint64)
    with numpy.errstate(over="ignore"):
        bits = mix64((numpy.uint64(module) << numpy.uint64(32)) + element)
    unit = (bits >> numpy.uint64(40)).astype(numpy.float32) * numpy.float32(2.0**-23) - numpy.float32(1)
    return torch.from_numpy((unit * numpy.float32(1 / math.sqrt(width))).reshape(r, width))


def adapt(model):
    """LoRA on every block linear with the hashed A and B = 0; returns the model and (name, A, B) in module order."""
    tuned = get_peft_model(model, LoraConfig(r=R, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"))
    named = dict(tuned.named_parameters())
    pairs = []
    for layer in range(model.config.num_hidden_layers):
        for linear in LINEARS:
            path = f"model.layers.{layer}.{linear}"
            a, b = (named[f"base_model.model.{path}.lora_{x}.default.weight"] for x in "AB")
            with torch.no_grad():
                a.copy_(initial_a(len(pairs), R, a.shape[1]))
            assert float(b.detach().abs().max()) == 0
            pairs.append((path, a, b))
    assert 2 * len(pairs) == sum(p.requires_grad for p in named.values())
    return tuned, pairs


def batches_of(rows, pad):
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        longest = max(map(len, batch))
        ids = torch.tensor([r + [pad] * (longest - len(r)) for r in batch])
        mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in batch])
        yield ids, mask, torch.where(mask == 1, ids, IGNORE)


def nll(model, batch):
    ids, mask, labels = batch
    logits = model(input_ids=ids, attention_mask=mask).logits
    total = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE,
                                              reduction="sum")
    return total, int((labels[:, 1:] != IGNORE).sum())


def held_out_loss(model, rows, pad):
    with torch.no_grad():
        sums = [(float(s), n) for s, n in (nll(model, b) for b in batches_of(rows, pad))]
    return sum(s for s, _ in sums) / sum(n for _, n in sums)


def train(label, model, rows, pad):
    tuned, pairs = adapt(model)
    start = [a.detach().clone() for _, a, _ in pairs]
    params = [p for _, a, b in pairs for p in (a, b)]
    optimizer = torch.optim.AdamW(params, lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, foreach=False)
    train_rows, held_out = rows[:TRAIN_ROWS], rows[TRAIN_ROWS:]
    doc = dict(held_out_loss_before=held_out_loss(tuned, held_out, pad), loss=[], grad_norm=[], label_tokens=[])
    for epoch in range(EPOCHS):
        for batch in batches_of(train_rows, pad):
            began = time.time()
            optimizer.zero_grad()
            total, count = nll(tuned, batch)
            loss = total / count
            loss.backward()
            norm = float(torch.nn.utils.clip_grad_norm_(params, MAX_GRAD_NORM, foreach=False))
            optimizer.step()
            doc["loss"].append(float(loss.detach()))
            doc["grad_norm"].append(norm)
            doc["label_tokens"].append(count)
            print(f"{label} step {len(doc['loss'])}: loss {doc['loss'][-1]:.5f} norm {norm:.4f} tokens {count} "
                  f"({time.time() - began:.1f} s)", file=sys.stderr, flush=True)
    doc["held_out_loss_after"] = held_out_loss(tuned, held_out, pad)
    doc["final_b_norm"] = rounded([float(b.detach().double().norm()) for _, _, b in pairs], 7)
    doc["final_a_change_norm"] = rounded([float((a.detach() - s).double().norm()) for (_, a, _), s in zip(pairs, start)], 7)
    return doc


def lora(source, tokenizer, faq):
    with open(faq) as f:
        conversations = [row["messages"] for row in json.load(f)[: TRAIN_ROWS + HELD_OUT_ROWS]]
    rows = [tokenizer.encode(source.render(m, False), add_special_tokens=False).ids[:MAX_LENGTH] for m in conversations]
    runs = {}
    for label in ("fp32", "nf4"):
        model = source.model()
        if label == "nf4":
            through_nf4(model)
        runs[label] = train(label, model, rows, source.eos)
    a = {f"{m}": [float(v) for v in initial_a(m, R, w).flatten()[:4]] for m, w in ((0, 576), (6, 1536), (209, 1536))}
    return dict(r=R, lora_alpha=ALPHA, target_modules="all-linear", module_order=LINEARS, lr=LEARNING_RATE, weight_decay=0.0,
                betas=[0.9, 0.999], eps=1e-8, max_grad_norm=MAX_GRAD_NORM, batch_size=BATCH, epochs=EPOCHS,
                max_length=MAX_LENGTH, pad_id=source.eos, train_rows=[0, TRAIN_ROWS],
                held_out_rows=[TRAIN_ROWS, TRAIN_ROWS + HELD_OUT_ROWS], initial_a_first_values=a, rows=rows, runs=runs)


def to_json(value, indent=0):
    """Objects one field per line, lists of objects one object per entry, other lists on one line."""
    pad = "  " * indent
    if isinstance(value, dict) and value:
        return "{\n" + ",\n".join(f"{pad}  {json.dumps(k)}: {to_json(v, indent + 1)}" for k, v in value.items()) + f"\n{pad}}}"
    if isinstance(value, list) and value and all(isinstance(v, dict) and "ids" in v for v in value):
        return "[" + ", ".join(to_json(v, indent) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def write(path, doc):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".tmp", "w") as f:
        f.write(to_json(doc) + "\n")
    os.replace(path + ".tmp", path)
    print(f"wrote {path} ({os.path.getsize(path) / 1e3:.0f} kB)", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", default=os.path.join(ROOT, ".cache", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    parser.add_argument("--faq", default=os.path.join(ROOT, "..", "shared", "testdata", "faq_en.json"))
    parser.add_argument("--out", default=os.path.join(ROOT, "internal", "reference", "testdata", "smollm2", "reference.json"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if not os.path.exists(args.gguf):
        sys.exit(f"{args.gguf} is absent: run scripts/fetch-smollm2.sh first")
    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()

    source = GGUF(os.path.abspath(args.gguf))
    tokenizer, model = source.tokenizer(), source.model()
    with open(args.gguf, "rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    doc = dict(what="SmolLM2-135M-Instruct.Q4_1.gguf, dequantized to float32", gguf_sha256=digest, versions=versions(),
               chats=[greedy(source, tokenizer, model, m) for m in CHATS], perplexity=perplexity(tokenizer, model))
    del model
    if os.path.exists(args.out):
        with open(args.out) as f:
            before = json.load(f)
        if "lora" in before:
            doc["lora"] = before["lora"]
    write(args.out, doc)
    if not os.path.exists(args.faq):
        print(f"SKIPPED the LoRA curves: {args.faq} is absent", file=sys.stderr)
        return
    doc["lora"] = lora(source, tokenizer, args.faq)
    write(args.out, doc)


if __name__ == "__main__":
    main()
