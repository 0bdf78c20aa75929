#!/usr/bin/env python3
"""Writes the fixtures of package peft that need a model, computed by PEFT on the CPU in float32.

    python scripts/reference/make_tuner_fixtures.py [--out peft/testdata/tuners] [CASE ...]

The bases are the tiny checkpoints of models/testdata. Every case is a folder:

adapter_config.json, adapter_model.safetensors   what save_pretrained wrote after every trained tensor got random numbers added
case.json               base, quantization, ids, loss, versions; for EVA the batches
reference.safetensors   logits with the adapter; merged.logits, those after merge_and_unload; base.logits without it;
                        grad.KEY of each tensor KEY of the adapter's file, of the mean cross entropy of ids;
                        initial.KEY, what PEFT's initialization gave; of AdaLoRA, gradients are with the regularization
converted/              where it applies: the adapter that save_pretrained(path_initial_model_for_weight_conversion) wrote

The case "combined" is beside these folders, in ../combined: adapters, and what add_weighted_adapter makes of them.

All random numbers come from seeded generators: a rerun with the versions of case.json writes the same files.
"""

import argparse
import copy
import inspect
import json
import os
import shutil
import sys
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy
import peft
import torch
import transformers
from peft import (AdaLoraConfig, BOFTConfig, EvaConfig, IA3Config, LoftQConfig, LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, PeftModel, VeraConfig,
                  get_peft_model, initialize_lora_eva_weights)
from peft.tuners.boft import layer as boft_layer
from peft.tuners.lora import eva
from peft.tuners.lora import layer as lora_layer
from peft.utils import loftq_utils
from peft.utils.incremental_pca import IncrementalPCA
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

warnings.simplefilter("ignore")
HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = os.path.join(HERE, "..", "..", "models", "testdata")
BASES = {"llama": "bnb_none", "gemma2": "families/gemma2_plain", "qwen2": "families/qwen2_plain", "phi3": "families/phi3_window"}
LENGTH = 8


def on_the_cpu(function, module):
    """loftq_init asks for CUDA where bitsandbytes has long had kernels for the CPU."""
    scope = dict(vars(module))
    exec(inspect.getsource(function).replace('else "cuda"', 'else "cpu"').replace("@torch.no_grad()", "").lstrip(), scope)
    return torch.no_grad()(scope[function.__name__])


lora_layer.loftq_init = on_the_cpu(loftq_utils.loftq_init, loftq_utils)
loftq_utils.clear_device_cache = lambda *a, **k: None
lora_layer.loftq_init.__globals__["clear_device_cache"] = lambda *a, **k: None

ATTENTION_AND_DOWN = ["q_proj", "down_proj"]
PHI = ["qkv_proj", "down_proj"]

CASES = {
    "orthogonal": dict(base="llama", config=dict(init_lora_weights="orthogonal", r=4, target_modules=ATTENTION_AND_DOWN)),
    "pissa": dict(base="llama", convert=True, config=dict(init_lora_weights="pissa", r=3, lora_alpha=5, target_modules=ATTENTION_AND_DOWN)),
    "pissa_qwen2": dict(base="qwen2", convert=True, config=dict(
        init_lora_weights="pissa", r=2, use_rslora=True, lora_alpha=3, target_modules=["k_proj", "gate_proj"])),
    "pissa_niter": dict(base="phi3", config=dict(init_lora_weights="pissa_niter_4", r=2, target_modules=PHI)),
    "olora": dict(base="gemma2", convert=True, config=dict(
        init_lora_weights="olora", r=3, lora_alpha=4, target_modules=["v_proj", "down_proj"], rank_pattern={"down_proj": 2},
        alpha_pattern={"v_proj": 2})),
    "olora_nf4": dict(base="llama", nf4=True, config=dict(init_lora_weights="olora", r=3, lora_alpha=3, target_modules=ATTENTION_AND_DOWN)),
    "loftq": dict(base="llama", config=dict(init_lora_weights="loftq", loftq_config=LoftQConfig(loftq_bits=4, loftq_iter=3), r=3, lora_alpha=3,
                                            target_modules=ATTENTION_AND_DOWN)),
    "loftq_int8": dict(base="qwen2", config=dict(init_lora_weights="loftq", loftq_config=LoftQConfig(loftq_bits=8), r=2, lora_alpha=2,
                                                 target_modules=["up_proj"])),
    "eva": dict(base="llama", eva=True, exact=True, config=dict(init_lora_weights="eva", r=3, lora_alpha=4, target_modules=["q_proj", "k_proj", "o_proj", "down_proj"],
                                                    eva_config=EvaConfig(rho=2.0, tau=0.99))),
    "dora": dict(base="llama", std=0.1, config=dict(use_dora=True, r=3, lora_alpha=5, target_modules="all-linear")),
    "dora_qwen2": dict(base="qwen2", std=0.1, config=dict(  # biases, which the magnitude leaves alone; not all of a group
        use_dora=True, r=2, use_rslora=True, lora_alpha=3, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)),
    "dora_gemma2": dict(base="gemma2", std=0.1, config=dict(use_dora=True, r=2, target_modules=["k_proj", "o_proj", "gate_proj"],
                                                            init_lora_weights="pissa")),
    "dora_phi3": dict(base="phi3", std=0.1, config=dict(use_dora=True, r=2, target_modules=["qkv_proj", "gate_up_proj"])),
    "dora_nf4": dict(base="llama", nf4=True, std=0.1, config=dict(use_dora=True, r=3, target_modules=["q_proj", "k_proj", "down_proj"])),
    "bias_all": dict(base="qwen2", config=dict(bias="all", r=2, target_modules=["q_proj", "down_proj"])),
    "bias_lora_only": dict(base="qwen2", config=dict(bias="lora_only", r=2, use_dora=True, target_modules=["k_proj", "v_proj", "o_proj"])),
    "lora_bias": dict(base="qwen2", config=dict(lora_bias=True, r=2, lora_alpha=3, target_modules=["q_proj", "v_proj"])),
    "lora_bias_nf4": dict(base="llama", nf4=True, config=dict(lora_bias=True, r=2, lora_alpha=3, init_lora_weights=False, target_modules=["o_proj", "up_proj"])),
    "ends_lora": dict(base="llama", config=dict(r=2, lora_alpha=3, target_modules=["embed_tokens", "lm_head", "v_proj"])),
    "ends_lora_gemma2": dict(base="gemma2", unmerged=True, config=dict(  # a tied head, and an embedding that is scaled
        r=2, lora_alpha=3, target_modules=["embed_tokens", "lm_head", "q_proj"])),
    "ends_full": dict(base="llama", config=dict(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])),
    "head_full_gemma2": dict(base="gemma2", config=dict(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])),
    "tokens": dict(base="llama", config=dict(r=2, target_modules=["q_proj"], trainable_token_indices=[68, 3, 42])),
    "tokens_gemma2": dict(base="gemma2", config=dict(r=2, target_modules=["q_proj"], trainable_token_indices=[30, 5, 66])),
    "eva_whiten": dict(base="phi3", eva=True, exact=True, config=dict(init_lora_weights="eva", r=2, target_modules="all-linear",
                                                          eva_config=EvaConfig(rho=1.5, tau=0.98, whiten=True, adjust_scaling_factors=False))),
}


OTHERS = {
    "ia3": dict(base="llama", tuner=IA3Config, config=dict()),
    "ia3_gemma2": dict(base="gemma2", tuner=IA3Config, config=dict(init_ia3_weights=False, target_modules=r".*layers\.1\..*_proj", feedforward_modules=r".*(up|o)_proj")),
    "ia3_qwen2": dict(base="qwen2", tuner=IA3Config, config=dict(target_modules=["q_proj", "v_proj", "gate_proj"], feedforward_modules=["gate_proj"])),
    "ia3_phi3": dict(base="phi3", tuner=IA3Config, config=dict(target_modules=["qkv_proj", "down_proj", "gate_up_proj"], feedforward_modules=["down_proj"])),
    "ia3_nf4": dict(base="llama", nf4=True, tuner=IA3Config, config=dict()),
    "loha": dict(base="llama", tuner=LoHaConfig, config=dict(r=3, alpha=5, target_modules=ATTENTION_AND_DOWN, rank_pattern={"down_proj": 2}, alpha_pattern={"q_proj": 4})),
    "loha_gemma2": dict(base="gemma2", tuner=LoHaConfig, config=dict(r=2, init_weights=False, target_modules=["v_proj", "o_proj"], layers_to_transform=[1])),
    "loha_qwen2": dict(base="qwen2", tuner=LoHaConfig, config=dict(r=1, alpha=2, target_modules=["k_proj", "gate_proj"], exclude_modules=["layers.0.mlp.gate_proj"])),
    "loha_phi3": dict(base="phi3", tuner=LoHaConfig, config=dict(r=2, target_modules=PHI)),
    "lokr": dict(base="llama", tuner=LoKrConfig, config=dict(r=2, alpha=3, target_modules=ATTENTION_AND_DOWN, rank_pattern={"down_proj": 3})),
    "lokr_qwen2": dict(base="qwen2", tuner=LoKrConfig, config=dict(r=1, decompose_both=True, decompose_factor=4, init_weights="lycoris", target_modules=["k_proj", "gate_proj"])),
    "lokr_gemma2": dict(base="gemma2", tuner=LoKrConfig, config=dict(r=1, decompose_both=True, init_weights=False, target_modules=["v_proj", "down_proj"])),
    "lokr_phi3": dict(base="phi3", tuner=LoKrConfig, config=dict(r=16, target_modules=PHI)),
    "oft": dict(base="llama", tuner=OFTConfig, config=dict(oft_block_size=4, target_modules=ATTENTION_AND_DOWN)),
    "oft_gemma2": dict(base="gemma2", tuner=OFTConfig, config=dict(oft_block_size=5, block_share=True, init_weights=False, num_cayley_neumann_terms=3, target_modules=["v_proj", "o_proj"])),
    "oft_coft": dict(base="llama", tuner=OFTConfig, steps=4, config=dict(oft_block_size=4, coft=True, eps=0.6, init_weights=False, target_modules=ATTENTION_AND_DOWN)),
    "oft_qwen2": dict(base="qwen2", tuner=OFTConfig, std=0.3, config=dict(oft_block_size=8, use_cayley_neumann=False, target_modules=["k_proj", "v_proj", "down_proj"])),
    "oft_phi3": dict(base="phi3", tuner=OFTConfig, config=dict(r=4, oft_block_size=0, target_modules=PHI)),
    "oft_nf4": dict(base="llama", nf4=True, tuner=OFTConfig, config=dict(oft_block_size=4, target_modules=["q_proj", "k_proj"])),
    "vera": dict(base="llama", tuner=VeraConfig, config=dict(r=5, target_modules=ATTENTION_AND_DOWN)),
    "vera_gemma2": dict(base="gemma2", tuner=VeraConfig, config=dict(r=3, save_projection=False, projection_prng_key=77, d_initial=0.3, target_modules=["v_proj", "down_proj"])),
    "vera_qwen2": dict(base="qwen2", tuner=VeraConfig, config=dict(r=3, target_modules=["q_proj", "v_proj", "up_proj"], layers_to_transform=[0])),
    "vera_phi3": dict(base="phi3", tuner=VeraConfig, config=dict(r=4, init_weights=False, target_modules=PHI)),
    "vera_nf4": dict(base="llama", nf4=True, tuner=VeraConfig, config=dict(r=4, target_modules=["v_proj"])),
    "boft": dict(base="llama", tuner=BOFTConfig, config=dict(target_modules=ATTENTION_AND_DOWN)),
    "boft_gemma2": dict(base="gemma2", tuner=BOFTConfig, config=dict(boft_block_size=2, target_modules=["v_proj", "down_proj"])),
    "boft_qwen2": dict(base="qwen2", tuner=BOFTConfig, std=0.2, config=dict(boft_block_size=2, boft_n_butterfly_factor=2, target_modules=["k_proj", "v_proj"])),
    "boft_phi3": dict(base="phi3", tuner=BOFTConfig, config=dict(boft_block_size=0, boft_block_num=8, boft_n_butterfly_factor=4, init_weights=False, target_modules=["qkv_proj"])),
    "adalora": dict(base="llama", tuner=AdaLoraConfig, config=dict(init_r=3, target_r=2, lora_alpha=5, total_step=10, target_modules=ATTENTION_AND_DOWN)),
    "adalora_gemma2": dict(base="gemma2", tuner=AdaLoraConfig, config=dict(init_r=2, target_r=1, total_step=10, orth_reg_weight=0.0, init_lora_weights=False, target_modules=["v_proj", "o_proj"])),
    "adalora_qwen2": dict(base="qwen2", tuner=AdaLoraConfig, config=dict(init_r=2, target_r=1, lora_alpha=3, total_step=5, target_modules=["k_proj", "v_proj"])),
    "adalora_phi3": dict(base="phi3", tuner=AdaLoraConfig, config=dict(init_r=2, target_r=1, total_step=9, tinit=2, tfinal=3, deltaT=2, beta1=0.9, beta2=0.8, target_modules=PHI)),
    "adalora_ranks": dict(base="llama", train=10, tuner=AdaLoraConfig, config=dict(init_r=4, target_r=2, total_step=9, tinit=1, tfinal=2, deltaT=2,
                                                                                   target_modules=["q_proj", "v_proj", "down_proj"])),
}
CASES |= OTHERS


class BlockDiagonal:
    """FastBlockDiag without CUDA, so that PEFT computes the butterflies that the config asks for."""

    @staticmethod
    def apply(blocks):
        return torch.stack([torch.block_diag(*torch.unbind(b)) for b in blocks])


boft_layer.get_fbd_cuda = lambda: True
boft_layer.FastBlockDiag = BlockDiagonal


def load_base(case):
    path = os.path.join(MODELS, BASES[case["base"]])
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    model.name_or_path = model.config._name_or_path = "loris-ml/tiny-" + case["base"]
    if case.get("nf4"):
        through_bnb(model)
    return model


def through_bnb(model):
    """Puts bitsandbytes' Linear4bit in place of the layers' linears, NF4 with nested absmax."""
    import bitsandbytes as bnb
    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or "layers." not in name:
            continue
        new = bnb.nn.Linear4bit(module.in_features, module.out_features, bias=module.bias is not None, compute_dtype=torch.float32,
                                compress_statistics=True, quant_type="nf4")
        new.weight = bnb.nn.Params4bit(module.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4", module=new)
        new.bias = module.bias
        new.support_avx512bf16_for_cpu = False  # its packed form wants larger weights
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], new.to("cpu"))


def tokens(vocab, rows=2, length=LENGTH, seed=11):
    return torch.randint(3, vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


def loss_of(model, ids):
    logits = model(input_ids=ids).logits
    return logits, torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def perturb(model, std):
    gen = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if p.requires_grad:
                p.add_(std * torch.randn(p.shape, generator=gen))


def train_adalora(model, ids, steps):
    """AdamW at a rate of 0.02 with update_and_allocate after each step; what the schedule has kept after each, or None."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02, weight_decay=0.0)
    losses, kept = [], []
    for step in range(steps):
        losses.append(float(loss_of(model, ids)[1]))
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        pattern = model.peft_config["default"].rank_pattern
        kept.append(pattern and {k.replace(".default", ""): v for k, v in pattern.items()})
        optimizer.zero_grad()
    return dict(losses=losses, kept=kept)


def losses_of_training(model, ids, steps):
    """AdamW at a rate of 0.02; the loss before each step."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = loss_of(model, ids)[1]
        losses.append(float(loss))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return losses


def file_keys(model):
    """The adapter's parameters by their keys in files."""
    for p in model.parameters():
        p.requires_grad_(p.requires_grad)
    state = dict(model.named_buffers(remove_duplicate=False)) | dict(model.named_parameters())
    return {k: p for k, p in get_peft_model_state_dict(model, state_dict=state).items()}


def eva_batches(vocab):
    out = []
    for i in range(3):
        ids = tokens(vocab, 3, 30, 100 + i)
        mask = torch.ones_like(ids)
        mask[1, 24:] = 0
        labels = ids.clone()
        labels[2, :5] = -100
        out.append(dict(input_ids=ids, attention_mask=mask, labels=labels))
    return out


def write_case(name, case, out):
    folder = os.path.join(out, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    torch.manual_seed(7)
    base = load_base(case)
    ids = tokens(base.config.vocab_size)
    meta = dict(base=BASES[case["base"]], nf4=bool(case.get("nf4")), ids=ids.tolist(),
                versions=dict(peft=peft.__version__, torch=torch.__version__, transformers=transformers.__version__))
    tensors = {}
    with torch.no_grad():
        tensors["base.logits"] = base(input_ids=ids).logits
    model = get_peft_model(base, case.get("tuner", LoraConfig)(task_type="CAUSAL_LM", **case["config"])).eval()
    if case.get("eva"):
        batches = eva_batches(base.config.vocab_size)
        if case.get("exact"):  # the components themselves, not svd_lowrank's approximation of them
            eva.IncrementalPCA = lambda **o: IncrementalPCA(**o | dict(lowrank=False))
        initialize_lora_eva_weights(model, batches, show_progress_bar=False)
        eva.IncrementalPCA = IncrementalPCA
        meta["batches"] = [{k: v.tolist() for k, v in b.items()} for b in batches]
        meta["rank_pattern"], meta["alpha_pattern"] = model.peft_config["default"].rank_pattern, model.peft_config["default"].alpha_pattern
    for key, value in file_keys(model).items():
        tensors["initial." + key] = value.detach().clone()
    with torch.no_grad():
        tensors["initial.logits"] = model(input_ids=ids).logits
    with tempfile.TemporaryDirectory() as tmp:
        initial = os.path.join(tmp, "initial")
        if case.get("convert"):
            model.peft_config["default"].init_lora_weights, how = True, model.peft_config["default"].init_lora_weights
            model.save_pretrained(initial)
            model.peft_config["default"].init_lora_weights = how
        if case.get("train"):
            meta["schedule"] = train_adalora(model, ids, case["train"])
            model.save_pretrained(folder)
            model = PeftModel.from_pretrained(load_base(case), folder, is_trainable=True).eval()
        else:
            perturb(model, case.get("std", 0.05))
            model.save_pretrained(folder)
        if case.get("steps"):
            meta["schedule"] = dict(losses=losses_of_training(copy.deepcopy(model), ids, case["steps"]))
        logits, loss = loss_of(model, ids)
        if case.get("tuner") is AdaLoraConfig:
            model(input_ids=ids, labels=ids).loss.backward()  # with the regularization
        else:
            loss.backward()
        meta["loss"] = float(loss)
        tensors["logits"] = logits.detach()
        for key, p in file_keys(model).items():
            if p.grad is not None:
                tensors["grad." + key] = p.grad.clone()
        if (case["config"].get("use_dora") or "tuner" in case) and not case.get("nf4"):
            with torch.no_grad():
                merged = copy.deepcopy(model)
                merged.merge_adapter()
                merged.unmerge_adapter()
                tensors["unmerged.logits"] = merged(input_ids=ids).logits
        if case.get("convert"):
            converted = copy.deepcopy(model)
            converted.save_pretrained(os.path.join(folder, "converted"), path_initial_model_for_weight_conversion=initial)
    if case.get("unmerged"):  # PEFT's merge changes the tied head with the embedding, and with that what the model computes
        tensors["merged.logits"] = tensors["logits"]
    elif not case.get("nf4"):
        with torch.no_grad():
            tensors["merged.logits"] = model.merge_and_unload()(input_ids=ids).logits
    tidy(folder)
    with open(os.path.join(folder, "case.json"), "w") as f:
        json.dump(meta, f, indent=1)
        f.write("\n")
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, os.path.join(folder, "reference.safetensors"))
    print(name, sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(folder) for f in files), "bytes")


# Adapters a and b are of one rank, c is not. Random numbers (DARE) cannot be compared.
PARTS = {
    "a": dict(r=2, lora_alpha=3, target_modules=["q_proj", "down_proj"]),
    "b": dict(r=2, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "v_proj"]),
    "c": dict(r=3, lora_alpha=4, target_modules=["q_proj"], rank_pattern={"layers.1.self_attn.q_proj": 1}),
}
COMBINED = {
    "single": (["a"], [-0.7], {}),
    "linear": (["a", "b"], [0.5, -1.5], dict(combination_type="linear")),
    "cat": (["c", "a", "b"], [0.5, 1.25, -0.25], dict(combination_type="cat")),
    "svd": (["c", "b"], [1.0, 0.5], dict(combination_type="svd")),
    "svd_clamp": (["a", "b"], [1.0, 0.5], dict(combination_type="svd", svd_clamp=0.9)),
    "ties": (["a", "b"], [1.0, 0.5], dict(combination_type="ties", density=0.4)),
    "ties_frequency": (["a", "b"], [1.0, -0.5], dict(combination_type="ties", density=0.7, majority_sign_method="frequency")),
    "ties_svd": (["a", "c"], [1.0, 0.5], dict(combination_type="ties_svd", density=0.3)),
    "magnitude_prune": (["a", "b"], [1.0, 0.5], dict(combination_type="magnitude_prune", density=0.55)),
    "magnitude_prune_svd": (["b", "c"], [1.0, 0.5], dict(combination_type="magnitude_prune_svd", density=0.25)),
    "dare_linear": (["a", "b"], [1.0, 0.5], dict(combination_type="dare_linear", density=1.0)),
    "dare_ties_svd": (["a", "b"], [1.0, 0.5], dict(combination_type="dare_ties_svd", density=1.0)),
}


def write_combined(out):
    """The adapters in folders of their names, and what add_weighted_adapter makes of them beside those."""
    shutil.rmtree(out, ignore_errors=True)
    torch.manual_seed(7)
    base = load_base(dict(base="llama"))
    model = None
    for name, settings in PARTS.items():
        config = LoraConfig(task_type="CAUSAL_LM", **settings)
        if model is None:
            model = get_peft_model(base, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
        model.set_adapter(name)
        perturb(model, 0.3)
    ids, names = tokens(base.config.vocab_size, rows=5), ["a", "__base__", "c", "b", "a"]
    with torch.no_grad():
        mixed = model.eval()(input_ids=ids, adapter_names=names).logits
        generated = model.generate(input_ids=ids[:, :4], attention_mask=torch.ones_like(ids[:, :4]), adapter_names=names, max_new_tokens=6, do_sample=False,
                                   eos_token_id=None, pad_token_id=0)
    mixture = dict(ids=ids.tolist(), names=names, generated=generated[:, 4:].tolist())
    meta = {}
    for name, (names, weights, options) in COMBINED.items():
        model.add_weighted_adapter(names, weights, "w_" + name, **options)
        meta[name] = dict(names=names, weights=weights, **options)
    model.save_pretrained(out)
    tidy(out)
    save_file({"logits": mixed.contiguous()}, os.path.join(out, "mixed.safetensors"))
    with open(os.path.join(out, "mixed.json"), "w") as f:
        json.dump(mixture, f)
        f.write("\n")
    with open(os.path.join(out, "combined.json"), "w") as f:
        json.dump(meta, f, indent=1)
        f.write("\n")
    print("combined")


def tidy(folder):
    """Sets are written in the order of this process's string hashes, which says nothing; sorted, reruns agree."""
    for d, _, files in os.walk(folder):
        for f in files:
            path = os.path.join(d, f)
            if f == "README.md":
                os.remove(path)
            if f == "adapter_config.json":
                with open(path) as stream:
                    config = json.load(stream)
                for key in ("target_modules", "exclude_modules", "modules_to_save", "feedforward_modules"):
                    if isinstance(config.get(key), list):
                        config[key].sort()
                with open(path, "w") as stream:
                    stream.write(json.dumps(config, indent=2, sort_keys=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=os.path.join(HERE, "..", "..", "peft", "testdata", "tuners"))
    parser.add_argument("cases", nargs="*", metavar="CASE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for name in args.cases or [*CASES, "combined"]:
        if name == "combined":
            write_combined(os.path.join(args.out, "..", "combined"))
        else:
            write_case(name, CASES[name], args.out)


if __name__ == "__main__":
    main()
