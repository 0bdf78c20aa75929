package layerwise_test

import (
	"math"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

// counted is a model with adapters on a device that counts its memory; others skip the test.
func counted(t *testing.T, p *seam.Plugin, cfg *models.LlamaConfig, o models.Options) (*models.CausalLM, models.Adapters) {
	t.Helper()
	m, a := traineeOf(t, *cfg, o, 0)
	if memory, err := p.Memory(0); err != nil || memory.Peak < 0 {
		t.Skip("the device does not count its memory")
	}
	return m, a
}

// On a device that counts its memory, the most that was in use is what was forecast, the leanest plan first.
func TestForecastIsWhatIsUsed(t *testing.T) {
	// Without the host's memory: how many copies are on their way at once is a matter of the machine's speed.
	cfg := models.LlamaConfig{VocabSize: 4000, HiddenSize: 1024, IntermediateSize: 2816, NumHiddenLayers: 24, NumAttentionHeads: 16,
		NumKeyValueHeads: 4, MaxPositionEmbeddings: 4096}
	reference.OnXLA(t, 16, func(t *testing.T, spec string, p *seam.Plugin) {
		m, a := counted(t, p, &cfg, models.Options{Backend: spec})
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
			used, err := p.Memory(0)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("budget %s: %+v forecast, %d used", budget, forecast, used.Peak)
			if !ok || math.Abs(float64(forecast.Peak())/float64(used.Peak)-1) > 0.03 {
				t.Errorf("budget %s: forecast %+v (%v), and the peak is %d", budget, forecast, ok, used.Peak)
			}
		}
	})
}

// What is forecast is what runs: a forecast compiles no program that a step does not need.
func TestForecastsCompileTheProgramsOfSteps(t *testing.T) {
	reference.OnXLA(t, 16, func(t *testing.T, spec string, _ *seam.Plugin) {
		for _, dtype := range []models.DType{models.Float32, models.BFloat16, models.Float16} {
			for _, dropout := range []float64{0, 0.1} {
				m, a := trainee(t, models.Options{Backend: spec, DType: dtype}, dropout)
				s := session(t, m, a, settings)
				b := packed(12, documents(1, 12), documents(2, 5, 7))
				if _, err := s.MicroStep(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				compiled := layerwise.Compiled(s)
				ok, err := layerwise.ForecastAgain(s, b)
				if n := layerwise.Compiled(s) - compiled; !ok || err != nil || n != 0 {
					t.Errorf("%s, dropout %g: forecast %v, error %v, %d programs more", dtype, dropout, ok, err, n)
				}
			}
		}
	})
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
	reference.OnXLA(t, 16, func(t *testing.T, spec string, p *seam.Plugin) {
		m, a := counted(t, p, &cfg, models.Options{Backend: spec, MaxDeviceMemory: 64 << 20})
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
