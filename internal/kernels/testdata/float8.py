"""Writes float8.json: how torch rounds float32 numbers to float8_e4m3fn.

    python internal/kernels/testdata/float8.py

bits are float32 numbers as integers: every finite number of float8 and its negative, the middle to the next one and its neighbours in
float32, and random ones from far below the smallest number to the largest. bytes are what torch makes of them.
"""

import json
import pathlib

import torch

codes = torch.arange(127, dtype=torch.uint8)
numbers = codes.view(torch.float8_e4m3fn).float()
middles = (numbers[1:] + numbers[:-1]) / 2
big = torch.full_like(middles, torch.inf)
edges = torch.cat([numbers, middles, middles.nextafter(big), middles.nextafter(-big)])
generator = torch.Generator().manual_seed(8)
spread = torch.exp2(torch.rand(600, generator=generator) * 22 - 14)
wild = torch.randn(600, generator=generator) * spread
values = torch.cat([edges, -edges, wild[wild.abs() <= 448]])
out = {
    "versions": {"torch": torch.__version__},
    "bits": [v & 0xFFFFFFFF for v in values.view(torch.int32).tolist()],
    "bytes": values.to(torch.float8_e4m3fn).view(torch.uint8).tolist(),
}
pathlib.Path(__file__).with_name("float8.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")
