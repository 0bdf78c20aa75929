"""Writes models/testdata/families/batch.json: greedy batches of prompts of different length by transformers' generate.

For every fixture of models/testdata/families: `prompts`; `alone`, what each gets by itself; `batched`, what they get together,
padded on the left; `smallest_margin`, the least difference of the two largest logits on the way, alone. The two differ only
where RoPE depends on the longest row of a batch (dynamic, longrope): `depends` names those fixtures.
"""

import copy
import json
import pathlib

import torch
import transformers
from transformers import AutoModelForCausalLM

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "models/testdata/families"
LENGTHS, NEW, VOCAB, TRIES = [13, 3, 24], 18, 67, 60


def generate(model, prompts):
    """New tokens of the prompts together, and the smallest margin. A copy runs: dynamic RoPE remembers."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    out = copy.deepcopy(model).generate(ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, eos_token_id=[], pad_token_id=0,
                                        output_logits=True, return_dict_in_generate=True)
    top = torch.stack(out.logits).float().topk(2).values
    return out.sequences[:, longest:].tolist(), (top[..., 0] - top[..., 1]).min().item()


def main():
    torch.set_num_threads(1)
    cases, depends = {}, []
    for path in sorted(FOLDER.glob("*/reference.json")):
        name = path.parent.name
        if name == "gemma3_vision":  # its language model alone is not what the folder loads as
            continue
        model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32).eval()
        for seed in range(TRIES):
            gen = torch.Generator().manual_seed(seed)
            prompts = [torch.randint(3, VOCAB, (n,), generator=gen).tolist() for n in LENGTHS]
            alone = [generate(model, [p]) for p in prompts]
            margin = min(m for _, m in alone)
            if margin > 2e-3:
                break
        else:
            raise SystemExit(f"{name}: no seed gives clear choices")
        batched, _ = generate(model, prompts)
        alone = [tokens[0] for tokens, _ in alone]
        if alone != batched:
            depends.append(name)
        cases[name] = dict(prompts=prompts, alone=alone, batched=batched, smallest_margin=margin)
        print(name, margin, "" if alone == batched else "depends on the batch")
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    (FOLDER / "batch.json").write_text(json.dumps(dict(versions=versions, depends=depends, cases=cases)) + "\n")


if __name__ == "__main__":
    main()
