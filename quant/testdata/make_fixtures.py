"""Writes bitsandbytes.json, what bitsandbytes' CPU backend makes of generated tensors, for the tests of package quant.

    python make_fixtures.py        # in an environment with the versions that the file records

Inputs are not stored: generate() is a counter-based generator that the Go tests repeat bit for bit (its hash is in the
file). Small results are stored whole, all as SHA-256 of their little-endian bytes.
"""
import base64
import hashlib
import json
import os
import platform

import bitsandbytes
import bitsandbytes.functional as bnb
import numpy as np
import torch
import transformers

torch.set_num_threads(1)  # torch.mean of 32768 values or more depends on the number of threads
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def splitmix(seed, n):
    """The first n outputs of splitmix64 from seed, uint64."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def generate(kind, seed, n, scale):
    """float32 [n]; every step is exact or one float64 rounding, so that any language gets the same bits."""
    r = splitmix(seed, 4 * n).reshape(n, 4)
    u = (r >> np.uint64(11)).astype(np.float64) * 2.0**-53  # uniform [0, 1)
    x = (u[:, 0] + u[:, 1] + u[:, 2] + u[:, 3] - 2.0) * scale  # close to normal
    i = np.arange(n)
    if kind == "uniform":
        x = (u[:, 0] - 0.5) * scale
    elif kind == "outliers":
        x = np.where(u[:, 1] < 1 / 256, x * 50, x)
    elif kind == "zeroblocks":
        x = np.where((i // 64) % 3 == 1, 0.0, x)
    elif kind == "zeros":
        x = x * 0.0
    elif kind == "positive":
        x = np.abs(x)
    elif kind == "signs":  # every magnitude the same
        x = np.where(u[:, 0] < 0.5, -scale, scale)
    elif kind == "boundaries":  # exact midpoints of codes, and their float32 neighbours, in blocks whose absmax is scale
        code = np.sort(bnb.get_4bit_type("nf4" if seed % 2 == 0 else "fp4", device="cpu").numpy())
        mid = ((code[:-1] + code[1:]) / np.float32(2)).astype(np.float32)
        m = mid[(r[:, 0] % np.uint64(15)).astype(np.int64)]
        step = (r[:, 1] % np.uint64(3)).astype(np.int64)
        m = np.where(step == 0, m, np.where(step == 1, np.nextafter(m, np.float32(-2)), np.nextafter(m, np.float32(2))))
        return (np.where(i % 32 == 0, np.float32(1), m) * np.float32(scale)).astype(np.float32)  # scale: a power of two
    elif kind == "grid":  # few distinct values: ties among absmax
        x = np.floor(u[:, 0] * 16.0 - 8.0) * scale
    elif kind != "normal":
        raise ValueError(kind)
    return x.astype(np.float32)


def sha(a):
    return hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest()


def b64(a):
    return base64.b64encode(np.ascontiguousarray(a).tobytes()).decode()


def bits(t):
    """numpy array of t's bits (numpy has no bfloat16)."""
    return t.contiguous().view(torch.int16 if t.element_size() == 2 else torch.int32).numpy()


def case(kind, seed, shape, scale, dtype, quant_type, blocksize, double_quant, whole):
    n = int(np.prod(shape))
    w = torch.from_numpy(generate(kind, seed, n, scale)).to(DTYPES[dtype]).reshape(shape)
    packed, state = bnb.quantize_4bit(w, blocksize=blocksize, quant_type=quant_type, compress_statistics=double_quant)
    values = bnb.dequantize_4bit(packed, state)
    out = {"kind": kind, "seed": seed, "shape": list(shape), "scale": scale, "dtype": dtype, "quant_type": quant_type,
           "blocksize": blocksize, "double_quant": double_quant, "input_sha256": sha(bits(w)),
           "packed_sha256": sha(packed.numpy()), "absmax_sha256": sha(state.absmax.numpy()),
           "values_sha256": sha(bits(values))}
    if whole:
        out["packed"], out["absmax"] = b64(packed.numpy()), b64(state.absmax.numpy())
    if double_quant:
        out["nested_absmax"] = b64(state.state2.absmax.numpy())
        out["offset"] = int(state.offset.reshape(1).view(torch.int32).item()) & 0xFFFFFFFF
        decoded = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
        out["decoded_sha256"] = sha(decoded.numpy())
    return out


def cases():
    stored = [  # whole results: 26 tensors of about 20 kB at most
        ("normal", 1, (64, 64), 0.02, "float32"), ("normal", 2, (96, 128), 1.0, "bfloat16"),
        ("outliers", 3, (48, 200), 0.05, "float16"), ("uniform", 4, (33, 65), 2.0, "float32"),
        ("boundaries", 6, (64, 64), 0.5, "float32"), ("boundaries", 7, (64, 64), 0.5, "float32"),
        ("zeroblocks", 8, (40, 64), 0.1, "bfloat16"), ("signs", 9, (1, 130), 3.0, "float32"),
        ("grid", 10, (128, 96), 0.25, "float16"), ("positive", 11, (7, 63), 1e-3, "float32"),
        ("zeros", 12, (3, 50), 1.0, "float32"), ("normal", 13, (1, 1), 1.0, "float32"),
        ("normal", 14, (160, 128), 1e-4, "bfloat16"),
    ]
    for i, (kind, seed, shape, scale, dtype) in enumerate(stored):
        for j, qt in enumerate(("nf4", "fp4")):
            blocksize = 64 if j == 0 else (32, 64, 128, 256, 512)[i % 5]
            yield case(kind, seed, shape, scale, dtype, qt, blocksize, (i + j) % 2 == 0, True)
    seed = 100  # hashes only: every blocksize and dtype, double quantization, odd and even sizes
    for blocksize in (32, 64, 128, 256, 512, 1024, 2048, 4096):
        for dtype in DTYPES:
            for qt in ("nf4", "fp4"):
                for shape in ((256, 300), (1, 3 * blocksize + 1), (5, 2 * blocksize), (blocksize - 1, 7)):
                    kind = ("normal", "outliers", "uniform", "zeroblocks", "grid", "boundaries")[seed % 6]
                    scale = 0.125 if kind == "boundaries" else (0.02, 1.0, 7e-5, 40.0)[seed % 4]
                    yield case(kind, seed, shape, scale, dtype, qt, blocksize, True, False)
                    seed += 1
    for kind, shape, scale, qt in (  # extremes, and sizes of real layers
        ("normal", (31, 64), 1e-41, "nf4"), ("normal", (31, 66), 1e-41, "fp4"), ("normal", (1, 30), 1e-44, "nf4"),
        ("normal", (64, 64), 1e36, "nf4"), ("normal", (64, 64), 1e36, "fp4"), ("zeros", (200, 128), 1.0, "nf4"),
        ("zeros", (200, 128), 1.0, "fp4"), ("zeros", (11, 9), 1.0, "fp4"), ("signs", (128, 128), 0.5, "nf4"),
        ("normal", (576, 576), 0.04, "nf4"), ("normal", (1536, 576), 0.04, "nf4"), ("outliers", (1024, 2048), 0.02, "nf4"),
        ("normal", (2048, 2048), 0.02, "nf4"),
    ):
        yield case(kind, seed, shape, scale, "float32", qt, 64, True, False)
        seed += 1


def means():
    """Bits of torch.mean at many lengths, of positive values as absmax are."""
    lengths = list(range(1, 700)) + [s % 32767 + 1 for s in (splitmix(77, 300) >> np.uint64(8)).astype(np.int64).tolist()]
    lengths += [32767, 32768, 65536, 100003, 262144, 1 << 20]
    got = [torch.from_numpy(generate("positive", n, n, 0.1)).mean().reshape(1) for n in lengths]
    return {"lengths": lengths, "bits": b64(torch.cat(got).numpy())}


def state_dicts():
    """What a checkpoint holds for a weight, with the names and order of QuantState.as_dict(packed=True)."""
    for seed, (shape, dtype, quant_type, double_quant, scale, storage) in enumerate([
        ((48, 64), "bfloat16", "nf4", True, 0.05, "uint8"), ((7, 9), "float32", "fp4", False, 1.0, "uint8"),
        ((300, 400), "float16", "nf4", True, 0.02, "bfloat16"), ((64, 128), "bfloat16", "nf4", True, 2e-5, "float32"),
        ((64, 64), "float32", "fp4", True, 3e20, "uint8"), ((4, 32), "float32", "nf4", False, 1.0, "float64"),
    ], 500):
        w = torch.from_numpy(generate("normal", seed, int(np.prod(shape)), scale)).to(DTYPES[dtype]).reshape(shape)
        packed, state = bnb.quantize_4bit(w, quant_type=quant_type, compress_statistics=double_quant,
                                          quant_storage=getattr(torch, storage))
        tensors = {"": packed, **{"." + k: v for k, v in state.as_dict(packed=True).items()}}
        names = {torch.uint8: "U8", torch.float32: "F32", torch.bfloat16: "BF16", torch.float64: "F64"}
        yield {"kind": "normal", "seed": seed, "shape": list(shape), "scale": scale, "dtype": dtype,
               "quant_type": quant_type, "double_quant": double_quant, "storage": storage,
               "tensors": {k: {"dtype": names[v.dtype], "shape": list(v.shape), "data": b64(v.contiguous().view(torch.uint8).numpy())}
                           for k, v in tensors.items()}}


def blockwise():
    """quantize_blockwise with both dynamic maps: every blocksize and dtype, odd sizes, extremes."""
    seed = 900
    for blocksize in (64, 128, 256, 512, 1024, 2048, 4096):
        for signed in (True, False):
            for dtype in DTYPES:
                for kind, n, scale in (("normal", 3 * blocksize + 17, 0.02), ("zeroblocks", 5000, 1.0), ("outliers", 2 * blocksize, 1e-4),
                                       ("normal", blocksize - 1, 1e-41)):
                    if scale == 1e-41 and (dtype != "float32" or blocksize != 256):
                        continue
                    x = generate(kind, seed, n, scale)
                    x = torch.from_numpy(x if signed else np.abs(x)).to(DTYPES[dtype])
                    code = bnb.create_dynamic_map(signed)
                    codes, state = bnb.quantize_blockwise(x, code=code, blocksize=blocksize)
                    values = bnb.dequantize_blockwise(codes, state).float()
                    yield {"kind": kind, "seed": seed, "shape": [n], "scale": scale, "dtype": dtype, "signed": signed,
                           "blocksize": blocksize, "packed_sha256": sha(codes.numpy()), "absmax_sha256": sha(state.absmax.numpy()),
                           "values_sha256": sha(values.to(DTYPES[dtype]).float().numpy())}
                    seed += 1


def int8():
    """The weights of Linear8bitLt and what they decode to; the last case whole, as a checkpoint has it."""
    import bitsandbytes.nn

    for seed, (kind, shape, scale, dtype) in enumerate([
        ("normal", (64, 64), 0.02, "float32"), ("normal", (33, 65), 1.0, "bfloat16"), ("outliers", (7, 129), 0.05, "float16"),
        ("zeroblocks", (40, 64), 0.1, "bfloat16"), ("grid", (16, 100), 0.25, "float16"), ("signs", (1, 130), 3.0, "float32"),
        ("normal", (300, 257), 1e-6, "float32"), ("uniform", (5, 1), 2.0, "float32"), ("normal", (128, 1024), 9000.0, "bfloat16"),
        ("normal", (9, 21), 0.02, "bfloat16"),
    ], 1200):
        w = torch.from_numpy(generate(kind, seed, int(np.prod(shape)), scale)).to(DTYPES[dtype]).reshape(shape)
        layer = bitsandbytes.nn.Linear8bitLt(shape[1], shape[0], bias=False, has_fp16_weights=False)
        layer.weight = bitsandbytes.nn.Int8Params(w, requires_grad=False, has_fp16_weights=False)
        layer = layer.to("cpu")
        cb, scb = layer.weight.data, layer.weight.SCB
        values = bnb.int8_vectorwise_dequant(cb, scb)
        out = {"kind": kind, "seed": seed, "shape": list(shape), "scale": scale, "dtype": dtype,
               "input_sha256": sha(bits(w)), "packed_sha256": sha(cb.numpy()), "absmax_sha256": sha(scb.numpy()),
               "values_sha256": {d: sha(bits(values.to(DTYPES[d]))) for d in DTYPES}}
        if shape == (9, 21):
            names = {torch.uint8: "U8", torch.float32: "F32", torch.int8: "I8"}
            out["tensors"] = {k: {"dtype": names[v.dtype], "shape": list(v.shape), "data": b64(v.contiguous().numpy())}
                              for k, v in layer.state_dict().items()}
        yield out


def skips():
    from transformers.quantizers.quantizers_utils import should_convert_module

    modules = ["lm_head", "model.lm_head", "my_lm_head", "model.embed_tokens", "lm_head.inner", "model.layers.1.mlp.gate",
               "model.layers.1.mlp.gate_proj", "model.layers.11.mlp.gate", "model.layers.1.self_attn.q_proj", "model",
               "model.layers.11.self_attn.q_proj", "model.decoder.layers.23.fc1", "fc1", "vision_tower.layers.0.fc1"]
    for patterns in (["lm_head"], [], ["model.layers.1"], ["model.layers.*"], ["model.layers.1."], ["gate"], ["q_proj", "fc1"],
                     [r"model\.layers\.\d\.mlp"], ["model|vision_tower"], ["mlp.gate"], [r".*\.mlp\.gate"], ["vision_tower."],
                     ["lm_head", "model.layers.1.self_attn"], [r"model.layers.1(?=1)"]):
        yield {"patterns": patterns, "convert": {m: should_convert_module(m, patterns) for m in modules}}


def config():
    """The defaults and a QLoRA config as transformers writes them into config.json."""
    from transformers import BitsAndBytesConfig

    qlora = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                               bnb_4bit_compute_dtype="bfloat16", llm_int8_skip_modules=["lm_head", "model.norm"])
    return {"default": BitsAndBytesConfig().to_dict(), "qlora": qlora.to_dict(), "int8": BitsAndBytesConfig(load_in_8bit=True).to_dict()}


def main():
    out = {
        "versions": {"bitsandbytes": bitsandbytes.__version__, "torch": torch.__version__, "numpy": np.__version__,
                     "transformers": transformers.__version__,
                     "python": platform.python_version(), "cpu": torch.backends.cpu.get_cpu_capability()},
        "dynamic_map": {"signed": b64(bnb.create_dynamic_map(True).numpy()),
                        "unsigned": b64(bnb.create_dynamic_map(False).numpy())},
        "quant_map": {q: b64(bnb.get_4bit_type(q, device="cpu").numpy()) for q in ("nf4", "fp4")},
        "means": means(),
        "state_dicts": list(state_dicts()),
        "blockwise": list(blockwise()),
        "int8": list(int8()),
        "skips": list(skips()),
        "config": config(),
        "cases": list(cases()),
    }
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bitsandbytes.json")
    with open(path, "w") as f:
        json.dump(out, f, indent=None, separators=(",", ":"))
        f.write("\n")
    print(len(out["cases"]), "cases,", os.path.getsize(path), "bytes")


if __name__ == "__main__":
    main()
