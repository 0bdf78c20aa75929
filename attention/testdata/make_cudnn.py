"""Writes cudnn_calls.json and packed_lists.json: what JAX makes of cuDNN attention, for the tests of this folder.

It needs no GPU: programs are lowered for CUDA and never run. JAX 0.10.2 was used.

    pip install jax==0.10.2
    JAX_PLATFORMS=cpu python attention/testdata/make_cudnn.py
"""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.cudnn import fused_attention_stablehlo as fused

# The library asks the GPU what it can do; there is none.
fused.check_cudnn_version = lambda: 91200
fused.check_compute_capability = lambda capability: True
fused.is_cuda_compute_capability_equal = lambda capability: False

Mask = fused.MaskType
CASES = [  # name, dtype, [batch, q_seq, kv_seq, heads, kv_heads, dim], mask, window, segments, bias
    ("full", "bfloat16", [2, 130, 98, 8, 2, 64], Mask.NO_MASK, None, 1, None),
    ("causal", "bfloat16", [2, 130, 130, 8, 2, 64], Mask.CAUSAL, None, 1, None),
    ("causal half", "float16", [1, 66, 66, 4, 4, 128], Mask.CAUSAL, None, 1, None),
    ("window", "bfloat16", [2, 130, 130, 8, 2, 64], Mask.CAUSAL, 33, 1, None),
    ("wide heads", "bfloat16", [2, 130, 130, 4, 1, 256], Mask.CAUSAL, None, 1, None),
    ("wide heads packed window", "float16", [2, 130, 130, 4, 2, 192], Mask.PADDING_CAUSAL, 33, 4, None),
    ("packed", "float16", [2, 130, 130, 8, 2, 64], Mask.PADDING, None, 4, None),
    ("packed causal", "bfloat16", [3, 132, 132, 4, 1, 128], Mask.PADDING_CAUSAL, None, 8, None),
    ("packed window", "bfloat16", [2, 130, 130, 8, 2, 64], Mask.PADDING_CAUSAL, 33, 2, None),
    ("bias", "bfloat16", [2, 130, 98, 8, 2, 64], Mask.NO_MASK, None, 1, [1, 8]),
    ("bias causal", "float16", [2, 130, 130, 8, 2, 64], Mask.CAUSAL, None, 1, [2, 1]),
]


ARGS = ["q", "k", "v", "dOut", "bias", "q lengths", "kv lengths", "q offsets", "kv offsets"]


def lower(dtype, dims, mask, window, segments, bias):
    """Returns the StableHLO of attention and its gradient, and the names of its parameters."""
    batch, queries, keys, heads, kv_heads, dim = dims
    s = lambda *d: jax.ShapeDtypeStruct(d, dtype)
    i = lambda *d: jax.ShapeDtypeStruct(d, jnp.int32)
    q, kv = s(batch, queries, heads, dim), s(batch, keys, kv_heads, dim)
    args = [q, kv, kv, q, s(*bias, queries, keys) if bias else None]
    args += [i(batch, segments)] * 2 + [i(batch, segments + 1)] * 2 if segments > 1 else [None] * 4

    def f(q, k, v, d_out, bias, *lists):
        g = lambda q, k, v, bias: fused.dot_product_attention(q, k, v, bias, None, *lists, scale=0.25, mask_type=mask, sliding_window_length=window)
        out, vjp = jax.vjp(g, q, k, v, bias)
        return out, vjp(d_out)
    text = jax.jit(f).trace(*args).lower(lowering_platforms=("cuda",)).as_text()
    return text, [name for name, a in zip(ARGS, args) if a is not None]


def calls(text, parameters):
    """Returns the custom calls of a program. Their operands are named after the parameter, or the forward's result, that they come from."""
    origin = {f"%arg{i}": name for i, name in enumerate(parameters)}
    out = []
    for line in text[text.index("@main"):].split("\n  }")[0].splitlines():
        m = re.match(r"\s*(%\w+)(?::\d+)? = (.*)", line)
        if not m:
            continue
        result, operation = m.groups()
        used = re.findall(r"%\w+(?:#\d+)?", operation.split(" {")[0])
        m = re.match(r"stablehlo\.custom_call @(__cudnn\S+?)\(.*?\) \{(.*)\} : \((.*?)\) -> \((.*)\)$", operation)
        if not m:  # names only what comes from a single parameter
            origins = {origin[u] for u in used if origin.get(u)}
            origin[result] = origins.pop() if len(origins) == 1 else None
            continue
        target, attributes, ins, outs = m.groups()
        config = re.search(r'backend_config = "(.*?)", ', attributes).group(1).replace("\\22", '"')
        layouts = lambda key: [json.loads(x) for x in re.findall(r"dense<(\[[^>]*\]|\d+)> :", re.search(key + r" = \[(.*?xindex>)\]", attributes).group(1))]
        out.append(dict(target=target, api_version=int(re.search(r"api_version = (\d+)", attributes).group(1)), config=json.loads(config),
                        names=[origin[u] for u in used], operands=ins.split(", "), results=outs.split(", "),
                        operand_layouts=layouts("operand_layouts"), result_layouts=layouts("result_layouts")))
        origin[result + "#0"], origin[result + "#1"] = "out", "stats"
    return out


def packed_lists():
    """Returns what JAX gives cuDNN for segment ids: lengths, and offsets in elements (here, of one head of width 1: tokens)."""
    cases = []
    for ids in [
        [[1, 1, 1, 2, 2, 3, 0, 0], [1, 1, 1, 1, 1, 1, 1, 2], [0, 0, 0, 0, 0, 0, 0, 0]],
        [[0, 0, 3, 3, 3, 1, 2, 2, 2]],
        [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [7, 7, 7, 7, 7, 7], [2, 2, 0, 0, 6, 6]],
    ]:
        batch, length, segments = len(ids), len(ids[0]), 8 if max(map(max, ids)) > 3 else 4
        lengths, offsets = -np.ones((batch, segments), np.int32), -np.ones((batch, segments + 1), np.int32)
        for b, row in enumerate(ids):
            starts = [t for t in range(length) if t == 0 or row[t] != row[t - 1]]
            offsets[b, :len(starts)] = starts
            lengths[b, :len(starts)] = np.diff(starts + [length])
        one = jnp.zeros((batch, length, 1, 1))
        q_lengths, _, q_offsets, _ = fused._fix_seqlen_offsets(lengths, lengths, offsets, offsets, one, one)
        cases.append(dict(ids=ids, segments=segments, lengths=q_lengths.tolist(), offsets=q_offsets.tolist()))
    return cases


def main():
    here = pathlib.Path(__file__).parent
    cases = []
    for name, *case in CASES:
        text, parameters = lower(*case)
        dtype, dims, mask, window, segments, bias = case
        found = calls(text, parameters)
        assert [c["target"].endswith("Backward") for c in found] == [False, True], (name, text)
        cases.append(dict(name=name, dtype=dtype, dims=dims, causal="CAUSAL" in mask.name, window=window or 0, segments=segments,
                          bias=bias, forward=found[0], backward=found[1]))
    (here / "cudnn_calls.json").write_text(json.dumps(dict(jax=jax.__version__, cases=cases), separators=(",", ":")).replace('{"name"', '\n{"name"') + "\n")
    (here / "packed_lists.json").write_text(json.dumps(dict(jax=jax.__version__, cases=packed_lists())).replace('{"ids"', '\n{"ids"') + "\n")


if __name__ == "__main__":
    main()
