"""Writes models/testdata/gemma3_270m.sha256: of each tensor of the file, the SHA-256 of its values as gguf-py decodes them.

Made with: gguf 0.19.0, numpy 2.4.6. Needs scripts/fetch-gemma3.sh.
"""
import hashlib
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

root = Path(__file__).resolve().parents[2]
reader = GGUFReader(root / ".cache/gemma3/gemma-3-270m-q4_k_m.gguf")
lines = []
for t in reader.tensors:
    values = np.ascontiguousarray(dequantize(t.data, t.tensor_type).astype("<f4"))
    lines.append(f"{hashlib.sha256(values.tobytes()).hexdigest()}  {t.name}\n")
(root / "models/testdata/gemma3_270m.sha256").write_text("".join(lines))
