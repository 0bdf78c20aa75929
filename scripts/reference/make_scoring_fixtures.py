"""Writes internal/reference/testdata/scoring.json: log-probabilities of tokens and strided perplexities by transformers and PEFT.

Perplexity is the recipe of transformers' documentation ("Perplexity of fixed-length models"), word for word. Model folders are
relative to the repository; a case with `adapter` has the adapter folder applied by PEFT.
"""

import json
import pathlib

import peft
import torch
import transformers
from transformers import AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[2]
LLAMA = "internal/reference/testdata/llama_a"
CASES = [(LLAMA, None), (LLAMA, LLAMA + "/adapter"), ("models/testdata/families/gemma3_types", None),
         ("models/testdata/families/qwen3_window", None)]
WINDOWS = [(64, 16), (64, 64), (37, 11), (32, 31), (200, 50)]  # max_length and stride; 64 and 64 leave one token at the end


def perplexity(model, ids, max_length, stride):
    seq_len = ids.size(1)
    nll_sum, n_tokens, prev_end_loc = 0.0, 0, 0
    for begin_loc in range(0, seq_len, stride):
        end_loc = min(begin_loc + max_length, seq_len)
        trg_len = end_loc - prev_end_loc
        input_ids = ids[:, begin_loc:end_loc]
        target_ids = input_ids.clone()
        target_ids[:, :-trg_len] = -100
        num_valid_tokens = (target_ids != -100).sum().item()
        num_loss_tokens = num_valid_tokens - 1
        if num_loss_tokens > 0:  # the recipe multiplies 0 by a loss that is not a number
            nll_sum += model(input_ids, labels=target_ids).loss.double() * num_loss_tokens
        n_tokens += num_loss_tokens
        prev_end_loc = end_loc
        if end_loc == seq_len:
            break
    return torch.exp(nll_sum / n_tokens).item()


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    cases = []
    for folder, adapter in CASES:
        model = AutoModelForCausalLM.from_pretrained(ROOT / folder, dtype=torch.float32).eval()
        vocab = model.config.vocab_size
        if adapter:
            model = peft.PeftModel.from_pretrained(model, ROOT / adapter).eval()
        gen = torch.Generator().manual_seed(11)
        ids = torch.randint(3, vocab, (1, 129), generator=gen)
        rows = [torch.randint(3, vocab, (n,), generator=gen).tolist() for n in (19, 2, 41)]
        longest = max(map(len, rows))
        padded = torch.tensor([r + [0] * (longest - len(r)) for r in rows])
        mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows])
        scores = model(padded, attention_mask=mask).logits.float().log_softmax(-1)
        log_probs = [[scores[i, j, t].item() for j, t in enumerate(r[1:])] for i, r in enumerate(rows)]
        cases.append(dict(model=folder, adapter=adapter or "", rows=rows, log_probs=log_probs, ids=ids[0].tolist(), perplexities=[
            dict(max_length=m, stride=s, value=perplexity(model, ids, m, s)) for m, s in WINDOWS]))
    versions = {"transformers": transformers.__version__, "torch": torch.__version__, "peft": peft.__version__}
    (ROOT / "internal/reference/testdata/scoring.json").write_text(json.dumps(dict(versions=versions, cases=cases)) + "\n")


if __name__ == "__main__":
    main()
