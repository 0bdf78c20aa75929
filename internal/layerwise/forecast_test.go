package layerwise_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

// counted is a model with adapters on a device that counts its memory; others skip the test.
func counted(t *testing.T, cfg *models.LlamaConfig, o models.Options) (*models.CausalLM, models.Adapters) {
	t.Helper()
	m, a := traineeOf(t, *cfg, o, 0)
	if peak, _ := m.DeviceMemory(); peak <= 0 {
		t.Skip("the device does not count its memory")
	}
	return m, a
}

// On a device that counts its memory, the most that was in use is what was forecast, the leanest plan first.
func TestForecastIsWhatIsUsed(t *testing.T) {
	// Without the host's memory: how many copies are on their way at once is a matter of the machine's speed.
	cfg := models.LlamaConfig{VocabSize: 4000, HiddenSize: 1024, IntermediateSize: 2816, NumHiddenLayers: 24, NumAttentionHeads: 16,
		NumKeyValueHeads: 4, MaxPositionEmbeddings: 4096}
	reference.OnXLA(t, 16, func(t *testing.T, spec string, _ *seam.Plugin) {
		m, a := counted(t, &cfg, models.Options{Backend: spec})
		for _, budget := range []string{"0", "1GiB", "auto"} {
			o := settings
			o.ResidualBudget = budget
			s := session(t, m, a, o)
			layerwise.PinHost(s, 0)
			b := packed(4096, documents(1, 4096), documents(2, 4096), documents(3, 4096), documents(4, 4096))
			for range 3 {
				if _, err := s.MicroStep(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				if _, err := s.Apply(t.Context(), training.ApplyOptions{LearningRate: 1e-3, NumItems: 100}); err != nil {
					t.Fatal(err)
				}
			}
			forecast, ok := s.(*layerwise.Session).ForecastMemory(b.Rows, b.Length)
			used, _ := m.DeviceMemory()
			t.Logf("budget %s: %+v forecast, %d used", budget, forecast, used)
			if !ok || math.Abs(float64(forecast.Peak())/float64(used)-1) > 0.03 {
				t.Errorf("budget %s: forecast %+v (%v), and the peak is %d", budget, forecast, ok, used)
			}
		}
	})
}

// wholeModel is a session that trains a model of two layers, embedding and all.
func wholeModel(t *testing.T, backend string) training.Session {
	t.Helper()
	cfg := tiny
	cfg.NumHiddenLayers = 2
	return newTrainee(t, cfg, models.Options{Backend: backend, DType: models.Float32, Trainable: true}, settings)
}

// newTrainee is a session of a whole model, or of adapters on all linears.
func newTrainee(t *testing.T, cfg models.LlamaConfig, o models.Options, so training.SessionOptions) training.Session {
	t.Helper()
	if !o.Trainable {
		m, a := traineeOf(t, cfg, o, 0)
		return session(t, m, a, so)
	}
	m, err := models.NewRandom(t.Context(), &cfg, 3, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return session(t, m, nil, so)
}

// What is forecast is what runs: a forecast compiles no program that a step does not need.
func TestForecastsCompileTheProgramsOfSteps(t *testing.T) {
	reference.OnXLA(t, 16, func(t *testing.T, spec string, _ *seam.Plugin) {
		for _, dtype := range []models.DType{models.Float32, models.BFloat16, models.Float16} {
			for _, c := range []struct {
				dropout float64
				dora    bool
			}{{0, false}, {0.1, false}, {0.1, true}} {
				if c.dora && dtype != models.BFloat16 {
					continue
				}
				m, a := trainee(t, models.Options{Backend: spec, DType: dtype}, c.dropout)
				if c.dora {
					a = withMagnitudes(t, m, c.dropout)
				}
				s := session(t, m, a, settings)
				b := packed(12, documents(1, 12), documents(2, 5, 7))
				if _, err := s.MicroStep(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				compiled := layerwise.Compiled(s)
				_, ok, err := layerwise.ForecastAgain(s, b, func() int64 { return 0 })
				if n := layerwise.Compiled(s) - compiled; !ok || err != nil || n != 0 {
					t.Errorf("%s, %+v: forecast %v, error %v, %d programs more", dtype, c, ok, err, n)
				}
			}
		}
	})
}

// withMagnitudes makes the adapters of a trainee DoRA's.
func withMagnitudes(t *testing.T, m *models.CausalLM, dropout float64) models.Adapters {
	t.Helper()
	loras, outs := adapters(m, dropout), map[string]int{}
	for _, l := range m.Linears() {
		outs[l.Path] = l.Out
	}
	for i := range loras {
		loras[i].Magnitude = slices.Repeat([]float32{0.5}, outs[loras[i].Path])
	}
	a, err := m.NewAdapters(loras)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func TestLogitsOfOneChunkAreAliveAtATime(t *testing.T) {
	cfg := models.LlamaConfig{VocabSize: 32000, HiddenSize: 32, IntermediateSize: 64, NumHiddenLayers: 1, NumAttentionHeads: 2, MaxPositionEmbeddings: 4096}
	const chunk = 64
	const logits = chunk * 32000 * 4
	reference.OnXLA(t, 8, func(t *testing.T, spec string, _ *seam.Plugin) {
		m, a := traineeOf(t, cfg, models.Options{Backend: spec, DType: models.Float32}, 0)
		s := session(t, m, a, settings)
		layerwise.HeadTokens(s, chunk)
		one, ok, err := layerwise.HeadMemory(s, 1, chunk)
		if err != nil || !ok {
			t.Fatalf("memory of one chunk: %v, error %v", ok, err)
		}
		for _, rows := range []int{2, 5} {
			got, _, err := layerwise.HeadMemory(s, rows, chunk)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d chunks: %d bytes, one %d, its logits %d", rows, got, one, logits)
			if got > one+logits/2 {
				t.Errorf("%d chunks work in %d bytes, one in %d, and a chunk's logits have %d", rows, got, one, logits)
			}
		}
	})
}

func TestBatchThatNeedsMoreThanTheLimitIsRefused(t *testing.T) {
	cfg := models.LlamaConfig{VocabSize: 4000, HiddenSize: 256, IntermediateSize: 512, NumHiddenLayers: 4, NumAttentionHeads: 4, MaxPositionEmbeddings: 4096}
	reference.OnXLA(t, 16, func(t *testing.T, spec string, _ *seam.Plugin) {
		m, a := counted(t, &cfg, models.Options{Backend: spec, MaxDeviceMemory: 64 << 20})
		s := session(t, m, a, settings)
		_, err := s.MicroStep(t.Context(), packed(4096, documents(1, 4096), documents(2, 4096)))
		if err == nil || !strings.Contains(err.Error(), "MaxDeviceMemory") {
			t.Errorf("got %v", err)
		}
		if _, err := s.MicroStep(t.Context(), packed(8, documents(1, 8))); err != nil {
			t.Errorf("a small batch after it: %v", err)
		}
	})
}

// Whatever the limit between nothing kept and all, the plan is within it, and what another layer keeps would not be.
func TestABudgetInBytesIsLoweredToTheLimit(t *testing.T) {
	cfg := models.LlamaConfig{VocabSize: 600, HiddenSize: 96, IntermediateSize: 256, NumHiddenLayers: 8, NumAttentionHeads: 4, MaxPositionEmbeddings: 256}
	b := packed(256, documents(1, 256), documents(2, 256), documents(3, 256))
	reference.OnXLA(t, 16, func(t *testing.T, spec string, _ *seam.Plugin) {
		cfg := cfg
		if strings.HasPrefix(spec, "xla:cuda") { // where smaller layers share a program
			cfg.HiddenSize, cfg.IntermediateSize = 1024, 2816
		}
		s := newTrainee(t, cfg, models.Options{Backend: spec, DType: models.Float32}, settings)
		layerwise.PinHost(s, 0)
		if _, err := s.MicroStep(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		peak := func(limit int64) int64 {
			n, err := layerwise.PeakWithin(s, b, limit, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		least, most := peak(1), peak(0)
		layer := (most - least) / int64(cfg.NumHiddenLayers)
		for i := range int64(24) {
			limit := least + (most-least)*i/23
			if got := peak(limit); got > limit || got < limit-layer && got < most {
				t.Errorf("within %d: %d bytes; nothing kept %d, all %d", limit, got, least, most)
			}
		}
	})
}

// Pieces of one size, for which a thirtieth more is taken than they have, and something more where all are taken.
func TestTheLargestBudgetThatFitsFillsTheRoom(t *testing.T) {
	draw := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		piece, pieces, base := 1+draw.Int64N(1000), 1+draw.Int64N(200), draw.Int64N(100_000)
		all, rest := piece*pieces, draw.Int64N(piece*pieces)
		use := func(spent int64) int64 {
			used := base + spent + spent/30
			if spent == all {
				used += rest
			}
			return used
		}
		room, begin, taken := base+draw.Int64N(2*all), draw.Int64N(2*all), int64(0)
		got, err := layerwise.LargestFit(min(begin, all), all, room, func(bytes int64) (spent, used int64, err error) {
			taken = bytes / piece * piece
			return taken, use(taken), nil
		}, func() bool { return taken == all })
		if err != nil {
			t.Fatal(err)
		}
		spent := got / piece * piece
		if spent != taken {
			t.Errorf("%d, and the last plan takes %d", spent, taken)
		}
		if next := spent + max(piece, all/16); use(spent) > room || next <= all && use(next) <= room && use(spent) < room-room/16 {
			t.Errorf("%d pieces of %d, %d more for all, room %d behind %d, from %d: %d", pieces, piece, rest, room-base, base, begin, spent)
		}
	}
}
