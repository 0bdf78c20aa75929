"""Writes types.gguf, types.safetensors with what gguf-py decodes from it, and values.safetensors with what it quantized:
the fixtures of gguf_test.go and write_test.go.

Made with: gguf 0.19.0, safetensors 0.8.0, numpy 2.4.6. Run it in this folder.
"""
import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

rng = np.random.default_rng(20260101)
w = gguf.GGUFWriter("types.gguf", "llama")
w.add_custom_alignment(64)
w.add_uint8("test.u8", 200)
w.add_int8("test.i8", -100)
w.add_uint16("test.u16", 60000)
w.add_int16("test.i16", -30000)
w.add_uint32("test.u32", 4_000_000_000)
w.add_int32("test.i32", -2_000_000_000)
w.add_uint64("test.u64", 2**64 - 1)
w.add_int64("test.i64", -(2**62))
w.add_float32("test.f32", 1e-5)
w.add_float64("test.f64", 1e-300)
w.add_bool("test.true", True)
w.add_bool("test.false", False)
w.add_string("test.string", "héllo\n{{ x }}")
w.add_array("test.strings", ["<s>", "", "▁the"])
w.add_array("test.ints", [1, -2, 3])
w.add_array("test.floats", [0.5, -1.25])
w.add_array("test.bools", [True, False, True])
w.add_array("test.bytes", bytes([0, 128, 255]))


def scales(n):
    """Every finite half, sign, zero and subnormal included, is as likely as any other."""
    bits = rng.integers(0, 1 << 16, n, dtype=np.uint16)
    bits[(bits & 0x7C00) == 0x7C00] ^= 0x4000
    return bits.view(np.uint8).reshape(n, 2)


def blocks(shape, qtype, n_scales):
    """Random codes with random scales: also what no quantizer would write."""
    elements, size = gguf.GGML_QUANT_SIZES[qtype]
    n = int(np.prod(shape)) // elements
    parts = [scales(n) for _ in range(n_scales)]
    parts.append(rng.integers(0, 256, (n, size - 2 * n_scales), dtype=np.uint8))
    return np.concatenate(parts, axis=1).reshape(*shape[:-1], shape[-1] // elements * size)


def superblocks(shape, qtype):
    """As blocks, of the K types: the scales of the whole superblock are the last halves, or the first ones."""
    elements, size = gguf.GGML_QUANT_SIZES[qtype]
    n = int(np.prod(shape)) // elements
    raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
    at = {T.Q2_K: (80, 82), T.Q3_K: (108,), T.Q4_K: (0, 2), T.Q5_K: (0, 2), T.Q6_K: (208,)}[qtype]
    for i in at:
        raw[:, i:i + 2] = scales(n)
    return raw.reshape(*shape[:-1], shape[-1] // elements * size)


data, source = {}, {}
for qtype in (T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q8_0, T.Q5_0, T.Q5_1):
    name = qtype.name.lower()
    x = rng.standard_normal((5, 96), dtype=np.float32)
    data[f"{name}.weight"], source[f"{name}.weight"] = (quantize(x, qtype), qtype), x
    n_scales = {T.Q4_0: 1, T.Q4_1: 2, T.Q8_0: 1, T.Q5_0: 1, T.Q5_1: 2}.get(qtype)
    if n_scales:
        data[f"{name}.random"] = (blocks((3, 7, 64), qtype, n_scales), qtype)
data["f16.random"] = (scales(1 << 10).view(np.float16).reshape(-1), T.F16)
data["f32.weight"] = (rng.standard_normal((3, 1, 5), dtype=np.float32), T.F32)
data["norm.weight"] = (rng.standard_normal(7, dtype=np.float32), T.F32)

data["iq4_nl.random"] = (blocks((3, 7, 64), T.IQ4_NL, 1), T.IQ4_NL)
for qtype in (T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K):
    data[f"{qtype.name.lower()}.random"] = (superblocks((3, 512), qtype), qtype)

expected = {}
for name, (raw, qtype) in data.items():
    w.add_tensor(name, raw, raw_dtype=qtype)
    values = dequantize(raw, qtype)
    expected[name] = np.ascontiguousarray(values)
# Types that the reader names but does not decode.
w.add_tensor("iq3_s.weight", rng.integers(0, 256, (2, 110), dtype=np.uint8), raw_dtype=T.IQ3_S)
w.add_tensor("i32.weight", np.arange(6, dtype=np.int32).reshape(2, 3))

w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
save_file(expected, "types.safetensors")
save_file({k: v for k, v in source.items() if k[:4] in ("f16.", "bf16", "q8_0", "q4_0")}, "values.safetensors")
