package layerwise_test

import (
	"fmt"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

// Programs are shared between the sessions of a model: what is built into them must be what tells them apart.
func TestSessionsOfOneModelTrainAsEachDoesAlone(t *testing.T) {
	half := &training.Loss{PerLabel: func(logits, labels *Node) *Node { return MulScalar(training.LabelLogProbs(logits, labels), -0.5) }}
	pairs := map[string][2]func(o *training.SessionOptions){
		"beta1":          {func(o *training.SessionOptions) {}, func(o *training.SessionOptions) { o.AdamBeta1 = 0.5 }},
		"beta2":          {func(o *training.SessionOptions) {}, func(o *training.SessionOptions) { o.AdamBeta2 = 0.9 }},
		"epsilon":        {func(o *training.SessionOptions) {}, func(o *training.SessionOptions) { o.AdamEpsilon = 1e-2 }},
		"weight decay":   {func(o *training.SessionOptions) {}, func(o *training.SessionOptions) { o.WeightDecay = 0.5 }},
		"ratio of LoRA+": {func(o *training.SessionOptions) {}, func(o *training.SessionOptions) { o.LoRAPlusLRRatio = 16 }},
		"betas of lion": {func(o *training.SessionOptions) { o.Optim = "lion_32bit" },
			func(o *training.SessionOptions) { o.Optim, o.AdamBeta1, o.AdamBeta2 = "lion_32bit", 0.3, 0.5 }},
		"momentum": {func(o *training.SessionOptions) { o.Optim, o.OptimArgs = "sgd", "momentum=0.9" },
			func(o *training.SessionOptions) { o.Optim, o.OptimArgs = "sgd", "momentum=0.3" }},
		"nesterov": {func(o *training.SessionOptions) { o.Optim, o.OptimArgs = "sgd", "momentum=0.9" },
			func(o *training.SessionOptions) { o.Optim, o.OptimArgs = "sgd", "momentum=0.9,nesterov=true" }},
		"steps of muon": {func(o *training.SessionOptions) { o.Optim = "muon" },
			func(o *training.SessionOptions) { o.Optim, o.OptimArgs = "muon", "ns_steps=1" }},
		"size of muon's updates": {func(o *training.SessionOptions) { o.Optim = "muon" },
			func(o *training.SessionOptions) { o.Optim, o.OptimArgs = "muon", "adjust_lr_fn=original" }},
		"noise":                 {func(o *training.SessionOptions) { o.NEFTuneNoiseAlpha = 5 }, func(o *training.SessionOptions) { o.NEFTuneNoiseAlpha = 50 }},
		"a loss without a name": {func(o *training.SessionOptions) {}, func(o *training.SessionOptions) { o.Loss = half }},
		"smoothing": {func(o *training.SessionOptions) { o.Loss = training.Smoothed(0.1) },
			func(o *training.SessionOptions) { o.Loss = training.Smoothed(0.4) }},
	}
	b := packed(12, documents(1, 12), documents(2, 5, 7))
	type trained struct{ loss, norm []float64 }
	train := func(t *testing.T, m *models.CausalLM, a models.Adapters, change func(o *training.SessionOptions)) (r trained) {
		o := settings
		change(&o)
		r.loss, r.norm = run(t, session(t, m, a, o), 3, b)
		return r
	}
	for name, pair := range pairs {
		t.Run(name, func(t *testing.T) {
			shared, first := trainee(t, models.Options{DType: models.Float32}, 0)
			train(t, shared, first, pair[0])
			second, err := shared.NewAdapters(adapters(shared, 0))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { second.Close() })
			got := train(t, shared, second, pair[1])
			m, a := trainee(t, models.Options{DType: models.Float32}, 0)
			if want := train(t, m, a, pair[1]); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("beside another session %v, alone %v", got, want)
			}
		})
	}
}
