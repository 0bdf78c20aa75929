"""Writes the fixtures of the tests: files of safetensors, a sharded folder of transformers, roundings of torch.

Made with: safetensors 0.8.0, torch 2.15.0, transformers 5.24.0. Run it in this folder.
"""
import json
import os
import shutil

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

g = torch.Generator().manual_seed(1)


def ints(dtype, *shape):
    return torch.randint(0, 100, shape, generator=g).to(dtype)


def floats(dtype, *shape):
    return torch.randn(shape, generator=g).to(dtype)


# Every dtype that torch can save, scalars, empty tensors, names that need escaping, odd lengths.
tensors = {
    "z.weight": floats(torch.float32, 3, 5),
    "a.weight": floats(torch.float32, 7),
    "model.layers.10.w": floats(torch.bfloat16, 2, 3),
    "model.layers.2.w": floats(torch.bfloat16, 3, 1, 1),
    "half": floats(torch.float16, 5),
    "double": floats(torch.float64, 2),
    "complex": torch.randn(2, generator=g, dtype=torch.complex64),
    "i64": ints(torch.int64, 3),
    "i32": ints(torch.int32, 3),
    "i16": ints(torch.int16, 3),
    "i8": ints(torch.int8, 3),
    "u64": ints(torch.uint64, 3),
    "u32": ints(torch.uint32, 3),
    "u16": ints(torch.uint16, 3),
    "u8": ints(torch.uint8, 5, 1),
    "bool": ints(torch.bool, 3),
    "f8_e4m3": floats(torch.float8_e4m3fn, 3),
    "f8_e5m2": floats(torch.float8_e5m2, 3),
    "f8_e4m3fnuz": floats(torch.float8_e4m3fnuz, 3),
    "f8_e5m2fnuz": floats(torch.float8_e5m2fnuz, 3),
    "f8_e8m0": torch.tensor([1.0, 2.0, 4.0]).to(torch.float8_e8m0fnu),
    "scalar": torch.tensor(1.5),
    "empty.b": torch.zeros(0, 4),
    "empty.a": torch.zeros(3, 0),
    'quote" back\\slash': torch.zeros(1),
    "control\x01\x1f\b\f\n\r\t\x7f": torch.zeros(1),
    "ünïcode ▁😀 \u2028 <&>": torch.zeros(1),
    "": torch.zeros(1),
}
save_file(tensors, "dtypes.safetensors", metadata={"format": "pt"})
save_file({"w": floats(torch.float32, 2, 2)}, "no_metadata.safetensors")
# (Without tensors and with empty metadata, safetensors 0.8.0 writes a header that is no JSON.)
save_file({}, "no_tensors.safetensors", metadata={"format": "pt"})

# What torch's conversions give, for 2000 numbers of all magnitudes and some of their ties.
bits = torch.randint(-(2**31), 2**31, (2000,), generator=g).to(torch.int32)
bits[1000:] = (bits[1000:] & ~0xFFFF) | 0x8000  # ties of bfloat16
bits[1500:] = torch.randint(0x33000000, 0x47800000, (500,), generator=g).to(torch.int32) & ~0xFFF  # ties of float16, subnormal too
x = bits.view(torch.float32)
x = x[~x.isnan()].contiguous()
save_file(
    {"f32": x, "f16": x.to(torch.float16), "bf16": x.to(torch.bfloat16), "f64": x.to(torch.float64)},
    "roundings.safetensors",
)

# A model folder in shards; order.json is the order of the state dict, which decides the split.
config = LlamaConfig(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, vocab_size=50
)
torch.manual_seed(1)
model = LlamaForCausalLM(config)
shutil.rmtree("sharded", ignore_errors=True)
model.save_pretrained("sharded", max_shard_size="8KB")
for name in ("config.json", "generation_config.json"):
    os.remove(f"sharded/{name}")
with open("sharded/order.json", "w") as f:
    json.dump(list(model.state_dict()), f, indent=1)
