"""Times whole QLoRA training steps in JAX, tuned by hand on the compiler that Loris uses: layer-wise programs, a backward pass written out,
own kernels. What bench/step does on the same shape, with random weights and random tokens; prints one line of JSON.

    python bench/peers/jax_step.py --rows 2                                     # all kept for the backward pass
    python bench/peers/jax_step.py --rows 2 --keep nothing                      # nothing on the device
    python bench/peers/jax_step.py --rows 8 --compute fp8 --steps 8
    JAX_PLATFORMS=cpu python bench/peers/jax_step.py --shape tiny --check       # a block against autodiff in float32

Needs jax with its CUDA plugin, a card of compute capability 9.0 and nvcc on PATH, which makes PTX of jax_step_kernels.cu in a temporary
folder, or in the one that PTX names, where it stays. The tiny shape has plain forms in place of kernels, for a CPU.

What makes it fast, in order of gain:
  - one program for a block forward, one for it backward, called layer by layer with asynchronous dispatch: no copies by a scan, attention
    never computed twice, loss and gradient of the head in one pass;
  - q|k|v and gate|up are one product each, and XLA takes cuBLASLt for all (--xla_gpu_enable_triton_gemm=false), which adds residuals;
  - a kernel dequantizes NF4 and writes the adapter's factor beside the weight: forward y = [h | hA | 0]·[W | B | 0]ᵀ, backward
    dx = [dy | dyB | 0]·[W ; A ; 0]. Adapters take no further pass over y or dx. For h·A the norm's gain is folded into A;
  - norms, RoPE's and SwiGLU's backward are kernels that read their operands once, SwiGLU's with its four products of rank 16;
  - barriers keep products of rank 16 behind what they read: less memory at the peak, and it is in the cache;
  - with nothing kept, residuals are copied to pinned host memory and back beside the computation.

Weights are random codes with log-normal scales, activations normal: what make_model.py --draw codes writes. A step is embedding rows from
the host, blocks, head, loss and AdamW in float32; no gradient norm. Times are between the ends of steps.
"""
import argparse
import functools
import json
import os
import statistics
import subprocess
import tempfile
import time
from typing import NamedTuple

os.environ.setdefault("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=false")
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")
import jax  # behind the environment, which it reads
import jax.numpy as jnp
import numpy as np
from jax import lax
from shapes import SHAPES

bf16, f32, e4m3 = jnp.bfloat16, jnp.float32, jnp.float8_e4m3fn
EPS, E4M3_MAX = 1e-5, 448.0
PAD = 64  # columns or rows with an adapter's factor beside a weight: 48 at most are used, and products want a multiple of 64
HEAD_CHUNK = 1024  # tokens whose logits exist at a time
NF4 = np.array([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
                -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
                0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], np.float32)


class Linear(NamedTuple):
    """A weight, [outs, ins]; of its rows each group has adapters of its own."""
    outs: int
    ins: int
    groups: list


class Config:
    """Sizes of the model and the batch."""

    def __init__(self, shape, rows, length):
        if shape == "tiny":  # not that of SHAPES: blocks of 64 must divide what linears take
            s = dict(vocab_size=1024, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
                     num_key_value_heads=2, rope_theta=500000.0)
            self.rank, self.length = 8, length or 64
        else:
            s = SHAPES[shape]
            self.rank, self.length = 16, length or 2048
        self.rows, self.tokens = rows, rows * self.length
        self.vocab, self.hidden, self.inner, self.layers = s["vocab_size"], s["hidden_size"], s["intermediate_size"], s["num_hidden_layers"]
        self.heads, self.kv_heads, self.theta = s["num_attention_heads"], s["num_key_value_heads"], s["rope_theta"]
        self.head_dim = self.hidden // self.heads
        self.queries, self.keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        q, k, d, f = self.queries, self.keys, self.hidden, self.inner
        self.linears = dict(qkv=Linear(q + 2 * k, d, [q, k, k]), out=Linear(d, q, [d]), gate_up=Linear(2 * f, d, [f, f]), down=Linear(d, f, [d]))

    def rotations(self):
        """cos and sin of RoPE's angles, [1, length, 1, head_dim / 2]."""
        d = self.head_dim
        angles = (np.arange(self.length)[:, None] * self.theta ** (-np.arange(0, d, 2) / d)[None]).astype(np.float32)
        return tuple(jnp.asarray(f(angles))[None, :, None, :] for f in (np.cos, np.sin))


# ---- small things

def dot(a, b, a_axis=1, b_axis=1, dtype=None):
    """a·bᵀ, or the product over other axes of two matrices."""
    return lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())), preferred_element_type=dtype or a.dtype)


def together(*values):
    """The values, none of which is used before all are there."""
    return lax.optimization_barrier(values)


def pad_columns(a, n):
    return jnp.pad(a, ((0, 0), (0, n - a.shape[1])))


def pad_rows(a, n):
    return jnp.pad(a, ((0, n - a.shape[0]), (0, 0)))


def put(a, part, column):
    """a with part written in from the column on, in place where XLA can."""
    return lax.dynamic_update_slice(a, part.astype(a.dtype), (0, column))


def rstd(x):
    x32 = x.astype(f32)
    return lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + EPS)


def normed(x, r, gain):
    return (x.astype(f32) * r).astype(bf16) * gain


def rotated(x, cos, sin, sign):
    h = x.shape[-1] // 2
    re, im = x[..., :h].astype(f32), x[..., h:].astype(f32)
    sin = sin * sign
    return jnp.concatenate([re * cos - im * sin, im * cos + re * sin], -1).astype(bf16)


def looked_up(codes):
    """NF4's values of the codes, by a tree of selects: the fastest form that XLA has."""
    t = [jnp.float32(v) for v in NF4]
    for bit in range(4):
        t = [jnp.where((codes & (1 << bit)) != 0, t[i + 1], t[i]) for i in range(0, len(t), 2)]
    return t[0]


def dequantized(weight, factor=None):
    """A weight in float32, [outs, ins], from codes u8 [outs/2, ins], of which low nibbles are the first half of the rows, and scales
    [outs, ins/64]; the scales times the factor if there is one."""
    codes, scales = weight["codes"], weight["absmax"].astype(f32)
    outs, ins = 2 * codes.shape[0], codes.shape[1]
    scales = scales if factor is None else scales * factor
    values = looked_up(jnp.concatenate([codes & 15, codes >> 4], 0))
    return (values.reshape(outs, ins // 64, 64) * scales[:, :, None]).reshape(outs, ins)


# ---- what kernels do, and what does the same without them

class PlainOps:
    """The operations in XLA's own: they say what the kernels compute."""

    @staticmethod
    def weight_beside(weight, tail):
        """[W | tail], tail [outs, PAD], or W without tail."""
        w = dequantized(weight).astype(bf16)
        return w if tail is None else jnp.concatenate([w, tail], 1)

    @staticmethod
    def weight_above(weight, tail):
        """[W ; tail], tail [PAD, ins]."""
        return jnp.concatenate([dequantized(weight).astype(bf16), tail], 0)

    @staticmethod
    def norm(x, gain, xA):
        """[norm(x)·gain | xA·r | 0] [T, D+PAD], r [T, 1], and xA·r in bfloat16; r is 1/rms(x)."""
        r = rstd(x)
        scaled = (xA * r).astype(bf16)
        return jnp.concatenate([normed(x, r, gain), pad_columns(scaled, PAD)], 1), r, scaled

    @staticmethod
    def norm_backward(x, r, gain, dh, past):
        """[past + the norm's gradient | 0] [T, D+PAD], past the gradient that goes past the norm, with or without pad."""
        d = x.shape[1]
        x32 = x.astype(f32)
        a = dh.astype(f32) * gain.astype(f32)
        m = jnp.mean(a * x32, -1, keepdims=True)
        return pad_columns((past[:, :d].astype(f32) + r * (a - x32 * (r * r * m))).astype(bf16), d + PAD)

    @staticmethod
    def gated(gate_up):
        """[silu(gate)·up | 0] [T, F+PAD]."""
        f = gate_up.shape[1] // 2
        g = gate_up[:, :f].astype(f32)
        return pad_columns((g * jax.nn.sigmoid(g) * gate_up[:, f:].astype(f32)).astype(bf16), f + PAD)

    @staticmethod
    def gated_backward(gate_up, dact, b, xA, dyB):
        """d = [dgate | dup | 0] from dact; beside it d·b, dB = dᵀ·xA [2F, R] of each half with its own columns, and dA = actᵀ·dyB of down
        [F, R], in float32."""
        f, r = gate_up.shape[1] // 2, dyB.shape[1]
        g, u, d = gate_up[:, :f].astype(f32), gate_up[:, f:].astype(f32), dact.astype(f32)
        s = jax.nn.sigmoid(g)
        dg, du, act = (d * u * s * (1 + g * (1 - s))).astype(bf16), (d * g * s).astype(bf16), (g * s * u).astype(bf16)
        out = pad_columns(jnp.concatenate([dg, du], 1), 2 * f + PAD)
        p = dot(out, b, 1, 0, f32)
        return out, p, jnp.concatenate([dot(dg, xA[:, :r], 0, 0, f32), dot(du, xA[:, r:], 0, 0, f32)], 0), dot(act, dyB, 0, 0, f32)

    @staticmethod
    def rope_backward(dq, dk, dv, cos, sin):
        """[dq | dk | dv | 0], a row a token, with dq and dk rotated back."""
        t = dq.shape[0] * dq.shape[1]
        dqkv = [rotated(dq, cos, sin, -1.0).reshape(t, -1), rotated(dk, cos, sin, -1.0).reshape(t, -1), dv.reshape(t, -1)]
        dqkv = jnp.concatenate(dqkv, 1)
        return pad_columns(dqkv, dqkv.shape[1] + PAD)

    @staticmethod
    def attention(q, k, v):
        """Causal attention [rows, length, heads, head_dim], and the logarithms of the softmax's sums."""
        heads, length, dim = q.shape[2], q.shape[1], q.shape[3]
        k, v = (jnp.repeat(a, heads // a.shape[2], 2).astype(f32) for a in (k, v))
        s = jnp.einsum("bqhd,bkhd->bhqk", q.astype(f32), k) * dim**-0.5
        s = jnp.where(jnp.tril(jnp.ones((length, length), bool)), s, -1e30)
        lse = jax.nn.logsumexp(s, -1)
        return jnp.einsum("bhqk,bkhd->bqhd", jnp.exp(s - lse[..., None]), v).astype(q.dtype), lse

    @staticmethod
    def attention_backward(q, k, v, o, lse, do):
        return jax.vjp(lambda q, k, v: PlainOps.attention(q, k, v)[0], q, k, v)[1](do)


@functools.cache
def ptx(name):
    """A kernel's text, made by nvcc once a process, or once for a source if PTX names a folder for it."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "jax_step_kernels.cu")
    with tempfile.TemporaryDirectory() as scratch:
        file = os.path.join(os.environ.get("PTX") or scratch, name + ".ptx")
        if not os.path.exists(file) or os.path.getmtime(file) < os.path.getmtime(source):
            os.makedirs(os.path.dirname(file), exist_ok=True)
            subprocess.run(["nvcc", "-ptx", "-arch=sm_90", "-O3", "-DK_" + name, source, "-o", file], check=True)
        with open(file) as f:
            return f.read()


def call_kernel(name, outs, operands, sizes, grid, block=256, shared=0, aliases=None):
    """Results of a kernel of jax_step_kernels.cu. XLA launches PTX itself, so the program stays one that it schedules and captures."""
    i = np.int32
    outs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in outs]
    options = dict(input_output_aliases=aliases) if aliases else {}
    call = jax.ffi.ffi_call("__gpu$xla.gpu.ptx", outs if len(outs) > 1 else outs[0], **options)
    return call(*operands, jnp.array(sizes, jnp.int32), name=name, kernel_type="ptx", kernel_data=ptx(name),
                grid_x=i(grid[0]), grid_y=i(grid[1]), grid_z=i(1), block_x=i(block), block_y=i(1), block_z=i(1), shared_mem_bytes=i(shared))


class CudaOps:
    """PlainOps by kernels, and attention by cuDNN's."""
    KERNELS = "nf4_dequantize", "rms_forward", "rms_backward", "swiglu_forward", "swiglu_backward", "rope_backward"
    SHARED = 69120  # bytes of memory that a block of swiglu_backward has

    @staticmethod
    def make_kernels():
        for name in CudaOps.KERNELS:
            ptx(name)

    @staticmethod
    def weight_beside(weight, tail):
        r, ins = weight["codes"].shape
        x = 0 if tail is None else PAD // 8
        operands = weight["codes"], weight["absmax"], weight["absmax"] if tail is None else tail
        return call_kernel("nf4_dequantize", [((2 * r, ins + 8 * x), bf16)], operands, (r, ins, x, 0), ((r * ins // 8 + 1023) // 1024, 1))

    @staticmethod
    def weight_above(weight, tail):
        r, ins = weight["codes"].shape
        operands = weight["codes"], weight["absmax"], tail
        return call_kernel("nf4_dequantize", [((2 * r + PAD, ins), bf16)], operands, (r, ins, 0, PAD), ((r * ins // 8 + 1023) // 1024, 1))

    @staticmethod
    def norm(x, gain, xA):
        (t, n), d = xA.shape, x.shape[1]
        return call_kernel("rms_forward", [((t, d + PAD), bf16), ((t, 1), f32), ((t, n), bf16)], (x, gain, xA), (d, n, PAD // 8), (t, 1))

    @staticmethod
    def norm_backward(x, r, gain, dh, past):
        t, d = x.shape
        return call_kernel("rms_backward", [((t, d + PAD), bf16)], (x, r, gain, dh, past), (d, past.shape[1], PAD // 8), (t, 1))

    @staticmethod
    def gated(gate_up):
        t, f = gate_up.shape[0], gate_up.shape[1] // 2
        return call_kernel("swiglu_forward", [((t, f + PAD), bf16)], (gate_up,), (f, PAD // 8), ((f // 8 + 255) // 256, t))

    @staticmethod
    def gated_backward(gate_up, dact, b, xA, dyB):
        (t, f), n, r = dact.shape, b.shape[1], dyB.shape[1]
        splits = 2 if t >= 256 else 1  # of the tokens, to fill the card: their parts of dB and dA are added up behind it
        outs = [((t, 2 * f + PAD), bf16), ((t, n), f32), ((splits, 2 * f, r), f32), ((splits, f, r), f32)]
        operands = gate_up, dact, b, xA, dyB, jnp.zeros((t, n), f32)
        d, p, dB, dA = call_kernel("swiglu_backward", outs, operands, (f, t, splits), (f // 128, splits), 256, CudaOps.SHARED, {5: 1})
        return d, p, dB.sum(0), dA.sum(0)

    @staticmethod
    def rope_backward(dq, dk, dv, cos, sin):
        length = dq.shape[1]
        t, q, k = dq.shape[0] * length, dq.shape[2] * dq.shape[3], dk.shape[2] * dk.shape[3]
        operands = dq.reshape(t, q), dk.reshape(t, k), dv.reshape(t, k), cos.reshape(length, -1), sin.reshape(length, -1)
        return call_kernel("rope_backward", [((t, q + 2 * k + PAD), bf16)], operands, (q, k, length, PAD // 8), (t, 1), 128)

    @staticmethod
    def _cudnn(q):
        """JAX's module of cuDNN's attention, whose inner operations give and take the softmax's statistics; operands and options that are
        not used here."""
        from jax._src.cudnn import fused_attention_stablehlo as cudnn
        none = [jnp.zeros(0, q.dtype)] * 7
        return cudnn, none, dict(scale=q.shape[3]**-0.5, seed=42, dropout_rate=0.0, variadic_args=(False, False), mask_type=cudnn.MaskType.CAUSAL,
                                 layout=cudnn.AttentionLayout.BTNH.value, sliding_window_length=None)

    @staticmethod
    def attention(q, k, v):
        cudnn, none, options = CudaOps._cudnn(q)
        return cudnn._dot_product_attention_fwd_p_wrapper.bind(q, k, v, *none, is_training=True, **options)

    @staticmethod
    def attention_backward(q, k, v, o, lse, do):
        cudnn, none, options = CudaOps._cudnn(q)
        return cudnn._dot_product_attention_bwd_p_wrapper.bind(q, k, v, *none, lse, o, do, **options)[:3]


# ---- a block

class Block:
    """A decoder block in bfloat16, x [T, D]. What forward leaves for backward, as "saved" has it beside x:

    rstd1, rstd2        1/rms of x and of mid
    q, k, v             after RoPE, [rows, length, heads, head_dim]
    o, lse              attention's output and statistics
    mid                 the residual stream between attention and the MLP
    gate_up             [T, 2F]
    xA_qkv, xA_out, xA_gate_up, xA_down    what a linear takes, times its adapters' A

    A layer's adapters are A_<linear> [groups·R, ins] and B_<linear> [outs, R] in float32.
    """
    # Gradients of A are of the norm's output without its gain, where a norm is before the linear.
    GAINS = dict(qkv="norm1", gate_up="norm2")

    def __init__(self, config, ops):
        self.c, self.ops = config, ops

    def work(self, adapters, weights):
        """Copies of a layer's adapters in bfloat16 for the products, once a step. Of each linear, blocks of B being in columns of their own:

        A_below   [PAD, ins]: rows under W, backward
        B_padded  [outs+PAD, n], for dy·B
        B_tail    [outs, PAD]: columns beside W, forward
        gained_A  [ins, n], for x·A: with the norm's gain
        """
        work, r = {}, self.c.rank
        for name, (outs, _, groups) in self.c.linears.items():
            a, b = adapters["A_" + name], adapters["B_" + name].astype(bf16)
            n, ends = len(groups), np.cumsum([0] + groups)
            gain = weights.get(self.GAINS.get(name))
            b = jnp.concatenate([jnp.pad(b[ends[i]:ends[i + 1]], ((0, 0), (i * r, (n - 1 - i) * r))) for i in range(n)], 0)
            work["gained_A_" + name] = (a.T if gain is None else a.T * gain.astype(f32)[:, None]).astype(bf16)
            work["A_below_" + name] = pad_rows(a.astype(bf16), PAD)
            work["B_tail_" + name] = pad_columns(b, PAD)
            work["B_padded_" + name] = pad_rows(b, outs + PAD)
        work["B_alone_out"] = adapters["B_out"].astype(bf16)
        work["gained_A_down"] = pad_rows(work["gained_A_down"], self.c.inner + PAD)  # its operand has zeros there
        return work

    def _queries_keys_values(self, x, w, lora, cos, sin):
        c, ops = self.c, self.ops
        h, rstd1, xA = ops.norm(x, w["norm1"], dot(x, lora["gained_A_qkv"], 1, 0, f32))
        y = dot(h, ops.weight_beside(w["qkv"], lora["B_tail_qkv"])).reshape(-1, c.length, c.heads + 2 * c.kv_heads, c.head_dim)
        return dict(rstd1=rstd1, xA_qkv=xA, q=rotated(y[:, :, :c.heads], cos, sin, 1.0),
                    k=rotated(y[:, :, c.heads:c.heads + c.kv_heads], cos, sin, 1.0), v=y[:, :, c.heads + c.kv_heads:])

    def _mid(self, x, a, w, lora):
        o = a["o"].reshape(x.shape[0], self.c.queries)
        a["xA_out"] = dot(o, lora["gained_A_out"], 1, 0)
        # Two products that add to what is there, the large one last. (o has no room for its factor behind it.)
        a["mid"] = dot(o, self.ops.weight_beside(w["out"], None)) + (dot(a["xA_out"], lora["B_alone_out"]) + x)

    def _gate_up(self, a, w, lora):
        h, a["rstd2"], a["xA_gate_up"] = self.ops.norm(a["mid"], w["norm2"], dot(a["mid"], lora["gained_A_gate_up"], 1, 0, f32))
        a["gate_up"] = dot(h, self.ops.weight_beside(w["gate_up"], lora["B_tail_gate_up"]))

    def forward(self, x, w, lora, cos, sin):
        """The block's output, and all of what is saved."""
        a = self._queries_keys_values(x, w, lora, cos, sin)
        a["o"], a["lse"] = self.ops.attention(a["q"], a["k"], a["v"])
        self._mid(x, a, w, lora)
        self._gate_up(a, w, lora)
        act = self.ops.gated(a["gate_up"])
        a["xA_down"] = dot(act, lora["gained_A_down"], 1, 0)
        act = put(act, a["xA_down"], self.c.inner)
        return dot(act, self.ops.weight_beside(w["down"], lora["B_tail_down"])) + a["mid"], a

    def _linear_backward(self, dy, w, lora, name, xA):
        """dx from dy [T, outs+PAD] with zeros in its pad, dB [outs+PAD, n], dy·B, and dy with that in its pad."""
        p = dot(dy, lora["B_padded_" + name], 1, 0)
        dy = put(dy, p, dy.shape[1] - PAD)
        dB = dot(dy, xA, 0, 0, f32)
        dy, p, dB = together(dy, p, dB)
        return dot(dy, self.ops.weight_above(w[name], lora["A_below_" + name]), 1, 0), dB, p, dy

    def backward(self, dy, x, a, w, lora, cos, sin):
        """dx, and the gradients of the adapters as products leave them; dy and dx are [T, D+PAD] with zeros in the pad."""
        ops, t, inner, g = self.ops, x.shape[0], self.c.inner, {}
        dact, g["B_down"], p, dy = self._linear_backward(dy, w, lora, "down", a["xA_down"])
        dact, p, dy = together(dact, p, dy)
        d, p, g["B_gate_up"], g["A_down"] = ops.gated_backward(a["gate_up"], dact, lora["B_padded_gate_up"], a["xA_gate_up"], p)
        p = p.astype(bf16)
        d, p, g["B_gate_up"], g["A_down"], g["B_down"] = together(put(d, p, 2 * inner), p, g["B_gate_up"], g["A_down"], g["B_down"])
        dh = dot(d, ops.weight_above(w["gate_up"], lora["A_below_gate_up"]), 1, 0)
        dmid = ops.norm_backward(a["mid"], a["rstd2"], w["norm2"], dh, dy)
        g["A_gate_up"] = dot((p * a["rstd2"]).astype(bf16), a["mid"], 0, 0, f32)
        dmid, g["A_gate_up"] = together(dmid, g["A_gate_up"])

        do, g["B_out"], p, dmid = self._linear_backward(dmid, w, lora, "out", a["xA_out"])
        g["A_out"] = dot(p, a["o"].reshape(t, self.c.queries), 0, 0, f32)
        do, g["A_out"], dmid = together(do, g["A_out"], dmid)
        dqkv = ops.attention_backward(a["q"], a["k"], a["v"], a["o"], a["lse"], do.reshape(a["o"].shape))
        dh, g["B_qkv"], p, _ = self._linear_backward(ops.rope_backward(*dqkv, cos, sin), w, lora, "qkv", a["xA_qkv"])
        dh, dmid, p = together(dh, dmid, p)
        g["A_qkv"] = dot((p * a["rstd1"]).astype(bf16), x, 0, 0, f32)
        return ops.norm_backward(x, a["rstd1"], w["norm1"], dh, dmid), g

    def backward_recomputing(self, dy, x, saved, w, lora, cos, sin, chunks):
        """What backward does, with what saved lacks computed again: never the last product, whose xA_down is saved. In chunks of the batch,
        one after the other, if there are several: gate, up and their gradients are the largest."""
        def chunk_backward(dy, x, saved):
            a = dict(saved)
            if "q" not in a:
                a.update(self._queries_keys_values(x, w, lora, cos, sin))
                a["o"], a["lse"] = self.ops.attention(a["q"], a["k"], a["v"])
            if "mid" not in a:
                self._mid(x, a, w, lora)
            if "xA_out" not in a:
                a["xA_out"] = dot(a["o"].reshape(x.shape[0], self.c.queries), lora["gained_A_out"], 1, 0)
            a["mid"], a["o"] = together(a["mid"], a["o"])
            self._gate_up(a, w, lora)
            a["gate_up"], = together(a["gate_up"])
            return self.backward(dy, x, a, w, lora, cos, sin)

        if chunks == 1:
            return chunk_backward(dy, x, saved)
        parts = jax.tree.map(lambda a: a.reshape((chunks, a.shape[0] // chunks) + a.shape[1:]), (dy, x, saved))
        gradients = jax.eval_shape(lambda: chunk_backward(*jax.tree.map(lambda a: a[0], parts))[1])
        zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), gradients)

        def body(total, part):
            dx, g = chunk_backward(*part)
            return jax.tree.map(jnp.add, total, g), dx

        g, dx = lax.scan(body, zero, parts)
        return dx.reshape(dy.shape), g

    def gradients(self, g, w):
        """The adapters' gradients from what backward leaves: without pads and what is outside of B's blocks, and with the gains in A's."""
        c, r, b = self.c, self.c.rank, g["B_qkv"]
        q, k = c.queries, c.keys
        gate_up = self._gate_up_gradient(g)
        return dict(A_out=g["A_out"][:r], A_down=self._down_gradient(g), B_out=g["B_out"][:c.hidden, :r], B_down=g["B_down"][:c.hidden, :r], B_gate_up=gate_up,
                    B_qkv=jnp.concatenate([b[:q, :r], b[q:q + k, r:2 * r], b[q + k:q + 2 * k, 2 * r:3 * r]], 0),
                    A_qkv=g["A_qkv"][:3 * r] * w["norm1"].astype(f32), A_gate_up=g["A_gate_up"][:2 * r] * w["norm2"].astype(f32))

    def _gate_up_gradient(self, g):
        return g["B_gate_up"]

    def _down_gradient(self, g):
        return g["A_down"].T


class Float8Block(Block):
    """A block whose large products are of e4m3, with a scale for each token and one for the weight; adapters stay in bfloat16, added to what
    the product leaves. Plain XLA but for norm's and RoPE's backward and attention. What linears give is not yet scaled: XLA fuses that into
    what reads it, for which gate_scale, of gate and up, is saved too."""

    def _linear(self, x, weight, a, b, transpose):
        """y = x·Wᵀ and its adapter, or with transpose dx = dy·W, both before their scale; the scale; x·a. Products of float8 want both
        operands with the summed axis last, so W is dequantized transposed for the backward."""
        x32 = x.astype(f32)
        scale = jnp.maximum(jnp.max(jnp.abs(x32), -1, keepdims=True), 1e-30) / E4M3_MAX
        weight_scale = jnp.max(weight["absmax"].astype(f32)) / E4M3_MAX
        both = scale * weight_scale
        w8 = dequantized(weight, 1 / weight_scale).astype(e4m3)
        w8 = w8.T if transpose else w8
        xA = dot(x, a, 1, 0)
        return dot((x32 / scale).astype(e4m3), w8, dtype=bf16) + dot((xA / both).astype(bf16), b, 1, 0), both, xA

    def _forward_linear(self, x, w, lora, name):
        return self._linear(x, w[name], lora["A_below_" + name].T, lora["B_tail_" + name].T, False)

    def _backward_linear(self, dy, w, lora, name, xA):
        dx, scale, p = self._linear(dy, w[name], lora["B_tail_" + name], lora["A_below_" + name], True)
        return together(dx, scale, p, dot(dy, xA, 0, 0, f32))

    def forward(self, x, w, lora, cos, sin):
        c, inner, a = self.c, self.c.inner, dict(rstd1=rstd(x))
        y, scale, a["xA_qkv"] = self._forward_linear(normed(x, a["rstd1"], w["norm1"]), w, lora, "qkv")
        y = (y * scale).reshape(-1, c.length, c.heads + 2 * c.kv_heads, c.head_dim)
        a["q"] = rotated(y[:, :, :c.heads], cos, sin, 1.0)
        a["k"] = rotated(y[:, :, c.heads:c.heads + c.kv_heads], cos, sin, 1.0)
        a["v"] = y[:, :, c.heads + c.kv_heads:].astype(bf16)
        a["o"], a["lse"] = self.ops.attention(a["q"], a["k"], a["v"])
        y, scale, a["xA_out"] = self._forward_linear(a["o"].reshape(-1, c.queries), w, lora, "out")
        mid = a["mid"] = (x + y * scale).astype(bf16)
        a["rstd2"] = rstd(mid)
        gate_up, scale, a["xA_gate_up"] = self._forward_linear(normed(mid, a["rstd2"], w["norm2"]), w, lora, "gate_up")
        a["gate_up"], a["gate_scale"] = gate_up, scale
        gate = gate_up[:, :inner] * scale
        act = (gate * jax.nn.sigmoid(gate) * (gate_up[:, inner:] * scale)).astype(bf16)
        y, scale, a["xA_down"] = self._forward_linear(act, w, lora, "down")
        return (mid + y * scale).astype(bf16), a

    def backward(self, dy, x, a, w, lora, cos, sin):
        c, ops, inner, t, g = self.c, self.ops, self.c.inner, x.shape[0], {}
        dy = dy[:, :c.hidden]
        y, scale, p, g["B_down"] = self._backward_linear(dy, w, lora, "down", a["xA_down"])
        gate_up = a["gate_up"] * a["gate_scale"]
        gate, up, d = gate_up[:, :inner], gate_up[:, inner:], y * scale
        s = jax.nn.sigmoid(gate)
        d = jnp.concatenate([d * up * s * (1 + gate * (1 - s)), d * gate * s], 1).astype(bf16)
        d, act = together(d, (gate * s * up).astype(bf16))
        g["A_down"] = dot(p, act, 0, 0, f32)
        d, g["A_down"] = together(d, g["A_down"])
        y, scale, p, g["B_gate_up"] = self._backward_linear(d, w, lora, "gate_up", a["xA_gate_up"])
        dmid = ops.norm_backward(a["mid"], a["rstd2"], w["norm2"], (y * scale).astype(bf16), dy)[:, :c.hidden]
        g["A_gate_up"] = dot((p * a["rstd2"]).astype(bf16), a["mid"], 0, 0, f32)
        dmid, g["A_gate_up"] = together(dmid, g["A_gate_up"])

        y, scale, p, g["B_out"] = self._backward_linear(dmid, w, lora, "out", a["xA_out"])
        g["A_out"] = dot(p, a["o"].reshape(t, c.queries), 0, 0, f32)
        do = (y * scale).astype(bf16).reshape(a["o"].shape)
        dqkv = ops.attention_backward(a["q"], a["k"], a["v"], a["o"], a["lse"], do)
        dqkv = ops.rope_backward(*dqkv, cos, sin)[:, :c.queries + 2 * c.keys]
        y, scale, p, g["B_qkv"] = self._backward_linear(dqkv, w, lora, "qkv", a["xA_qkv"])
        g["A_qkv"] = dot((p * a["rstd1"]).astype(bf16), x, 0, 0, f32)
        return ops.norm_backward(x, a["rstd1"], w["norm1"], (y * scale).astype(bf16), dmid), g

    def _gate_up_gradient(self, g):
        f, r, b = self.c.inner, self.c.rank, g["B_gate_up"]
        return jnp.concatenate([b[:f, :r], b[f:2 * f, r:2 * r]], 0)

    def _down_gradient(self, g):
        return g["A_down"][:self.c.rank]


# ---- head and optimizer

def head_loss(ops, x, gain, head, labels):
    """Mean loss and d(x) [T, D+PAD], head [vocab, D]: a chunk's logits are gone when the next one's are computed, and are not computed again."""
    t, d = x.shape
    chunk = min(t, HEAD_CHUNK)
    r = rstd(x)
    h = normed(x, r, gain)

    def body(total, part):
        h, label = part
        logits = dot(h, head).astype(f32)
        m = jnp.max(logits, -1, keepdims=True)
        lse = m + jnp.log(jnp.sum(jnp.exp(logits - m), -1, keepdims=True))
        probabilities = jnp.exp(logits - lse)
        one_hot = lax.broadcasted_iota(jnp.int32, logits.shape, 1) == label[:, None]
        dlogits = ((probabilities - one_hot) / t).astype(bf16)
        return total + jnp.sum(lse - jnp.take_along_axis(logits, label[:, None], 1)), dot(dlogits, head, 1, 0)

    total, dh = lax.scan(body, f32(0), (h.reshape(t // chunk, chunk, d), labels.reshape(t // chunk, chunk)))
    return total / t, ops.norm_backward(x, r, gain, dh.reshape(t, d), jnp.zeros_like(x))


def adamw(block, p, m, v, t, gradients, norms):
    """A step of AdamW without weight decay on adapters that are stacked over layers; gradients as each layer's backward left them."""
    t = t + 1
    layers = [block.gradients(g, n) for g, n in zip(gradients, norms)]
    g = {k: jnp.stack([layer[k] for layer in layers]) for k in p}
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
    p = jax.tree.map(lambda p, m, v: p - 2e-4 * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8), p, m, v)
    return p, m, v, t


# ---- random weights

def random_layer(config, key):
    w = {}
    for i, (name, (outs, ins, _)) in enumerate(config.linears.items()):
        k = jax.random.fold_in(key, i)
        codes = jax.random.bits(k, (outs // 2, ins), jnp.uint8)
        absmax = jnp.exp(0.25 * jax.random.normal(jax.random.fold_in(k, 1), (outs, ins // 64))) * (1.6 / np.sqrt(ins))
        w[name] = dict(codes=codes, absmax=absmax.astype(bf16))
    for i, name in enumerate(("norm1", "norm2")):
        w[name] = (1 + 0.1 * jax.random.normal(jax.random.fold_in(key, 11 + i), (config.hidden,))).astype(bf16)
    return w


def random_adapters(config, key, layers=(), b_scale=1e-3):
    """Not zero in B, as after some steps."""
    lora = {}
    for i, (name, (outs, ins, groups)) in enumerate(config.linears.items()):
        lora["A_" + name] = jax.random.normal(jax.random.fold_in(key, 2 * i), layers + (config.rank * len(groups), ins), f32) / np.sqrt(ins)
        lora["B_" + name] = jax.random.normal(jax.random.fold_in(key, 2 * i + 1), layers + (outs, config.rank), f32) * b_scale
    return lora


# ---- a step

class Plan(NamedTuple):
    """What layers keep beside their input for the backward pass (None: all), what of it and the input waits in the host's memory, and in how
    many chunks of the batch the backward pass goes."""
    kept: tuple
    on_host: tuple
    chunks: int


def plan(keep, rows):
    """With nothing kept on the device, small batches have attention computed again; larger ones have time to copy what spares that, and go
    backward two rows at a time. These are the fastest within what Unsloth takes for as many rows."""
    if keep == "all":
        return Plan(None, (), 1)
    if rows <= 2:
        return Plan(("xA_down", "mid"), ("x", "mid"), 1)
    return Plan(("xA_down", "q", "k", "v", "o", "lse", "mid", "rstd1", "xA_qkv"), ("x", "q", "k", "v", "o", "mid"), max(rows // 2, 1))


class Step:
    """Programs, data and the state of training."""

    def __init__(self, config, block, plan):
        self.config, self.block, self.plan = config, block, plan
        self.device = jax.devices()[0]
        self._compile()

    def _compile(self):
        c, block, plan = self.config, self.block, self.plan

        def forward(x, w, lora, cos, sin):
            y, a = block.forward(x, w, lora, cos, sin)
            return y, a if plan.kept is None else {k: a[k] for k in plan.kept}

        def backward(dy, x, a, w, lora, cos, sin):
            if plan.kept is None:
                return block.backward(dy, x, a, w, lora, cos, sin)
            return block.backward_recomputing(dy, x, a, w, lora, cos, sin, plan.chunks)

        def work(p, norms):
            return [block.work({k: p[k][i] for k in p}, norms[i]) for i in range(c.layers)]

        self.forward, self.backward, self.work = jax.jit(forward), jax.jit(backward, donate_argnums=(0,)), jax.jit(work)
        self.head_loss = jax.jit(functools.partial(head_loss, block.ops))
        self.update = jax.jit(functools.partial(adamw, block), donate_argnums=(0, 1, 2))

    def draw(self):
        c, key = self.config, jax.random.key(0)
        layer = jax.jit(functools.partial(random_layer, c))
        self.weights = [layer(jax.random.fold_in(key, i)) for i in range(c.layers)]
        self.norms = [dict(norm1=w["norm1"], norm2=w["norm2"]) for w in self.weights]
        adapters = jax.jit(lambda k: random_adapters(c, k, (c.layers,)))(jax.random.key(1))
        self.state = adapters, jax.tree.map(jnp.zeros_like, adapters), jax.tree.map(jnp.zeros_like, adapters), f32(0)
        part = jax.jit(lambda k: jax.random.normal(k, (c.vocab // 16, c.hidden), bf16) * 0.02)
        self.head = jnp.concatenate([part(jax.random.fold_in(key, 900 + i)) for i in range(16)], 0)
        self.gain = jnp.ones(c.hidden, bf16)
        self.cos, self.sin = c.rotations()
        tokens = np.asarray(jax.random.randint(jax.random.key(3), (c.rows, c.length), 0, c.vocab))
        self.labels = jax.device_put(np.roll(tokens, -1, 1).reshape(-1).astype(np.int32))
        self.embedded = np.asarray(jax.random.normal(jax.random.key(4), (c.tokens, c.hidden), bf16))  # rows gathered on the host
        if self.plan.on_host:
            self.host, self.here = (jax.sharding.SingleDeviceSharding(self.device, memory_kind=kind) for kind in ("pinned_host", "device"))

    def _moved(self, saved, where):
        return {k: (jax.device_put(v, where) if k in self.plan.on_host else v) for k, v in saved.items()}

    def run(self):
        """Launches a step and returns its loss, which may not be computed yet. Variables go as soon as nothing needs them: what they name
        takes memory until then."""
        layers, on_host = self.config.layers, self.plan.on_host
        adapters, m, v, t = self.state
        work = self.work(adapters, self.norms)
        x = jax.device_put(self.embedded)
        saved, gradients = [], [None] * layers
        for i in range(layers):
            y, a = self.forward(x, self.weights[i], work[i], self.cos, self.sin)
            a = dict(a, x=x)
            saved.append(self._moved(a, self.host) if on_host and i < layers - 2 else a)  # the last two are needed at once
            x = y
            del a, y
            if on_host and i >= 2:
                jax.block_until_ready(saved[i - 2][on_host[0]])  # else copies of all layers wait, and what they read with them
        loss, dy = self.head_loss(x, self.gain, self.head, self.labels)
        del x
        for i in reversed(range(layers)):
            a = saved[i]
            saved[i] = None
            if on_host and i >= 2:
                saved[i - 2] = self._moved(saved[i - 2], self.here)  # beside this layer's backward and the next one's
            x = a.pop("x")
            dy, gradients[i] = self.backward(dy, x, a, self.weights[i], work[i], self.cos, self.sin)
            del a, x
            if on_host and i < layers - 1:
                jax.block_until_ready(gradients[i + 1]["A_out"])
        self.state = self.update(adapters, m, v, t, gradients, self.norms)
        return loss


def time_steps(step, n):
    """Loss and seconds of the first step, loss of the last, and the milliseconds of n steps behind three more: times between ends of steps,
    each launched before the one before it has ended."""
    start = time.time()
    first_loss = float(step.run())
    first = time.time() - start
    ends, before = [], None
    for _ in range(n + 3):
        loss = step.run()
        if before is not None:
            before.block_until_ready()
            ends.append(time.time())
        before = loss
    loss.block_until_ready()
    return first_loss, first, float(loss), list(np.diff(ends)[1:] * 1e3)


# ---- check

def reference(config, weights, cos, sin, x, lora):
    """A block in float32 by the formulas."""
    c, q, k, r, h = config, config.queries, config.keys, config.rank, config.head_dim // 2

    def linear(x, name, group, start, end):
        a, b = lora["A_" + name][group * r:(group + 1) * r], lora["B_" + name][start:end]
        return x @ dequantized(weights[name])[start:end].T + (x @ a.T) @ b.T

    def norm(x, gain):
        return x * rstd(x) * gain.astype(f32)

    def rope(a):
        return jnp.concatenate([a[..., :h] * cos - a[..., h:] * sin, a[..., h:] * cos + a[..., :h] * sin], -1)

    y = norm(x, weights["norm1"])
    groups = enumerate(((0, q), (q, q + k), (q + k, q + 2 * k)))
    q, k, v = (linear(y, "qkv", i, start, end).reshape(c.rows, c.length, -1, c.head_dim) for i, (start, end) in groups)
    x = x + linear(PlainOps.attention(rope(q), rope(k), v)[0].reshape(c.tokens, c.queries), "out", 0, 0, c.hidden)
    y = norm(x, weights["norm2"])
    gate, up = linear(y, "gate_up", 0, 0, c.inner), linear(y, "gate_up", 1, c.inner, 2 * c.inner)
    return x + linear(gate * jax.nn.sigmoid(gate) * up, "down", 0, 0, c.hidden)


def check(config, block, plans):
    """Prints how far a block's output and gradients are from those of the reference by autodiff, relative to their norms."""
    c = config
    weights, lora = random_layer(c, jax.random.key(0)), random_adapters(c, jax.random.key(1), b_scale=2e-2)
    x, dy = (jax.random.normal(jax.random.key(i), (c.tokens, c.hidden), f32).astype(bf16) for i in (2, 3))
    cos, sin = c.rotations()
    y, pull = jax.vjp(functools.partial(reference, c, weights, cos, sin), x.astype(f32), lora)
    dx, gradients = pull(dy.astype(f32))

    def difference(a, b):
        return round(float(jnp.linalg.norm(a.astype(f32) - b) / jnp.linalg.norm(b)), 4)

    work, dy = block.work(lora, weights), pad_columns(dy, c.hidden + PAD)
    for plan in plans:
        got, a = block.forward(x, weights, work, cos, sin)
        if plan.kept is None:
            got_dx, g = block.backward(dy, x, a, weights, work, cos, sin)
        else:
            got_dx, g = block.backward_recomputing(dy, x, {k: a[k] for k in plan.kept}, weights, work, cos, sin, plan.chunks)
        g = block.gradients(g, weights)
        print(json.dumps(dict(kept="all" if plan.kept is None else plan.kept, chunks=plan.chunks, y=difference(got - x.astype(f32), y - x),
                              dx=difference(got_dx[:, :c.hidden], dx), **{k: difference(g[k], gradients[k]) for k in gradients})), flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--shape", default="llama-3-8b", choices=["llama-3-8b", "tiny"])
    p.add_argument("--rows", type=int, default=2)
    p.add_argument("--length", type=int, help="tokens per row; default: 2048, 64 of the tiny shape")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--keep", default="all", choices=["all", "nothing"], help="on the device for the backward pass, beside what is small")
    p.add_argument("--compute", default="bf16", choices=["bf16", "fp8"])
    p.add_argument("--check", action="store_true", help="compare a block with autodiff in float32, each way of keeping, and time nothing")
    a = p.parse_args()
    if a.compute == "fp8" and a.keep != "all":
        p.error("--compute fp8 computes nothing again: it needs --keep all")
    config = Config(a.shape, a.rows, a.length)
    if config.tokens % (min(config.tokens, HEAD_CHUNK) if a.shape == "tiny" else HEAD_CHUNK):
        p.error(f"rows times length must be a multiple of {HEAD_CHUNK}")
    ops = PlainOps if a.shape == "tiny" else CudaOps
    block = (Float8Block if a.compute == "fp8" else Block)(config, ops)
    if a.check:
        if a.rows % 2:
            p.error("--check goes backward in two chunks: it needs an even number of rows")
        recomputing = [plan("nothing", 8)._replace(chunks=2), plan("nothing", 2)._replace(chunks=2), Plan(("xA_down",), (), 2)]
        check(config, block, [plan("all", a.rows)] + (recomputing if a.compute == "bf16" else []))
        return
    how = plan(a.keep, a.rows)
    if a.rows % how.chunks:
        p.error(f"the backward pass goes in {how.chunks} chunks, which do not divide {a.rows} rows")
    if ops is CudaOps:
        ops.make_kernels()  # not part of the first step's seconds
    step = Step(config, block, how)
    step.draw()
    first_loss, first, last_loss, ms = time_steps(step, a.steps)
    median, memory = statistics.median(ms), step.device.memory_stats() or {}
    print(json.dumps(dict(
        peer=f"jax {jax.__version__}", shape=a.shape, rows=a.rows, length=config.length, keep=a.keep, compute=a.compute,
        median_ms=round(median, 1), min_ms=round(min(ms), 1), max_ms=round(max(ms), 1), tokens_per_s=round(config.tokens / median * 1e3, 1),
        peak_gib=round(memory.get("peak_bytes_in_use", 0) / 2**30, 2), first_s=round(first, 1), first_loss=round(first_loss, 4),
        last_loss=round(last_loss, 4))), flush=True)


if __name__ == "__main__":
    main()
