#!/usr/bin/env python3
"""Writes the fixtures of package peft, computed by PEFT: adapter folders, matching cases, formatting. Run it in this folder.

Made with: peft 0.21.2, transformers 5.24.0, torch 2.15.0, safetensors 0.8.0, numpy 2.4.6, Python 3.11.7.

adapters/NAME/     what save_pretrained wrote for a tiny Llama (tiny_llama.py), A and B random; of README.md the metadata;
                   `renamed` has its keys rewritten
adapters.json      NAME -> the targeted modules with rank, alpha, scaling and the sums of A and B in float64
configs.json       NAME -> text of an adapter_config.json whose feature is not supported here
matching.json      inputs and results of PEFT's matching functions, and of get_peft_model on tiny models
initial.json       initial values of this package's own generator, computed from its definition
numbers.txt        floats as json.dumps writes them
strings.txt        strings as json.dumps writes them
"""

import json
import math
import os
import random
import re
import shutil
import struct
import sys
import warnings
from types import SimpleNamespace

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.config import EvaConfig, MontecloraConfig
from peft.tuners.tuners_utils import _ExcludedModule, _find_minimal_target_modules, check_target_module_exists
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, T5Config, T5ForConditionalGeneration

from tiny_llama import tiny_llama

warnings.simplefilter("ignore")


def write_json(name, value):
    with open(name, "w") as f:
        json.dump(value, f, indent=1)
        f.write("\n")


# --- adapters ---------------------------------------------------------------------------------------------------------

ADAPTERS = {
    "names": dict(target_modules=["v_proj", "q_proj"], lora_dropout=0.05, lora_alpha=16, revision="main"),
    "regexp": dict(target_modules=r".*\.layers\.[02]\.self_attn\.(q|o)_proj", r=3, init_lora_weights="gaussian"),
    "lookahead": dict(target_modules=r"(?!.*\.layers\.1\.).*\.down_proj", r=2),
    "all_linear": dict(target_modules="all-linear", r=2, lora_alpha=1),
    "patterns": dict(target_modules=["q_proj", "down_proj"], r=4, lora_alpha=8,
                     rank_pattern={r"^model\.layers\.1\..*": 5, "down_proj": 2}, alpha_pattern={"q_proj": 12, "layers.0.mlp.down_proj": 2.5}),
    "rslora": dict(target_modules=["k_proj"], r=3, lora_alpha=10, use_rslora=True, rank_pattern={"layers.2.self_attn.k_proj": 6}),
    "layers": dict(target_modules=["q_proj", "up_proj"], exclude_modules=["layers.2.mlp.up_proj"], layers_to_transform=[1, 2],
                   layers_pattern=["layers"], r=1),
    "orthogonal": dict(target_modules=["o_proj"], r=2, init_lora_weights="orthogonal"),
    "head": dict(target_modules=["lm_head"], r=2),
    "bfloat16": dict(target_modules=["gate_proj"], r=2),
}


def randomize(model, seed):
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".lora_" in name:
                p.copy_(torch.randn(p.shape, generator=gen))


def make_adapters():
    shutil.rmtree("adapters", ignore_errors=True)
    expected = {}
    for i, (name, settings) in enumerate(ADAPTERS.items()):
        base = tiny_llama()
        if name == "bfloat16":
            base = base.to(torch.bfloat16)
        config = LoraConfig(task_type="CAUSAL_LM", **settings)
        model = get_peft_model(base, config, autocast_adapter_dtype=name != "bfloat16")
        randomize(model, i)
        folder = os.path.join("adapters", name)
        model.save_pretrained(folder)
        sort_targets(folder)
        keep_metadata(folder, name == "names")
        expected[name] = targets_of(model)
    shutil.copytree("adapters/names", "adapters/renamed")
    keep_metadata("adapters/renamed", False)
    rename_keys("adapters/renamed")
    expected["renamed"] = expected["names"]
    write_json("adapters.json", expected)


def sort_targets(folder):
    """PEFT writes sets in the order of this process's string hashes, which says nothing; sorted, reruns agree."""
    path = os.path.join(folder, "adapter_config.json")
    with open(path) as f:
        config = json.load(f)
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config[key], list):
            config[key].sort()
    with open(path, "w") as f:
        f.write(json.dumps(config, indent=2, sort_keys=True))


def keep_metadata(folder, wanted):
    """Of the model card, only the metadata matter; the rest is the hub's form to fill in."""
    path = os.path.join(folder, "README.md")
    if not wanted:
        os.remove(path)
        return
    with open(path) as f:
        head = re.match(r"---\n.*?\n---\n", f.read(), re.DOTALL).group()
    with open(path, "w") as f:
        f.write(head)


def rename_keys(folder):
    """As a state dict has them: an adapter's name, no prefix."""
    path = os.path.join(folder, "adapter_model.safetensors")
    renamed = {re.sub(r"^base_model\.model\.(.*)\.weight$", r"\1.my-adapter.weight", k): v for k, v in load_file(path).items()}
    save_file(renamed, path, metadata={"format": "pt"})


def targets_of(model):
    out = {}
    for path in model.base_model.targeted_module_names:
        module = model.base_model.model.get_submodule(path)
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        out[path] = dict(r=module.r["default"], alpha=module.lora_alpha["default"], scaling=module.scaling["default"],
                         a_shape=list(a.shape), b_shape=list(b.shape), a_sum=float(a.double().sum()), b_sum=float(b.double().sum()))
    return out


# --- configs of unsupported features ----------------------------------------------------------------------------------

REFUSED = {
    "fan_in_fan_out": dict(fan_in_fan_out=True),
    "trainable_token_indices of a module": dict(trainable_token_indices={"wte": [1, 2]}),
    "target_parameters": dict(target_parameters=["v_proj.weight"]),
    "layer_replication": dict(layer_replication=[[0, 1], [0, 2]]),
    "alora_invocation_tokens": dict(alora_invocation_tokens=[1, 2]),
    "use_qalora": dict(use_qalora=True),
    "monteclora_config": dict(monteclora_config=MontecloraConfig()),
    "init_lora_weights mica": dict(init_lora_weights="mica"),
    "task_type": dict(task_type="SEQ_CLS"),
}


def make_configs():
    out = {}
    for name, settings in REFUSED.items():
        out[name] = saved(LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], **settings}))
    write_json("configs.json", out)


def saved(config):
    config.save_pretrained("saved")
    with open("saved/adapter_config.json") as f:
        text = f.read()
    shutil.rmtree("saved")
    return text


# --- matching ---------------------------------------------------------------------------------------------------------

# The cases of PEFT's own tests (tests/test_tuners_utils.py, REGEX_TEST_CASES): key, targets, layers, pattern of layers.
Q = "transformer.h.1.attn.attention.q_proj"
RULES = [
    ("", [], None, None), ("", ["foo"], None, None), ("foo", [], None, None), ("foo", ["foo"], None, None),
    ("foo", ["bar"], None, None), ("foo", ["foo", "bar"], None, None), ("foo", "foo", None, None), ("foo", ".*oo", None, None),
    ("foo", "fo.*", None, None), ("foo", ".*bar.*", None, None), ("foobar", ".*oba.*", None, None),
    ("foo.bar.1.baz", ["baz"], [1], ["bar"]), ("foo.bar.1.baz", ["baz"], [0], ["bar"]), ("foo.bar.1.baz", ["baz"], [2], ["bar"]),
    ("foo.bar.10.baz", ["baz"], [0], ["bar"]), ("foo.bar.10.baz", ["baz"], [1], ["bar"]),
    ("foo.bar.1.baz", ["baz"], [0, 1, 2], ["bar"]), ("foo.bar.1.baz", ["baz", "spam"], [1], ["bar"]),
    ("foo.bar.1.baz", ["baz", "spam"], [0, 1, 2], ["bar"]),
    ("foo.whatever.1.baz", ["baz"], [1], []), ("foo.whatever.1.baz", ["baz"], [0], []),
    ("foo.whatever.1.baz", ["baz"], [1], ""), ("foo.whatever.1.baz", ["baz"], [0], ""),
    ("foo.whatever.1.baz", ["baz"], [1], None), ("foo.whatever.1.baz", ["baz"], [0], None),
    (Q + ".foo", ["q_proj"], None, []), (Q, [], None, []), (Q, ["q_proj"], None, []), (Q, ["q_proj", "v_proj"], None, []),
    ("transformer.h.1.attn.attention.resid_dropout", ["q_proj", "v_proj"], None, []),
    (Q, ["q_proj"], [1], ["h"]), (Q, ["q_proj"], [0], ["h"]), (Q, ["q_proj"], [2], ["h"]),
    (Q, ["q_proj"], [0, 1, 2], ["h"]), (Q, ["q_proj", "v_proj"], [0, 1, 2], ["h"]),
    ("foo.bar.q_proj", ["q_proj"], None, []),
    ("foo.bar.1.baz", ["baz"], [1], ["foo"]), ("foo.bar.1.baz", ["baz"], [1], ["baz"]), ("bar.1.baz", ["baz"], [1], ["bar"]),
    ("foo.bar.001.baz", ["baz"], [1], ["bar"]), ("foo.bar.1.spam.2.baz", ["baz"], [1], ["bar"]),
    ("foo.bar.2.spam.1.baz", ["baz"], [1], ["bar"]),
    ("blocks.1.weight", ["weight"], [1], ["blocks"]), ("blocks.1.bias", ["weight"], [1], ["blocks"]),
    ("mlp.blocks.1.weight", ["weight"], [1], ["blocks"]), ("mlp.blocks.1.bias", ["weight"], [1], ["blocks"]),
]
E = "model.layers.1.mlp.experts.0.up_proj"
RULES += [
    (E, ["up_proj"], [1], None), (E, ["up_proj"], [0], None), (E, ["up_proj"], [1], ["h", "layers"]), (E, ["up_proj"], [0], ["experts"]),
    (E, [E], [7], None), (E, ["experts.0.up_proj"], [1], "layers"), (E, ["s.0.up_proj"], None, None), (E, ["up_proj"], 1, "layers"),
    (E, ["up_proj"], [1], "h|layers"), (E, ["up_proj"], [1], "(?:h|layers)"), (E, ["up_proj"], [1], r"(?<=model\.)layers"),
    (E, ["up_proj"], [], "layers"), (E, ["up_proj."], None, None), (E, ["UP_PROJ"], None, None),
    ("layers.1.up_proj", ["up_proj"], [1], None), ("model.layers.1x.up_proj", ["up_proj"], [1], None),
]
# Python's syntax of regular expressions, on one key that each may match.
K = "model.layers.12.self_attn.q_proj"
EXPRESSIONS = [
    r".*q_proj", r".*\.(q|v)_proj", r"q_proj", r"model", r".*layers\.\d+\..*", r".*layers\.\d\..*", r".*layers\.\d{2}\..*",
    r".*layers\.\d{,3}\..*", r".*layers\.\d{3,}\..*", r"(?!.*k_proj).*_proj", r"(?!.*q_proj).*_proj", r".*(?<!v)(?<!k)_proj",
    r".*(?<=q)_proj", r".*\.(?P<x>q|v)_proj", r"(?i).*Q_PROJ", r".*Q_PROJ", r"(?:a|model).*", r"^model.*proj$", r"\Amodel.*proj\Z",
    r"a|b", r"model|.*", r".*[[.]q_proj", r".*[]_]proj", r".*[^]a-z]proj", r".*[a-pr-z]_proj", r"(.)odel.*", r".*(e)l\.lay\1rs.*",
    r".*(?P<v>e)l\.lay(?P=v)rs.*", r".*\_proj", r".*\bself_attn\b.*", r".*\Bttn.*", r"[\w.]+", r"[\w]+", r".*(?#comment)_proj",
    r".*layers\.(1[0-5]|[0-9])\..*", r".*\x71_proj", r".*\u0071_proj", r".+?\.q_proj", r"(?s:.*)_proj", r"(?=model)(?=.*q_proj).*",
    r"(a)?model(?(1)x|\.).*", r".*\.self_attn\.(?!o_)[a-z]_proj", r"", r"(?>model)\.layers.*", r".*layers\.12{1}\..*", r".*\S\.\S.*",
]


def rule(key, targets=None, layers=None, pattern=None, exclude=None, save=None):
    result = check_target_module_exists(SimpleNamespace(target_modules=targets, layers_to_transform=layers, layers_pattern=pattern,
                                                        exclude_modules=exclude, modules_to_save=save, target_parameters=None), key)
    return dict(key=key, target_modules=targets, layers_to_transform=layers, layers_pattern=pattern, exclude_modules=exclude,
                modules_to_save=save, result="excluded" if isinstance(result, _ExcludedModule) else "targeted" if result else "")


def rules():
    out = [rule(*case) for case in RULES]
    out += [rule(K, e) for e in EXPRESSIONS]
    out += [rule(K, ["q_proj"], exclude=e) for e in EXPRESSIONS + [["q_proj"], ["v_proj"], [K], ["attn.q_proj"], ["self_attn"], []]]
    out += [rule(K, ["q_proj"], save=s) for s in (["q_proj"], ["self_attn"], ["model"], ["proj"], ["lm_head", "attn"], [".*attn"], ["layers.12"], ["layers.1"])]
    return out


def pattern_keys():
    modules = ["foo", "bar", "module.foo", "module.foobar", "module.module.foo", "module.module.barfoo", K]
    dicts = [["bla", "oof"], ["foo"], ["^foo"], ["^module.foo"], ["module.module.foo"], ["^module.module.foo"], ["module.foo"],
             ["^module.foo", "^module.module.foo"], ["^foo", "^module.foo"], ["^foo", "module.module.foo"],
             ["^foo", "^module.module.foo"], ["^foo", "^module.foo", "^module.module.foo"], ["^module.module.foo", "^module.foo", "^foo"],
             ["foo", "^foo"], ["foo|bar"], [".*foo"], ["f.o"], ["(?!m).*foo"], [r"layers\.\d+\.self_attn\.q_proj"], [r".*\.1[0-9]\..*"],
             ["self_attn.q_proj", "q_proj"], ["q_proj", "self_attn.q_proj"], [r"(q|v)_proj"], [r"q_proj$"], ["proj"]]
    return [dict(keys=keys, results={m: keys.index(k) if (k := get_pattern_key(keys, m)) in keys else -1 for m in modules}) for keys in dicts]


def minimal_sets():
    layers = range(12)
    attn = [f"model.decoder.layers.{i}.self_attn" for i in layers]
    cases = [
        (["bar"], []), (["foo"], ["bar"]), (["1.foo", "2.foo"], ["3.foo", "4.foo"]), (["bar.baz"], ["foo.bar"]),
        (["1.foo", "2.foo", "bar.baz"], ["3.foo", "bar.bla"]), (["a.b.c", "d.e.f", "g.h.i"], ["j.k.l", "m.n.o"]),
        (["a.b.c", "d.e.f", "g.h.i"], ["a.b.x", "d.x.f", "x.h.i"]), (["foo.bar.baz", "qux.bar.baz"], ["baz.bar.foo"]),
        ([a + ".k_proj" for a in attn], attn + [a + ".v_proj" for a in attn]),
        ([a + ".k_proj" for a in attn if ".5." not in a], attn + [a + ".v_proj" for a in attn] + ["model.decoder.layers.5.self_attn.k_proj"]),
        ([f"transformer_blocks.{i}.query" for i in layers], [f"single_transformer_blocks.{i}.query" for i in layers]),
        (["x.proj", "y.proj", "x.proj_out", "y.time_emb_proj", "ff.net.0.proj"],
         ["time_proj", "add_time_proj", "time_embedding.linear_1", "ff.net.0", "x", "y"]),
        (["a"], ["x.a"]), (["b.a", "c.a"], ["a.b", "a"]),
    ]
    return [dict(targets=t, others=o, result=sorted(_find_minimal_target_modules(t, o))) for t, o in cases]


def models():
    """get_peft_model on models of random weights."""
    t5 = T5Config(vocab_size=32, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2, feed_forward_proj="relu", tie_word_embeddings=False)
    neox = GPTNeoXConfig(vocab_size=32, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2)
    gpt2 = GPT2Config(vocab_size=32, n_embd=8, n_layer=6, n_head=2, n_positions=16)
    makers = {"llama": tiny_llama, "llama_base": lambda: tiny_llama().model, "gpt2": lambda: GPT2LMHeadModel(gpt2),
              "t5": lambda: T5ForConditionalGeneration(t5), "gpt_neox": lambda: GPTNeoXForCausalLM(neox)}
    llama = [
        {}, dict(target_modules="all-linear"), dict(target_modules="ALL-Linear"), dict(target_modules=["k_proj"]),
        dict(target_modules=r".*(q_proj|v_proj)$"), dict(target_modules=["q_proj", "nothing"]), dict(target_modules=["lm_head", "q_proj"]),
        dict(target_modules=["q_proj"], layers_to_transform=[0, 7]), dict(target_modules=["q_proj"], layers_to_transform=1, layers_pattern="layers"),
        dict(target_modules="all-linear", exclude_modules=["mlp.up_proj", "layers.0.self_attn.k_proj"]),
        dict(target_modules="all-linear", exclude_modules=r".*\.layers\.[12]\..*"),
        dict(target_modules=["q_proj"], exclude_modules=["nothing"]), dict(target_modules="all-linear", exclude_modules="nothing"),
        dict(target_modules=["q_proj", "k_proj"], rank_pattern={"q_proj": 4, "nothing": 5}, alpha_pattern={"x": 1}),
        dict(target_modules="all-linear", r=16, lora_alpha=11, use_rslora=True, rank_pattern={"mlp.*": 25}, alpha_pattern={"^model.layers.2.*": 13}),
        dict(target_modules=[f"model.layers.{i}.self_attn.{n}_proj" for i in range(3) for n in "qkvo"] + [f"model.layers.{i}.mlp.{n}_proj" for i in range(3) for n in ("gate", "down", "up")]),
        dict(target_modules=[f"model.layers.{i}.{n}_proj" for i in range(3) for n in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.down", "mlp.up") if (i, n) != (1, "mlp.up")]),
        dict(target_modules=["nothing"]), dict(target_modules="nothing"), dict(target_modules=["all-linear"]), dict(target_modules=[]),
        dict(target_modules=["q_proj"], exclude_modules=["q_proj"]), dict(target_modules="all-linear", exclude_modules=".*"),
        dict(target_modules=["q_proj", "nothing"], exclude_modules=["q_proj"]),
        dict(target_modules=["q_proj"], layers_to_transform=[3]), dict(target_modules=["q_proj"], layers_to_transform=[0], layers_pattern=["h"]),
        dict(target_modules=["q_proj"], modules_to_save=["layers.0"]), dict(target_modules=["self_attn"]), dict(target_modules=["norm", "q_proj"]),
    ]
    out = []
    for name, make in makers.items():
        model = make()
        head = model.get_output_embeddings() if name != "llama_base" else None
        modules = []
        for path, module in model.named_modules():
            if not path:
                continue
            rows, columns = 0, 0
            if isinstance(module, torch.nn.Linear):
                rows, columns = module.weight.shape
            elif type(module).__name__ == "Conv1D":
                columns, rows = module.weight.shape
            modules.append([path, columns, rows, module is head])
        cases = [attempt(make(), c) for c in (llama if name == "llama" else [{}, dict(target_modules="all-linear")])]
        out.append(dict(model_type=model.config.model_type, modules=modules, cases=cases))
    return out


def attempt(model, settings):
    case = dict(config=settings, error="", warnings=[], targets={}, target_modules=None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            tuned = get_peft_model(model, LoraConfig(**settings))
        except ValueError as e:
            case["error"] = f"{type(e).__name__}: {e}".splitlines()[0].replace(repr(settings.get("target_modules")), "…")
            case["error"] = re.sub(r"\{[^}]*\}", "{…}", case["error"])
            return case
    case["warnings"] = [str(w.message) for w in caught if "exclude_modules" in str(w.message) or "_pattern keys" in str(w.message)]
    case["targets"] = {p: v for p, v in targets_of(tuned).items()}
    for t in case["targets"].values():
        for key in ("a_sum", "b_sum"):
            del t[key]
    targets = tuned.peft_config["default"].target_modules
    case["target_modules"] = sorted(targets) if isinstance(targets, set) else targets
    return case


def make_matching():
    with open("matching.json", "w") as f:  # one case to a line
        f.write("{\n")
        defaults = [dict(model_type=k, target_modules=sorted(v) if isinstance(v, list) else v)
                    for k, v in sorted(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.items())]
        sections = dict(defaults=defaults, rules=rules(), pattern_keys=pattern_keys(), minimal_sets=minimal_sets(), models=models())
        for i, (name, cases) in enumerate(sections.items()):
            f.write(f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]" + (",\n" if i + 1 < len(sections) else "\n"))
        f.write("}\n")


# --- formatting -------------------------------------------------------------------------------------------------------


def make_formatting():
    rng = random.Random(7)
    numbers = [0.0, -0.0, 0.05, 0.1, 0.5, 1.0, 16.0, 1e15, 1e16, 123456789012345678.0, 1e22, 1e23, 1e100, 1e-4, 9.999e-5, 1e-5, 2.5e-7,
               5e-324, sys.float_info.max, sys.float_info.min, math.pi, 1 / 3, float(2**53), 9999999999999998.0, 0.1 + 0.2, 11 / math.sqrt(25)]
    numbers += [rng.uniform(-1, 1) * 10 ** rng.randint(-20, 20) for _ in range(100)]
    while len(numbers) < 300:
        x = struct.unpack("<d", rng.randbytes(8))[0]
        if math.isfinite(x):
            numbers.append(x)
    with open("numbers.txt", "w") as f:
        f.writelines(json.dumps(x) + "\n" for x in numbers)
    strings = ["", "q_proj", "/data/models/Llama 3", 'quote " and \\ backslash', "".join(map(chr, range(0x80))), "é ß 日本語 \u2028\u2029\ufeff\uffff",
               "😀\U0010ffff", "</script>&<>", r".*\.(?!v_)\w+_proj$"]
    with open("strings.txt", "w") as f:
        f.writelines(json.dumps(s) + "\n" for s in strings)


# --- the generator of initial values ----------------------------------------------------------------------------------

MASK, GAMMA = 2**64 - 1, 0x9E3779B97F4A7C15


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def fnv1a(text):
    h = 0xCBF29CE484222325
    for c in text.encode():
        h = ((h ^ c) * 0x100000001B3) & MASK
    return h


def stream(seed, name, n):
    key = mix(fnv1a(name) ^ mix((seed + GAMMA) & MASK))
    return [mix((key + (i + 1) * GAMMA) & MASK) for i in range(n)]


def uniform(seed, name, n, bound):
    return [float(numpy.float32(numpy.float32((x >> 40) * 2.0**-23 - 1) * numpy.float32(bound))) for x in stream(seed, name, n)]


def normal(seed, name, n, deviation):
    out, x = [], stream(seed, name, n + 1)
    for i in range(0, n, 2):
        radius = deviation * math.sqrt(-2 * math.log(((x[i] >> 11) + 1) * 2.0**-53))
        angle = 2 * math.pi * ((x[i + 1] >> 11) * 2.0**-53)
        out += [radius * math.cos(angle), radius * math.sin(angle)]
    return [float(numpy.float32(x)) for x in out[:n]]


def make_initial():
    seed, path, r, columns, rows = 42, "model.layers.3.self_attn.q_proj", 2, 3, 5
    write_json("initial.json", dict(
        seed=seed, path=path, r=r, columns=columns, rows=rows,
        a=uniform(seed, path + ".lora_A", r * columns, 1 / math.sqrt(columns)),
        b=uniform(seed, path + ".lora_B", rows * r, 1 / math.sqrt(r)),
        gaussian_a=normal(seed, path + ".lora_A", r * columns, 1 / r)))


if __name__ == "__main__":
    make_adapters()
    make_configs()
    make_matching()
    make_formatting()
    make_initial()
