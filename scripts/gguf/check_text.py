"""Compares what scripts/gguf wrote, read by llama.cpp and by the gguf package, with what Loris computes: the perplexity of a
fixed text and greedy texts, of the base and with the LoRA adapter as GGUF.

    usage: check_text.py OUT [--gguf]

--gguf decodes the base with the gguf package and runs it in transformers (Llama architecture). Perplexities must be within 1e-3
of each other, and a greedy text equal up to the first token whose logit is ahead of the next by less than 0.02; within 3e-3 and
0.5 where llama.cpp rounds activations to eight bits: all types but F32, F16 and BF16.

Made with: llama-cpp-python 0.3.36 (pip builds it with cmake), gguf 0.19.0, transformers 5.24.0.
"""
import json
import sys

import numpy as np

out = sys.argv[1]
want = json.load(open(f"{out}/texts.json"))


def llama_cpp(form):
    """Functions that return the logits [tokens, vocab] of ids, and a greedy continuation."""
    from llama_cpp import Llama

    llama = Llama(f"{out}/base.gguf", lora_path=f"{out}/adapter.gguf" if form == "tuned" else None, n_ctx=512, logits_all=True, verbose=False,
                  n_threads=2)

    def logits(ids):
        llama.reset()
        llama.eval(ids)
        return np.array(llama.scores[: len(ids)], np.float64)

    def greedy(prompt, n):
        llama.reset()
        llama.eval(prompt)
        ids = []
        while True:
            ids.append(int(np.argmax(llama.scores[llama.n_tokens - 1])))
            if len(ids) == n:
                return ids
            llama.eval(ids[-1:])

    return logits, greedy


def gguf_package():
    sys.path.insert(0, f"{__file__.rpartition('/')[0]}/../reference")
    import torch
    from smollm2 import GGUF

    model = GGUF(f"{out}/base.gguf").model()

    def logits(ids):
        return model(torch.tensor([ids])).logits[0].detach().double().numpy()

    def greedy(prompt, n):
        ids, mask = torch.tensor([prompt]), torch.ones(1, len(prompt), dtype=torch.long)
        # min_new_tokens would keep the end of the text from being chosen
        return model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=n, eos_token_id=-1)[0, len(prompt):].tolist()

    return logits, greedy


def perplexity(logits, ids):
    logits = logits[:-1]
    top = logits.max(1, keepdims=True)
    log_probs = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
    return float(np.exp(-log_probs[np.arange(len(ids) - 1), ids[1:]].mean()))


failed = False
reader = "gguf" if "--gguf" in sys.argv else "llama.cpp"
coarse = reader == "llama.cpp" and want["type"] not in ("", "f32", "f16", "bf16")
margin, limit = (0.5, 3e-3) if coarse else (0.02, 1e-3)
for form in ["base"] if reader == "gguf" else ["base", "tuned"]:
    logits, greedy = gguf_package() if reader == "gguf" else llama_cpp(form)
    got, ours = perplexity(logits(want["ids"]), want["ids"]), want["perplexity"][form]
    print(f"{reader}, {form}: perplexity {got:.4f}, Loris {ours:.4f}, {abs(got / ours - 1):.1e} apart")
    failed |= not abs(got / ours - 1) < limit
    for c in (c for c in want["greedy"] if c["form"] == form):
        ids = greedy(c["prompt"], len(c["ids"]))
        clear = next((i for i, m in enumerate(c["margin"]) if m < margin), len(c["ids"]))
        equal = next((i for i, (a, b) in enumerate(zip(ids, c["ids"])) if a != b), len(ids))
        print(f"  {equal} of {len(ids)} greedy tokens equal, the first near-tie at {clear}: {c['text'][:50]!r}")
        failed |= equal < clear
sys.exit(failed)
