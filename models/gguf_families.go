package models

import (
	"fmt"
	"math"
	"slices"
)

// What llama.cpp's files say of each family, and how they store it: src/models of llama.cpp, and its conversion scripts.

var (
	llamaLayout    = ggufLayout{names: llamaGGUFNames, neighbours: true}
	plainLayout    = ggufLayout{names: llamaGGUFNames}
	gemmaLayout    = ggufLayout{names: llamaGGUFNames, unitOffset: true}
	sandwichLayout = ggufLayout{names: sandwichGGUFNames, unitOffset: true}
)

func (c *LlamaConfig) ggufLayout() ggufLayout   { return llamaLayout }
func (c *MistralConfig) ggufLayout() ggufLayout { return llamaLayout }
func (c *GraniteConfig) ggufLayout() ggufLayout { return llamaLayout }
func (c *Qwen2Config) ggufLayout() ggufLayout   { return plainLayout }
func (c *Qwen3Config) ggufLayout() ggufLayout   { return plainLayout }
func (c *Phi3Config) ggufLayout() ggufLayout    { return plainLayout }
func (c *GemmaConfig) ggufLayout() ggufLayout   { return gemmaLayout }
func (c *Gemma2Config) ggufLayout() ggufLayout  { return sandwichLayout }
func (c *Gemma3Config) ggufLayout() ggufLayout  { return sandwichLayout }

func (c *LlamaConfig) fromGGUF(g *ggufReader) error {
	d := &Decoder{}
	if err := first(g.decoder(d), g.rotatesAll(d)); err != nil {
		return err
	}
	c.setDecoder(d)
	c.AttentionBias, c.MLPBias = g.has("blk.0.attn_q.bias"), g.has("blk.0.ffn_gate.bias")
	return nil
}

func (c *LlamaConfig) toGGUF(w *ggufWriter) error {
	d := c.decoder()
	w.decoder(d, d.headDim())
	return w.rope(d.rope(), d.headDim(), d.MaxPositionEmbeddings, true)
}

// fromGGUF is not called: Mistral's files are llama files.
func (c *MistralConfig) fromGGUF(g *ggufReader) error { return g.decoder(&c.Decoder) }

func (c *MistralConfig) toGGUF(w *ggufWriter) error {
	w.ignoredWindow(c.SlidingWindow)
	w.decoder(&c.Decoder, c.headDim())
	return w.rope(c.rope(), c.headDim(), c.MaxPositionEmbeddings, true)
}

func (c *GraniteConfig) fromGGUF(g *ggufReader) error {
	if err := first(g.decoder(&c.Decoder), g.rotatesAll(&c.Decoder)); err != nil {
		return err
	}
	c.AttentionBias, c.MLPBias = g.has("blk.0.attn_q.bias"), g.has("blk.0.ffn_gate.bias")
	c.EmbeddingMultiplier, c.ResidualMultiplier = g.float("embedding_scale"), g.float("residual_scale")
	c.LogitsScaling = g.float("logit_scale")
	c.AttentionMultiplier = or(g.float("attention.scale"), 1/math.Sqrt(float64(c.headDim())))
	return nil
}

func (c *GraniteConfig) toGGUF(w *ggufWriter) error {
	w.decoder(&c.Decoder, c.headDim())
	w.float("embedding_scale", or(c.EmbeddingMultiplier, 1))
	w.float("residual_scale", or(c.ResidualMultiplier, 1))
	w.float("attention.scale", or(c.AttentionMultiplier, 1))
	w.float("logit_scale", or(c.LogitsScaling, 1))
	return w.rope(c.rope(), c.headDim(), c.MaxPositionEmbeddings, true)
}

func (c *Qwen2Config) fromGGUF(g *ggufReader) error {
	return first(g.decoder(&c.Decoder), g.rotatesAll(&c.Decoder))
}

func (c *Qwen2Config) toGGUF(w *ggufWriter) error {
	w.ignoredWindow(c.window())
	w.decoder(&c.Decoder, c.headDim())
	return first(w.plainHeads(&c.Decoder), w.rope(c.rope(), c.headDim(), c.MaxPositionEmbeddings, false))
}

func (c *Qwen3Config) fromGGUF(g *ggufReader) error {
	c.AttentionBias = g.has("blk.0.attn_q.bias")
	return first(g.decoder(&c.Decoder), g.rotatesAll(&c.Decoder))
}

func (c *Qwen3Config) toGGUF(w *ggufWriter) error {
	w.ignoredWindow(c.window())
	w.decoder(&c.Decoder, c.headDim())
	return first(w.noBias("attention_bias", c.AttentionBias), w.rope(c.rope(), c.headDim(), c.MaxPositionEmbeddings, false))
}

func (c *Phi3Config) fromGGUF(g *ggufReader) (err error) {
	if err := g.decoder(&c.Decoder); err != nil {
		return err
	}
	c.OriginalMaxPositionEmbeddings = c.MaxPositionEmbeddings
	if r := c.RopeScaling; r != nil && r.OriginalMaxPositionEmbeddings != 0 {
		c.OriginalMaxPositionEmbeddings = r.OriginalMaxPositionEmbeddings
	}
	rotary := c.HeadDim
	if err := g.int("rope.dimension_count", &rotary); err != nil {
		return err
	}
	if rotary != c.HeadDim {
		c.PartialRotaryFactor = float64(rotary) / float64(c.HeadDim)
		if c.rotary() != rotary { // the quotient was rounded down
			c.PartialRotaryFactor = math.Nextafter(c.PartialRotaryFactor, 1)
		}
	}
	c.SlidingWindow, err = g.window()
	return err
}

func (c *Phi3Config) toGGUF(w *ggufWriter) error {
	w.ignoredWindow(c.SlidingWindow)
	w.decoder(&c.Decoder, c.rotary())
	window := 0 // llama.cpp tells Phi-4 by it
	if c.SlidingWindow != nil {
		window = *c.SlidingWindow
	}
	w.int("attention.sliding_window", window)
	return first(w.plainHeads(&c.Decoder), w.rope(c.rope(), c.rotary(), c.MaxPositionEmbeddings, true))
}

func (c *GemmaConfig) fromGGUF(g *ggufReader) error {
	c.AttentionBias = g.has("blk.0.attn_q.bias")
	return first(g.decoder(&c.Decoder), g.rotatesAll(&c.Decoder))
}

func (c *GemmaConfig) toGGUF(w *ggufWriter) error {
	w.decoder(&c.Decoder, c.headDim())
	return first(w.noBias("attention_bias", c.AttentionBias), w.tied(&c.Decoder), w.rope(c.rope(), c.headDim(), c.MaxPositionEmbeddings, false))
}

// tied refuses a head of its own where llama.cpp reads none.
func (w *ggufWriter) tied(d *Decoder) error {
	if !d.TieWordEmbeddings {
		return &UnsupportedError{Field: "tie_word_embeddings", Value: false, Supported: fmt.Sprintf("true in GGUF files of %q", w.arch)}
	}
	return nil
}

// scalar is the query_pre_attn_scalar that llama.cpp computes with, which no key tells: head_dim, but for the 27B models.
func (d *Decoder) scalar(layers27B int) float64 {
	if d.NumHiddenLayers == layers27B && d.NumAttentionHeads > 0 {
		return float64(d.HiddenSize / d.NumAttentionHeads)
	}
	return float64(d.headDim())
}

func (w *ggufWriter) scalar(a *GemmaAttention, d *Decoder, layers27B int) error {
	if want := d.scalar(layers27B); or(a.QueryPreAttnScalar, float64(d.headDim())) != want {
		return &UnsupportedError{Field: "query_pre_attn_scalar", Value: a.QueryPreAttnScalar, Supported: fmt.Sprintf("%v in GGUF files of %q", want, w.arch)}
	}
	return nil
}

const gemma2Layers27B, gemma3Layers27B = 46, 62

func (c *Gemma2Config) fromGGUF(g *ggufReader) error {
	if err := first(g.decoder(&c.Decoder), g.rotatesAll(&c.Decoder)); err != nil {
		return err
	}
	c.AttentionBias = g.has("blk.0.attn_q.bias")
	c.QueryPreAttnScalar = c.scalar(gemma2Layers27B)
	for name, to := range map[string]**float64{"attn_logit_softcapping": &c.AttnLogitSoftcapping, "final_logit_softcapping": &c.FinalLogitSoftcapping} {
		if v := g.optional(name); v != nil { // else it is the family's
			*to = v
		}
	}
	window, err := g.window()
	if window != nil {
		c.SlidingWindow = window
	}
	return err
}

func (c *Gemma2Config) toGGUF(w *ggufWriter) error {
	if c.AttnLogitSoftcapping == nil || c.FinalLogitSoftcapping == nil || c.SlidingWindow == nil {
		return &UnsupportedError{Field: "attn_logit_softcapping, final_logit_softcapping, sliding_window", Value: "null", Supported: `numbers in GGUF files of "gemma2"`}
	}
	if !slices.Equal(c.dims().types, typesOf(c.NumHiddenLayers, func(i int) bool { return i%2 == 0 })) {
		return &UnsupportedError{Field: "layer_types", Value: c.LayerTypes, Supported: `every other layer within the window in GGUF files of "gemma2"`}
	}
	w.decoder(&c.Decoder, c.headDim())
	w.optional("attn_logit_softcapping", c.AttnLogitSoftcapping)
	w.optional("final_logit_softcapping", c.FinalLogitSoftcapping)
	w.int("attention.sliding_window", *c.SlidingWindow)
	return first(w.noBias("attention_bias", c.AttentionBias), w.tied(&c.Decoder), w.scalar(&c.GemmaAttention, &c.Decoder, gemma2Layers27B),
		w.rope(c.rope(), c.headDim(), c.MaxPositionEmbeddings, false))
}

func (c *Gemma3Config) fromGGUF(g *ggufReader) (err error) {
	if err := first(g.decoder(&c.Decoder), g.rotatesAll(&c.Decoder)); err != nil {
		return err
	}
	c.AttentionBias = g.has("blk.0.attn_q.bias")
	c.QueryPreAttnScalar = c.scalar(gemma3Layers27B)
	c.FinalLogitSoftcapping = g.optional("final_logit_softcapping")
	c.RopeTheta, c.RopeLocalBaseFreq = or(c.RopeTheta, 10000), or(g.float("rope.freq_base_swa"), 10000)
	if c.SlidingWindow, err = g.window(); err != nil {
		return err
	}
	if c.SlidingWindow == nil {
		c.SlidingWindowPattern = 1
		return nil
	}
	const pattern = "attention.sliding_window_pattern"
	sliding, isList := g.Bools(g.key(pattern))
	if !isList {
		return g.int(pattern, &c.SlidingWindowPattern)
	}
	if len(sliding) != c.NumHiddenLayers {
		return fmt.Errorf("metadata %q has %d entries for %d layers", g.key(pattern), len(sliding), c.NumHiddenLayers)
	}
	c.LayerTypes = typesOf(c.NumHiddenLayers, func(i int) bool { return sliding[i] })
	return nil
}

func (c *Gemma3Config) toGGUF(w *ggufWriter) error {
	if c.AttnLogitSoftcapping != nil {
		return &UnsupportedError{Field: "attn_logit_softcapping", Value: *c.AttnLogitSoftcapping, Supported: `null in GGUF files of "gemma3"`}
	}
	w.decoder(&c.Decoder, c.headDim())
	w.optional("final_logit_softcapping", c.FinalLogitSoftcapping)
	full, sliding := c.ropes()
	types := c.dims().types
	if slices.Contains(types, slidingAttention) {
		if sliding.RopeType != "default" {
			return &UnsupportedError{Field: "rope_type of sliding_attention", Value: sliding.RopeType, Supported: `default in GGUF files of "gemma3"`}
		}
		w.int("attention.sliding_window", *c.SlidingWindow)
		w.float("rope.freq_base_swa", sliding.RopeTheta)
		if !slices.Equal(types, typesOf(len(types), func(i int) bool { return (i+1)%6 != 0 })) {
			var within []bool
			for _, t := range types {
				within = append(within, t == slidingAttention)
			}
			w.add("attention.sliding_window_pattern", within)
		}
	}
	return first(w.noBias("attention_bias", c.AttentionBias), w.tied(&c.Decoder), w.scalar(&c.GemmaAttention, &c.Decoder, gemma3Layers27B),
		w.rope(full, c.headDim(), c.MaxPositionEmbeddings, false))
}
