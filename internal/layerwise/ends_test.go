package layerwise_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/models"
)

// endParts are what adapters may have at the model's ends, beside those of the layers.
var endParts = map[string]func(m *models.CausalLM, values func(n int) []float32) []models.LoRA{
	"LoRA, dropout at the head": func(m *models.CausalLM, values func(n int) []float32) []models.LoRA {
		e := m.Embedding()
		return []models.LoRA{
			{Path: models.EmbeddingPath, R: 2, Scaling: 1.5, A: values(2 * e.In), B: values(2 * e.Out)},
			{Path: models.HeadPath, R: 3, Scaling: 2, Dropout: 0.3, A: values(3 * e.Out), B: values(3 * e.In)},
		}
	},
	"copies": func(m *models.CausalLM, values func(n int) []float32) []models.LoRA {
		e := m.Embedding()
		return []models.LoRA{{Path: models.EmbeddingPath, Full: values(e.In * e.Out)}, {Path: models.HeadPath, Full: values(e.In * e.Out)}}
	},
	"rows of tokens": func(m *models.CausalLM, values func(n int) []float32) []models.LoRA {
		return []models.LoRA{{Path: models.EmbeddingPath, Tokens: []int{5, 90, 17}, Rows: values(3 * m.Embedding().Out)}}
	},
}

// ended is a small model, its head tied or not, with adapters in its layers and at its ends.
func ended(t *testing.T, tied bool, parts func(m *models.CausalLM, values func(n int) []float32) []models.LoRA) (*models.CausalLM, models.Adapters) {
	t.Helper()
	return endedOn(t, "", tied, parts)
}

func endedOn(t *testing.T, spec string, tied bool, parts func(m *models.CausalLM, values func(n int) []float32) []models.LoRA) (*models.CausalLM, models.Adapters) {
	t.Helper()
	cfg := tiny
	cfg.TieWordEmbeddings = tied
	m, err := models.NewRandom(context.Background(), &cfg, 3, models.Options{Backend: spec, DType: models.Float32})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	random := rand.New(rand.NewPCG(9, 9))
	values := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(random.NormFloat64() * 0.1)
		}
		return v
	}
	a, err := m.NewAdapters(append(adapters(m, 0), parts(m, values)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return m, a
}

// A loss in chunks of tokens has the gradients of one chunk, and training goes on from a saved state bit for bit.
func TestAdaptersAtTheEndsTrainInChunksAndGoOn(t *testing.T) {
	b := packed(12, documents(3, 12), documents(4, 5, 6))
	for name, parts := range endParts {
		for _, tied := range []bool{false, true} {
			m, a := ended(t, tied, parts)
			loss, norm := run(t, session(t, m, a, settings), 4, b)
			m, a = ended(t, tied, parts)
			s := session(t, m, a, settings)
			layerwise.HeadTokens(s, 7)
			l, n := run(t, s, 2, b)
			dir := t.TempDir()
			if err := s.SaveState(dir); err != nil {
				t.Fatal(err)
			}
			l2, n2 := run(t, s, 2, b)
			same(t, name+" in chunks", append(l, l2...), append(n, n2...), loss, norm, 1e-5)
			m, a = ended(t, tied, parts)
			s = session(t, m, a, settings)
			layerwise.HeadTokens(s, 7)
			if err := s.LoadState(dir); err != nil {
				t.Fatal(err)
			}
			again, norms := run(t, s, 2, b)
			same(t, name+" resumed", again, norms, l2, n2, 0)
		}
	}
}

func TestEndsOfATrainedModelAreNotTrainedTwice(t *testing.T) {
	cfg := tiny
	m, err := models.NewRandom(context.Background(), &cfg, 3, models.Options{Trainable: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	a, err := m.NewAdapters([]models.LoRA{{Path: models.EmbeddingPath, Tokens: []int{1}, Rows: make([]float32, cfg.HiddenSize)}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := m.SessionWith(a, settings); err == nil || !strings.Contains(err.Error(), "choose one of the two") {
		t.Errorf("error %v", err)
	}
	for want, l := range map[string]models.LoRA{
		"token 200 is outside":     {Path: models.EmbeddingPath, Tokens: []int{200}, Rows: make([]float32, cfg.HiddenSize)},
		"token 3 is named twice":   {Path: models.EmbeddingPath, Tokens: []int{3, 3}, Rows: make([]float32, 2*cfg.HiddenSize)},
		"rows of tokens are the":   {Path: models.HeadPath, Tokens: []int{3}, Rows: make([]float32, cfg.HiddenSize)},
		"has 5 values, want [97":   {Path: models.HeadPath, Full: make([]float32, 5)},
		"want one of a LoRA":       {Path: models.HeadPath},
		"have A and B alone":       {Path: models.HeadPath, R: 1, A: make([]float32, 32), B: make([]float32, 97), Shift: make([]float32, 97)},
		"its rows have 1 values":   {Path: models.EmbeddingPath, Tokens: []int{3}, Rows: make([]float32, 1)},
		"A has 1 values and B 1, ": {Path: models.EmbeddingPath, R: 1, A: make([]float32, 1), B: make([]float32, 1)},
	} {
		if _, err := m.NewAdapters([]models.LoRA{l}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}
