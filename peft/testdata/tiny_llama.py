"""The tiny Llama that the fixtures are adapters of: 3 layers, 21 linears, grouped-query attention, untied head."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

NAME = "loris-ml/tiny-llama"


def tiny_llama():
    torch.manual_seed(5)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=20, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=32, tie_word_embeddings=False)).eval()
    model.name_or_path = model.config._name_or_path = NAME
    return model
