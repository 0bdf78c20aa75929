"""The bitsandbytes NF4 round trip of a float32 model, for the reference scripts."""

import bitsandbytes.functional as bnb_functional
import torch


def through_nf4(model):
    """Replaces the weight of every block linear by quantize → dequantize in float32; head, embedding and norms stay.

    Blocks of 64 over the flattened [out, in] weight, absmax double-quantized: what BitsAndBytesConfig(load_in_4bit=True,
    bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True) computes with. Returns name → relative error.
    """
    errors = {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2 and ".layers." in name and ".lora_" not in name:
                packed, state = bnb_functional.quantize_4bit(p.data, blocksize=64, compress_statistics=True, quant_type="nf4")
                back = bnb_functional.dequantize_4bit(packed, state)
                errors[name] = float((back.double() - p.double()).norm() / p.double().norm())
                p.copy_(back)
    return errors
