"""Writes models/testdata/sampling.json: what transformers' logits processors make of random logits."""

import json
import pathlib

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

OUT = pathlib.Path(__file__).resolve().parents[2] / "models/testdata/sampling.json"
SETTINGS = [
    {},
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 1.2, "temperature": 1.7, "top_k": 11, "top_p": 0.9, "min_p": 0.05},
    {"top_p": 0.0001},
]


def main():
    generator = torch.Generator().manual_seed(7)
    cases = []
    for vocab in (37, 101):
        config = LlamaConfig(vocab_size=vocab, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                             num_attention_heads=1, num_key_value_heads=1)
        model = AutoModelForCausalLM.from_config(config)
        for setting in SETTINGS:
            logits = torch.randn(1, vocab, generator=generator) * 2
            seen = torch.randint(vocab, (1, 9), generator=generator)
            options = GenerationConfig(do_sample=True, **{"top_k": 0, **setting})
            processors = model._get_logits_processor(options, input_ids_seq_length=9, device="cpu")
            probabilities = processors(seen, logits.clone()).softmax(-1)
            cases.append({"settings": setting, "seen": seen[0].tolist(), "logits": logits[0].tolist(),
                          "probabilities": probabilities[0].tolist()})
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    OUT.write_text(json.dumps({"versions": versions, "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
