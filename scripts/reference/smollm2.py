"""SmolLM2 from its GGUF for the reference scripts: weights by transformers, tokenizer in its published layout."""

import sys

import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM


class GGUF:
    """Metadata and chat pieces of one GGUF file."""

    def __init__(self, path):
        self.path, self.reader = path, GGUFReader(path)
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        self.template = environment.from_string(self.get("tokenizer.chat_template"))
        self.eos = int(self.get("tokenizer.ggml.eos_token_id"))

    def get(self, key):
        return self.reader.fields[key].contents()

    def render(self, messages, add_generation_prompt):
        return self.template.render(messages=messages, add_generation_prompt=add_generation_prompt)

    def tokenizer(self):
        """Byte-level BPE behind a split of single digits, as published in SmolLM2's tokenizer.json.

        transformers' own conversion from GGUF leaves the digit split out, so its ids are wrong for every number.
        """
        tokens, kinds = self.get("tokenizer.ggml.tokens"), self.get("tokenizer.ggml.token_type")
        merges = [tuple(m.split(" ")) for m in self.get("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)])
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, kinds) if k == 3])
        assert tokenizer.get_vocab_size() == len(tokens)
        return tokenizer

    def model(self):
        folder, _, name = self.path.rpartition("/")
        model = AutoModelForCausalLM.from_pretrained(folder or ".", gguf_file=name, dtype=torch.float32,
                                                     attn_implementation="sdpa").eval()
        self.check_weights(model)
        return model

    def check_weights(self, model):
        """Every weight against an independent decoding: gguf's own dequantization, q and k rows un-permuted here."""
        heads = {"attn_q": int(self.get("llama.attention.head_count")), "attn_k": int(self.get("llama.attention.head_count_kv"))}
        names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
                 "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
                 "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
        state = model.state_dict()
        seen = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
        for tensor in self.reader.tensors:
            value = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
            kind = tensor.name.split(".")[-2]
            if tensor.name == "token_embd.weight":
                name = "model.embed_tokens.weight"
            elif tensor.name == "output_norm.weight":
                name = "model.norm.weight"
            else:
                name = f"model.layers.{tensor.name.split('.')[1]}.{names[kind]}.weight"
            if kind in heads:  # GGUF interleaves the two halves of each head: row 2i, 2i+1 are rows i, i + head_dim/2
                n, width = heads[kind], value.shape[1]
                value = value.reshape(n, -1, 2, width).transpose(1, 2).reshape(-1, width)
            assert torch.equal(value, state[name]), f"transformers read {name} differently"
            seen.add(name)
        assert seen == set(state), f"weights without a GGUF tensor: {sorted(set(state) - seen)}"
        print(f"{len(self.reader.tensors)} tensors of {self.path} agree with transformers'", file=sys.stderr)
