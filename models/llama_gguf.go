package models

import (
	"fmt"
	"strings"
)

// fromGGUF reads the configuration from the metadata of a GGUF file, keys as llama.cpp writes them.
func (c *LlamaConfig) fromGGUF(g ggufMetadata) error {
	for _, f := range []struct {
		key      string
		to       *int
		optional bool
	}{
		{key: "llama.embedding_length", to: &c.HiddenSize},
		{key: "llama.feed_forward_length", to: &c.IntermediateSize},
		{key: "llama.block_count", to: &c.NumHiddenLayers},
		{key: "llama.attention.head_count", to: &c.NumAttentionHeads},
		{key: "llama.attention.head_count_kv", to: &c.NumKeyValueHeads, optional: true},
		{key: "llama.attention.key_length", to: &c.HeadDim, optional: true},
		{key: "llama.context_length", to: &c.MaxPositionEmbeddings, optional: true},
	} {
		v, ok := g.Uint(f.key)
		if !ok && !f.optional {
			return fmt.Errorf("metadata %q is missing or no number", f.key)
		}
		if v > 1<<31-1 {
			return fmt.Errorf("metadata %q is %d, too large", f.key, v)
		}
		*f.to = int(v)
	}
	c.RMSNormEps, _ = g.Float("llama.attention.layer_norm_rms_epsilon")
	c.RopeTheta, _ = g.Float("llama.rope.freq_base")
	if experts, ok := g.Uint("llama.expert_count"); ok && experts > 0 {
		return &UnsupportedError{Field: "llama.expert_count", Value: experts, Supported: "dense models"}
	}
	embed, ok := g.file.Tensor("token_embd.weight")
	if !ok || len(embed.Shape) != 2 {
		return fmt.Errorf("tensor %q is missing or no matrix", "token_embd.weight")
	}
	c.VocabSize = embed.Shape[0]
	_, untied := g.file.Tensor("output.weight")
	c.TieWordEmbeddings = !untied
	_, c.AttentionBias = g.file.Tensor("blk.0.attn_q.bias")
	_, c.MLPBias = g.file.Tensor("blk.0.ffn_gate.bias")
	return c.ropeFromGGUF(g)
}

func (c *LlamaConfig) ropeFromGGUF(g ggufMetadata) error {
	if kind, ok := g.String("llama.rope.scaling.type"); ok && kind != "none" {
		if kind != "linear" {
			return &UnsupportedError{Field: "llama.rope.scaling.type", Value: kind, Supported: "none, linear, or a tensor rope_freqs.weight"}
		}
		factor, _ := g.Float("llama.rope.scaling.factor")
		c.RopeScaling = &RopeScaling{RopeType: kind, Factor: factor}
	}
	if _, ok := g.file.Tensor("rope_freqs.weight"); ok {
		factors, err := g.file.Float32("rope_freqs.weight")
		if err != nil {
			return err
		}
		if want := c.decoder().headDim() / 2; len(factors) != want {
			return fmt.Errorf("tensor %q has %d values, want %d", "rope_freqs.weight", len(factors), want)
		}
		c.ropeFactors = factors
	}
	return nil
}

var llamaGGUFNames = strings.NewReplacer(
	"model.embed_tokens.", "token_embd.", "model.norm.", "output_norm.", "lm_head.", "output.", "model.layers.", "blk.",
	"input_layernorm.", "attn_norm.", "post_attention_layernorm.", "ffn_norm.",
	"self_attn.q_proj.", "attn_q.", "self_attn.k_proj.", "attn_k.", "self_attn.v_proj.", "attn_v.", "self_attn.o_proj.", "attn_output.",
	"mlp.gate_proj.", "ffn_gate.", "mlp.up_proj.", "ffn_up.", "mlp.down_proj.", "ffn_down.",
)

// ggufName returns the name of a tensor in GGUF files and, where llama.cpp stores its rows in another order, for every
// row of transformers' order the stored one: within each head, row i of the first half is stored at 2i, row i of the
// second at 2i+1.
func (c *LlamaConfig) ggufName(tensor string) (name string, rows []int) {
	heads := 0
	switch {
	case strings.Contains(tensor, "self_attn.q_proj."):
		heads = c.NumAttentionHeads
	case strings.Contains(tensor, "self_attn.k_proj."):
		heads = c.dims().shape.KVHeads
	}
	if heads == 0 {
		return llamaGGUFNames.Replace(tensor), nil
	}
	dim := c.decoder().headDim()
	rows = make([]int, heads*dim)
	for i := range rows {
		head, at := i/dim, i%dim
		half := at / (dim / 2)
		rows[i] = head*dim + 2*(at-half*(dim/2)) + half
	}
	return llamaGGUFNames.Replace(tensor), rows
}
