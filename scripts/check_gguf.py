"""Loads what scripts/gguf wrote into llama.cpp and compares logits: base, base with the adapter, merged; and the ids of a
text, where the file has a tokenizer.

    usage: check_gguf.py OUT [LIMIT]      LIMIT of ‖a−b‖/‖b‖, default 1e-2

What llama.cpp does otherwise shows: it has no window for Mistral and Phi-3, and takes yarn's betas from its caller.

Made with: llama-cpp-python 0.3.36 (pip builds it with cmake).
"""
import json
import sys

import numpy as np
from llama_cpp import Llama

out, limit = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 1e-2
want = json.load(open(f"{out}/logits.json"))
failed = False
for name, file, adapter, key in (("base", "base", None, "base"), ("adapter", "base", "adapter", "tuned"), ("merged", "merged", None, "tuned")):
    llama = Llama(f"{out}/{file}.gguf", lora_path=adapter and f"{out}/{adapter}.gguf", n_ctx=64, logits_all=True, verbose=False, n_threads=1,
                  yarn_attn_factor=-1.0, yarn_beta_fast=-1.0, yarn_beta_slow=-1.0)  # as the file says
    llama.eval(want["ids"])
    got, ref = np.array(llama.scores[: len(want["ids"])]), np.array(want[key])
    error = np.linalg.norm(got - ref) / np.linalg.norm(ref)
    same = np.mean(got.argmax(1) == ref.argmax(1))
    print(f"{name}: error {error:.2e}, same most likely token at {same:.0%}")
    failed |= not error < limit
    if "text" in want and name == "base":
        ids = llama.tokenize(want["text"].encode(), add_bos=False, special=True)
        print("tokenizer:", "the same ids" if ids == want["text_ids"] else f"{ids}, not {want['text_ids']}")
        failed |= ids != want["text_ids"]
sys.exit(failed)
