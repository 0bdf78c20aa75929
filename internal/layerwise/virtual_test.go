package layerwise_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/quant"
)

// virtualKinds are adapters of a small model that are no LoRA, or are beside one.
func virtualKinds(m *models.CausalLM) map[string][]models.LoRA {
	random := rand.New(rand.NewPCG(6, 6))
	values := func(n int, around float64) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(around + random.NormFloat64()*0.1)
		}
		return v
	}
	const tokens, hidden = 3, 5
	width := m.PrefixWidth()
	out := 2 * tiny.NumHiddenLayers * width
	encoder := func(relu bool, sizes ...int) *models.VirtualEncoder {
		e := &models.VirtualEncoder{Name: "mlp", Sizes: sizes, ReLU: relu, Embedding: values(tokens*sizes[0], 0)}
		for i, in := range sizes[:len(sizes)-1] {
			e.Weights, e.Biases = append(e.Weights, values(in*sizes[i+1], 0)), append(e.Biases, values(sizes[i+1], 0))
		}
		return e
	}
	e, p := encoder(false, width, hidden, out), encoder(true, tiny.HiddenSize, hidden, hidden, tiny.HiddenSize)
	virtual := func(v models.Virtual) []models.LoRA {
		v.Tokens = tokens
		return []models.LoRA{{Path: models.VirtualPath, Virtual: &v}}
	}
	copies := slices.DeleteFunc(adapters(m, 0), func(l models.LoRA) bool {
		return strings.HasSuffix(l.Path, "k_proj") || strings.HasSuffix(l.Path, "down_proj")
	})
	for _, l := range m.Linears() {
		if strings.HasSuffix(l.Path, "k_proj") || strings.HasSuffix(l.Path, "down_proj") {
			copies = append(copies, models.LoRA{Path: l.Path, Full: values(l.In*l.Out, 0)})
		}
	}
	for _, n := range m.Norms() {
		copies = append(copies, models.LoRA{Path: n.Path, Full: values(n.Size, 1)})
	}
	return map[string][]models.LoRA{
		"copies": copies, "embeddings": virtual(models.Virtual{Embeddings: values(tokens*tiny.HiddenSize, 0)}), "prefix": virtual(models.Virtual{Prefix: values(tokens*out, 0)}),
		"prefix encoder": virtual(models.Virtual{Prefix: e.Output(), Encoder: e}), "encoder": virtual(models.Virtual{Embeddings: p.Output(), Encoder: p}),
	}
}

// virtualTrainee is a small model with adapters of a kind.
func virtualTrainee(t *testing.T, o models.Options, kind string) (*models.CausalLM, models.Adapters) {
	t.Helper()
	cfg := tiny
	m, err := models.NewRandom(context.Background(), &cfg, 3, o)
	if err != nil {
		t.Fatal(err)
	}
	a, err := m.NewAdapters(virtualKinds(m)[kind])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m, a
}

// firstLabels are the batch with labels of the rows' first tokens.
func firstLabels(b *training.Batch) *training.Batch {
	for r := range b.Rows {
		b.FirstLabels = append(b.FirstLabels, b.IDs[r*b.Length])
	}
	return b
}

func TestCopiesAndVirtualTokensTrainTheSameInEveryForm(t *testing.T) {
	nf4 := &quant.BitsAndBytesConfig{LoadIn4Bit: true, BNB4BitQuantType: quant.NF4, BNB4BitUseDoubleQuant: true}
	for _, kind := range []string{"copies", "embeddings", "prefix", "prefix encoder", "encoder"} {
		t.Run(kind, func(t *testing.T) {
			b := packed(13, documents(1, 9), documents(2, 13), documents(4, 5))
			train := func(o models.Options, budget string, parts int, fused bool) (loss, norm []float64) {
				o.DType = models.Float32
				m, a := virtualTrainee(t, o, kind)
				settings := settings
				settings.ResidualBudget = budget
				s := session(t, m, a, settings)
				layerwise.PartTokens(s, parts)
				layerwise.Fuse(s, fused)
				return run(t, s, 4, b)
			}
			loss, norm := train(models.Options{}, "auto", 1<<20, false)
			for name, c := range map[string]struct {
				budget string
				parts  int
				fused  bool
			}{"nothing kept": {"0", 1 << 20, false}, "a row at a time": {"0", 16, false}, "fused": {"auto", 1 << 20, true}, "fused, a row at a time": {"0", 16, true}} {
				l, n := train(models.Options{}, c.budget, c.parts, c.fused)
				same(t, name, l, n, loss, norm, 1e-4)
			}
			if kind == "copies" { // of linears, that are quantized below
				return
			}
			loss, norm = train(models.Options{Quantization: nf4}, "auto", 1<<20, false)
			l, n := train(models.Options{Quantization: nf4, KeepPacked: true}, "auto", 1<<20, true)
			same(t, "packed, fused", l, n, loss, norm, 1e-4)
		})
	}
}

// In 16 bits the form is the one that a GPU's kernels have.
func TestCopiesAndVirtualTokensTrainInSixteenBits(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		if backend == "xla:cpu" {
			t.Skip("ten more programs to compile, of operations that the Go backend and CUDA run")
		}
		for _, kind := range []string{"copies", "embeddings", "prefix", "prefix encoder", "encoder"} {
			b := packed(16, documents(1, 9), documents(2, 13), documents(4, 16))
			train := func(dtype models.DType, backend string) []float64 {
				m, a := virtualTrainee(t, models.Options{Backend: backend, DType: dtype}, kind)
				loss, _ := run(t, session(t, m, a, settings), 3, b)
				return loss
			}
			reference.CheckCurve(t, kind, train(models.BFloat16, backend), train(models.Float32, ""), 2e-3)
		}
	})
}

func TestVirtualTokensGoOnBitForBitAndAccumulate(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		for _, kind := range []string{"embeddings", "prefix encoder", "encoder"} {
			t.Run(kind, func(t *testing.T) {
				o := models.Options{Backend: backend, DType: models.Float32}
				both, one, two := packed(8, documents(6, 8), documents(7, 5)), packed(8, documents(6, 8)), packed(8, documents(7, 5))
				m, a := virtualTrainee(t, o, kind)
				s := session(t, m, a, settings)
				loss, norm := run(t, s, 2, both)
				dir := t.TempDir()
				if err := s.SaveState(dir); err != nil {
					t.Fatal(err)
				}
				ahead, aheadNorm := run(t, s, 2, both)
				m, a = virtualTrainee(t, o, kind)
				s = session(t, m, a, settings)
				l, n := run(t, s, 2, one, two)
				same(t, "accumulated", l, n, loss, norm, 2e-5)
				if err := s.LoadState(dir); err != nil {
					t.Fatal(err)
				}
				l, n = run(t, s, 2, both)
				same(t, "resumed", l, n, ahead, aheadNorm, 0)
			})
		}
	})
}

// Rows with virtual tokens before them are computed as the rows that a cache is extended by, token by token.
func TestVirtualTokensAreSeenWhileTextIsGenerated(t *testing.T) {
	for _, kind := range []string{"embeddings", "prefix", "copies"} {
		for _, fused := range []bool{false, true} {
			m, a := virtualTrainee(t, models.Options{DType: models.Float32}, kind)
			layerwise.Fuse(session(t, m, a, settings), fused)
			ctx, prompts := context.Background(), [][]int{{5, 6, 7}, {8, 9, 10, 11, 12}}
			got, err := m.GenerateBatchIDs(ctx, a, prompts, models.GenerationConfig{MaxNewTokens: 4, EOSTokenIDs: []int{}})
			if err != nil {
				t.Fatal(err)
			}
			for i, p := range prompts {
				row := slices.Clone(p)
				for range 4 {
					logits, err := m.LogitsWith(ctx, a, [][]int{row}, nil)
					if err != nil {
						t.Fatal(err)
					}
					last := logits[0][len(row)-1]
					row = append(row, slices.Index(last, slices.Max(last)))
				}
				if fmt.Sprint(row[len(p):]) != fmt.Sprint(got[i]) {
					t.Errorf("%s, fused %v: generated %v, logits say %v", kind, fused, got[i], row[len(p):])
				}
			}
		}
	}
}

func TestRowsFirstTokensAreScoredBehindVirtualEmbeddingsOnly(t *testing.T) {
	b := firstLabels(packed(7, documents(1, 7), documents(2, 5)))
	for kind, want := range map[string]int{"embeddings": b.NumLabels + 2, "prefix": b.NumLabels, "copies": b.NumLabels} {
		m, a := virtualTrainee(t, models.Options{}, kind)
		st, err := session(t, m, a, settings).Evaluate(t.Context(), b)
		if err != nil || st.Labels != want {
			t.Errorf("%s: %d labels scored, want %d; %v", kind, st.Labels, want, err)
		}
	}
}
