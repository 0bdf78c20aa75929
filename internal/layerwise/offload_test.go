package layerwise_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

// Residuals that lie in the host's memory meanwhile train as those that stay on the device do, batch after batch, also
// when the budget leaves some of them there.
func TestResidualsInTheHostsMemoryTrainTheSame(t *testing.T) {
	cfg := models.LlamaConfig{VocabSize: 97, HiddenSize: 256, IntermediateSize: 128, NumHiddenLayers: 6, NumAttentionHeads: 4, NumKeyValueHeads: 2,
		MaxPositionEmbeddings: 128}
	reference.OnXLA(t, 16, func(t *testing.T, spec string, p *seam.Plugin) {
		if strings.HasPrefix(spec, "xla:cuda") {
			t.Skip("there one span is the whole model")
		}
		m, err := models.NewRandom(t.Context(), &cfg, 3, models.Options{Backend: spec, DType: models.Float32})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		run := func(budget string, pinned int64) (losses, norms []float64, onHost int) {
			a, err := m.NewAdapters(adapters(m, 0.1))
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			o := settings
			o.ResidualBudget = budget
			s, err := m.SessionWith(a, o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			layerwise.PinHost(s, pinned)
			for step := range uint64(3) {
				b := packed(128, documents(3*step, 128), documents(3*step+1, 60, 68), documents(3*step+2, 101), documents(3*step+7, 90, 38),
					documents(3*step+3, 128), documents(3*step+4, 70, 50), documents(3*step+5, 128), documents(3*step+6, 128))
				st, err := s.MicroStep(t.Context(), b)
				if err != nil {
					t.Fatal(err)
				}
				norm, err := s.Apply(t.Context(), training.ApplyOptions{LearningRate: 1e-3, NumItems: float64(st.Labels), MaxGradNorm: 1})
				if err != nil {
					t.Fatal(err)
				}
				losses, norms = append(losses, st.LossSum), append(norms, norm)
			}
			return losses, norms, layerwise.OnHost(s)
		}
		losses, norms, _ := run("0", 0)
		for _, c := range []struct {
			budget string
			pinned int64
			want   int // spans on the host
		}{
			{"0", math.MaxInt64, 4}, {"12MiB", math.MaxInt64, 3}, // with their attention
			{"0", 12 << 20, 4}, {"12MiB", 12 << 20, 2}, // there is no room for that
		} {
			gotLosses, gotNorms, onHost := run(c.budget, c.pinned)
			if onHost != c.want {
				t.Errorf("%+v: %d spans are on the host", c, onHost)
			}
			reference.CheckCurve(t, fmt.Sprintf("losses of %+v", c), gotLosses, losses, 1e-6)
			reference.CheckCurve(t, fmt.Sprintf("gradient norms of %+v", c), gotNorms, norms, 1e-5)
		}
	})
}
