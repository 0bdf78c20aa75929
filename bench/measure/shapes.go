// Package measure has what the programs under bench share: the models that they time, and profiles of the device.
package measure

import "github.com/loris-ml/loris/models"

// Shapes are the models that can be timed.
var Shapes = map[string]models.LlamaConfig{
	"llama-3-8b": {
		VocabSize: 128256, HiddenSize: 4096, IntermediateSize: 14336, NumHiddenLayers: 32, NumAttentionHeads: 32,
		NumKeyValueHeads: 8, MaxPositionEmbeddings: 8192, RMSNormEps: 1e-5, RopeTheta: 500000,
	},
	"smollm2-135m": {
		VocabSize: 49152, HiddenSize: 576, IntermediateSize: 1536, NumHiddenLayers: 30, NumAttentionHeads: 9,
		NumKeyValueHeads: 3, MaxPositionEmbeddings: 8192, RMSNormEps: 1e-5, RopeTheta: 100000, TieWordEmbeddings: true,
	},
	"tiny": {
		VocabSize: 512, HiddenSize: 64, IntermediateSize: 172, NumHiddenLayers: 5, NumAttentionHeads: 8,
		NumKeyValueHeads: 4, MaxPositionEmbeddings: 512, RMSNormEps: 1e-5, TieWordEmbeddings: true,
	},
}

// GiB is bytes in GiB; 0 where they are not known.
func GiB(bytes int64) float64 { return float64(max(0, bytes)) / (1 << 30) }
