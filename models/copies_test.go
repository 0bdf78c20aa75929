package models

import (
	"context"
	"strings"
	"testing"
)

func TestCopiesAndVirtualTokensThatDoNotFitAreRefused(t *testing.T) {
	m, err := NewRandom(context.Background(), &LlamaConfig{
		VocabSize: 20, HiddenSize: 8, IntermediateSize: 12, NumHiddenLayers: 2, NumAttentionHeads: 2, NumKeyValueHeads: 1, MaxPositionEmbeddings: 32,
	}, 1, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	n := func(count int) []float32 { return make([]float32, count) }
	encoder := &VirtualEncoder{Name: "mlp_head", Sizes: []int{8, 8}, Embedding: n(16), Weights: [][]float32{n(64)}, Biases: [][]float32{n(8)}}
	short := &VirtualEncoder{Name: "mlp_head", Sizes: []int{8, 8}, Embedding: n(16), Weights: [][]float32{n(63)}, Biases: [][]float32{n(8)}}
	virtual := func(v Virtual) []LoRA { return []LoRA{{Path: VirtualPath, Virtual: &v}} }
	if a, err := m.NewAdapters(virtual(Virtual{Tokens: 2, Embeddings: n(16), Encoder: encoder})); err != nil {
		t.Error(err)
	} else if err := a.Close(); err != nil {
		t.Error(err)
	}
	for want, loras := range map[string][]LoRA{
		"want 8 and 0":                              {{Path: "model.layers.1.input_layernorm", Full: n(7)}},
		"7 values and 0 biases":                     {{Path: NormPath, Full: n(7)}},
		"want 64 and 0":                             {{Path: "model.layers.0.self_attn.q_proj", Full: n(64), FullBias: n(8)}},
		"has no adapter beside it":                  {{Path: "model.layers.0.self_attn.q_proj", Full: n(64), R: 1, A: n(8), B: n(8)}},
		`"model.layers.2.input_layernorm" cannot`:   {{Path: "model.layers.2.input_layernorm", Full: n(8)}},
		"0 virtual tokens":                          virtual(Virtual{Embeddings: n(8)}),
		"either embeddings or keys and values":      virtual(Virtual{Tokens: 1}),
		"want [2, 8]":                               virtual(Virtual{Tokens: 2, Embeddings: n(8)}),
		"want [2, 2 layers · 2 · 4]":                virtual(Virtual{Tokens: 2, Prefix: n(16)}),
		"want one that puts out 16 features":        virtual(Virtual{Tokens: 2, Prefix: n(32), Encoder: encoder}),
		"mlp_head.0.weight has 63 values, want":     virtual(Virtual{Tokens: 2, Embeddings: n(16), Encoder: short}),
		"the head can have a copy of the embedding": {{Path: EmbeddingPath, Full: n(160), TieHead: true}},
	} {
		if _, err := m.NewAdapters(loras); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestEncoderPutsOutWhatItsFormulaSays(t *testing.T) {
	e := &VirtualEncoder{Sizes: []int{2, 1, 1}, ReLU: true, Embedding: []float32{1, 2, 3, -4}, Weights: [][]float32{{1, 1}, {2}}, Biases: [][]float32{{0.5}, {1}}}
	if got := e.Output(); got[0] != 8 || got[1] != 1 { // 2·max(0, 1+2+0.5) + 1 and 2·max(0, 3−4+0.5) + 1
		t.Errorf("%v", got)
	}
}
