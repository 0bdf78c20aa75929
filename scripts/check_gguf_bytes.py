"""Compares the bytes of a GGUF file that Loris wrote with what gguf-py makes of the file that it was loaded from.

    usage: check_gguf_bytes.py WRITTEN SOURCE      both GGUF

Made with: gguf 0.19.0, numpy 2.4.6.
"""
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize, quantize

written, source = (GGUFReader(path) for path in sys.argv[1:3])
tensors = {t.name: t for t in source.tensors}
other = []
for t in written.tensors:
    s = tensors.pop(t.name)
    want = quantize(dequantize(s.data, s.tensor_type), t.tensor_type)
    if not np.array_equal(np.ascontiguousarray(want).view(np.uint8).ravel(), np.ascontiguousarray(t.data).view(np.uint8).ravel()):
        other.append(f"{t.name} ({t.tensor_type.name})")
print(f"{len(written.tensors)} tensors, other bytes: {other}, missing: {sorted(tensors)}")
sys.exit(bool(other or tensors))
