package layerwise_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

// Moments in the host's memory train to the bit what those on the device do, and are saved and loaded as they are.
func TestPagedMomentsTrainTheSame(t *testing.T) {
	// Wide enough that some adapters have 4096 values, from which on moments are in 8 bits.
	cfg := models.LlamaConfig{VocabSize: 97, HiddenSize: 64, IntermediateSize: 1408, NumHiddenLayers: 2, NumAttentionHeads: 4, NumKeyValueHeads: 2,
		MaxPositionEmbeddings: 64}
	reference.OnXLA(t, 16, func(t *testing.T, spec string, p *seam.Plugin) {
		m, err := models.NewRandom(t.Context(), &cfg, 3, models.Options{Backend: spec, DType: models.Float32})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		b := packed(32, documents(1, 32), documents(2, 20, 12))
		for _, optim := range [][2]string{{"adamw_torch", "paged_adamw_32bit"}, {"adamw_8bit", "paged_adamw_8bit"}} {
			run := func(name string, resumed bool) (norms []float64, state []byte) {
				a, err := m.NewAdapters(adapters(m, 0))
				if err != nil {
					t.Fatal(err)
				}
				defer a.Close()
				o := settings
				o.Optim = name
				dir := t.TempDir()
				session := func() training.Session {
					s, err := m.SessionWith(a, o)
					if err == nil && name == optim[1] {
						err = layerwise.PageMoments(s)
					}
					if err != nil {
						t.Fatal(err)
					}
					return s
				}
				s := session()
				for step := range 4 {
					if step == 2 && resumed {
						if err := s.SaveState(dir); err != nil {
							t.Fatal(err)
						}
						if err := s.Close(); err != nil {
							t.Fatal(err)
						}
						s = session()
						if err := s.LoadState(dir); err != nil {
							t.Fatal(err)
						}
					}
					st, err := s.MicroStep(t.Context(), b)
					if err != nil {
						t.Fatal(err)
					}
					norm, err := s.Apply(t.Context(), training.ApplyOptions{LearningRate: 1e-3, NumItems: float64(st.Labels), MaxGradNorm: 1})
					if err != nil {
						t.Fatal(err)
					}
					norms = append(norms, norm)
				}
				if err := s.SaveState(dir); err != nil {
					t.Fatal(err)
				}
				if state, err = os.ReadFile(filepath.Join(dir, "optimizer.safetensors")); err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				return norms, state
			}
			norms, state := run(optim[0], false)
			for _, resumed := range []bool{false, true} {
				pagedNorms, pagedState := run(optim[1], resumed)
				if !slices.Equal(pagedNorms, norms) || !bytes.Equal(pagedState, state) {
					t.Errorf("%s, resumed %v: norms %v, without paging %v; states equal: %v", optim[1], resumed, pagedNorms, norms, bytes.Equal(pagedState, state))
				}
			}
		}
	})
}
