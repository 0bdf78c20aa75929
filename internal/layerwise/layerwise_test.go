package layerwise_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/quant"
)

var tiny = models.LlamaConfig{
	VocabSize: 97, HiddenSize: 32, IntermediateSize: 52, NumHiddenLayers: 3, NumAttentionHeads: 4, NumKeyValueHeads: 2,
	MaxPositionEmbeddings: 64,
}

// trainee is a small model with adapters on all linears, B not zero.
func trainee(t *testing.T, o models.Options, dropout float64) (*models.CausalLM, models.Adapters) {
	t.Helper()
	return traineeOf(t, tiny, o, dropout)
}

func traineeOf(t *testing.T, cfg models.LlamaConfig, o models.Options, dropout float64) (*models.CausalLM, models.Adapters) {
	t.Helper()
	m, err := models.NewRandom(context.Background(), &cfg, 3, o)
	if err != nil {
		t.Fatal(err)
	}
	a, err := m.NewAdapters(adapters(m, dropout))
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

// adapters are random ones on all linears.
func adapters(m *models.CausalLM, dropout float64) (loras []models.LoRA) {
	random := rand.New(rand.NewPCG(5, 5))
	values := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(random.NormFloat64() * 0.1)
		}
		return v
	}
	for _, l := range m.Linears() {
		if !l.Head {
			loras = append(loras, models.LoRA{Path: l.Path, R: 3, Scaling: 2, Dropout: dropout, A: values(3 * l.In), B: values(3 * l.Out)})
		}
	}
	return loras
}

var settings = training.SessionOptions{AdamBeta1: 0.9, AdamBeta2: 0.999, AdamEpsilon: 1e-8, Seed: 9}

func session(t *testing.T, m *models.CausalLM, a models.Adapters, o training.SessionOptions) training.Session {
	t.Helper()
	s, err := m.SessionWith(a, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// documents are random sequences of the given lengths.
func documents(seed uint64, lengths ...int) (docs [][]int32) {
	random := rand.New(rand.NewPCG(seed, 1))
	for _, n := range lengths {
		d := make([]int32, n)
		for i := range d {
			d[i] = random.Int32N(int32(tiny.VocabSize))
		}
		docs = append(docs, d)
	}
	return docs
}

// packed lays documents into rows of the given length, one after the other; each inner list is a row.
func packed(length int, rows ...[][]int32) *training.Batch {
	b := &training.Batch{Rows: len(rows), Length: length}
	for r, docs := range rows {
		b.RowSeeds = append(b.RowSeeds, uint64(r))
		at := 0
		for s, d := range docs {
			for i, id := range d {
				label := int32(-100)
				if i+1 < len(d) {
					label = d[i+1]
					b.NumLabels++
				}
				b.IDs, b.Labels = append(b.IDs, id), append(b.Labels, label)
				b.Positions, b.Segments = append(b.Positions, int32(i)), append(b.Segments, int32(s+1))
				at++
			}
		}
		b.NumTokens += at
		for ; at < length; at++ {
			b.IDs, b.Labels = append(b.IDs, 0), append(b.Labels, -100)
			b.Positions, b.Segments = append(b.Positions, 0), append(b.Segments, 0)
		}
	}
	return b
}

// run trains n steps, each over all batches, and returns losses and gradient norms.
func run(t *testing.T, s training.Session, n int, batches ...*training.Batch) (loss, norm []float64) {
	t.Helper()
	ctx := context.Background()
	for range n {
		sum, labels := 0.0, 0
		for _, b := range batches {
			st, err := s.MicroStep(ctx, b)
			if err != nil {
				t.Fatal(err)
			}
			if st.Labels != b.NumLabels {
				t.Fatalf("%d labels scored, want %d", st.Labels, b.NumLabels)
			}
			sum, labels = sum+st.LossSum, labels+st.Labels
		}
		g, err := s.Apply(ctx, training.ApplyOptions{LearningRate: 1e-2, NumItems: float64(labels), MaxGradNorm: 0.5})
		if err != nil {
			t.Fatal(err)
		}
		loss, norm = append(loss, sum/float64(labels)), append(norm, g)
	}
	return loss, norm
}

func same(t *testing.T, what string, loss, norm, wantLoss, wantNorm []float64, limit float64) {
	t.Helper()
	reference.CheckCurve(t, what+": loss", loss, wantLoss, limit)
	reference.CheckCurve(t, what+": gradient norm", norm, wantNorm, limit)
}

func TestWhatIsKeptDoesNotChangeTheGradients(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		d := documents(1, 9, 4, 13, 7)
		b := packed(15, d[:2], d[2:3], d[3:])
		for _, dropout := range []float64{0, 0.3} {
			var loss, norm []float64
			for _, budget := range []string{"0", "auto", "20KB"} {
				m, a := trainee(t, models.Options{Backend: backend, DType: models.Float32}, dropout)
				o := settings
				o.ResidualBudget = budget
				l, n := run(t, session(t, m, a, o), 4, b)
				if loss == nil {
					loss, norm = l, n
					continue
				}
				same(t, fmt.Sprintf("dropout %v, budget %s", dropout, budget), l, n, loss, norm, 1e-4) // other programs round otherwise, which AdamW magnifies
			}
		}
	})
}

func TestRowsThatGoThroughInPartsTrainTheSame(t *testing.T) {
	rows := [][][]int32{documents(1, 12), documents(2, 5, 7), documents(3, 9), documents(4, 4, 4, 3), documents(5, 12), documents(6, 2)}
	reference.OnBackends(t, func(t *testing.T, spec string) {
		for name, c := range map[string]struct {
			batch *training.Batch
			fused bool
		}{
			"packed":                    {packed(12, rows...), false},
			"one document a row, fused": {packed(12, rows[0], rows[2], rows[4], rows[5]), true},
		} {
			t.Run(name, func(t *testing.T) {
				dropout := 0.2
				if c.fused {
					dropout = 0
				}
				m, a := trainee(t, models.Options{Backend: spec, DType: models.Float32}, dropout)
				run := func(tokens, mlp int) (training.Stats, float64) {
					o := settings
					o.ResidualBudget = "0"
					s := session(t, m, a, o)
					layerwise.PartTokens(s, tokens)
					layerwise.MLPTokens(s, mlp)
					layerwise.Fuse(s, c.fused)
					st, err := s.MicroStep(t.Context(), c.batch)
					if err != nil {
						t.Fatal(err)
					}
					norm, err := s.Apply(t.Context(), training.ApplyOptions{NumItems: float64(st.Labels)})
					if err != nil {
						t.Fatal(err)
					}
					return st, norm
				}
				want, wantNorm := run(1<<20, 1<<20)
				ways := [][2]int{{12, 4}, {24, 1 << 20}, {12, 1 << 20}, {1 << 20, 5}}
				if spec == "xla:cpu" { // takes seconds to compile each
					ways = ways[:1]
				}
				for _, at := range ways {
					got, norm := run(at[0], at[1])
					if !reflect.DeepEqual(got, want) || math.Abs(norm/wantNorm-1) > 2e-6 {
						t.Errorf("%d tokens at a time, %d of a row in the MLP: %+v and norm %v, all at once %+v and %v", at[0], at[1], got, norm, want, wantNorm)
					}
				}
			})
		}
	})
}

func TestAccumulationAndPackingAreOneLargerBatch(t *testing.T) {
	d := documents(2, 9, 4, 13, 7, 2)
	m, a := trainee(t, models.Options{}, 0)
	loss, norm := run(t, session(t, m, a, settings), 4, packed(16, d[:1], d[1:2], d[2:3], d[3:4], d[4:]))
	for name, batches := range map[string][]*training.Batch{
		"accumulated":           {packed(16, d[:1], d[1:2]), packed(13, d[2:3]), packed(9, d[3:4], d[4:])},
		"packed":                {packed(22, d[2:4], [][]int32{d[0], d[4], d[1]})},
		"packed, accumulated":   {packed(22, d[2:4]), packed(17, [][]int32{d[0], d[4], d[1]})},
		"full rows, no padding": {packed(13, [][]int32{d[0], d[1]}, d[2:3]), packed(9, [][]int32{d[3], d[4]})},
	} {
		m, a := trainee(t, models.Options{}, 0)
		l, n := run(t, session(t, m, a, settings), 4, batches...)
		same(t, name, l, n, loss, norm, 2e-5)
	}
}

func TestJoinedBatchesScoreAndTrainAsTheyWouldOneByOne(t *testing.T) {
	d := documents(4, 9, 4, 13, 7, 2, 14)
	batches := []*training.Batch{packed(14, d[:2], d[2:3]), packed(14, d[3:5], d[5:])}
	one := &training.Batch{Rows: 4, Length: 14, Joined: []int{2, 2}}
	for _, b := range batches {
		one.IDs, one.Labels = append(one.IDs, b.IDs...), append(one.Labels, b.Labels...)
		one.Positions, one.Segments = append(one.Positions, b.Positions...), append(one.Segments, b.Segments...)
		one.RowSeeds = append(one.RowSeeds, b.RowSeeds...)
		one.NumLabels, one.NumTokens = one.NumLabels+b.NumLabels, one.NumTokens+b.NumTokens
	}
	reference.OnBackends(t, func(t *testing.T, backend string) {
		m, a := trainee(t, models.Options{Backend: backend, DType: models.Float32}, 0.2)
		apart, together := session(t, m, a, settings), session(t, m, a, settings)
		layerwise.HeadTokens(together, 10) // chunks that cross rows and batches
		var want []training.Stats
		for _, b := range batches {
			st, err := apart.MicroStep(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, st)
		}
		got, err := together.MicroStep(t.Context(), one)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Joined) != 2 || got.Labels != want[0].Labels+want[1].Labels {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		for i, w := range want {
			g := got.Joined[i]
			if g.Labels != w.Labels || g.Correct != w.Correct || math.Abs(g.LossSum/w.LossSum-1) > 2e-6 || math.Abs(g.EntropySum/w.EntropySum-1) > 2e-6 {
				t.Errorf("batch %d: got %+v, want %+v", i, g, w)
			}
		}
		o := training.ApplyOptions{NumItems: float64(one.NumLabels)}
		norm, err := together.Apply(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		wantNorm, err := apart.Apply(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(norm/wantNorm-1) > 1e-5 {
			t.Errorf("gradient norm %v, one by one %v", norm, wantNorm)
		}
	})
}

func TestDropoutDropsWhileTrainingOnly(t *testing.T) {
	ctx := context.Background()
	b := packed(12, documents(3, 12))
	m, a := trainee(t, models.Options{}, 0)
	plain, err := session(t, m, a, settings).MicroStep(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	m, a = trainee(t, models.Options{}, 0.5)
	s := session(t, m, a, settings)
	dropped, err := s.MicroStep(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	eval, err := s.Evaluate(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(dropped.LossSum-plain.LossSum) < 1e-3 {
		t.Errorf("dropout of 0.5 left the loss at %v", dropped.LossSum)
	}
	if math.Abs(eval.LossSum-plain.LossSum) > 1e-4 {
		t.Errorf("evaluation gives %v, without dropout it is %v", eval.LossSum, plain.LossSum)
	}
}

func TestPackedWeightsComputeAsDequantizedOnes(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		b := packed(11, documents(4, 11), documents(5, 8))
		q := &quant.BitsAndBytesConfig{LoadIn4Bit: true, BNB4BitQuantType: quant.NF4, BNB4BitUseDoubleQuant: true}
		m, a := trainee(t, models.Options{Backend: backend, Quantization: q}, 0)
		loss, norm := run(t, session(t, m, a, settings), 3, b)
		m, a = trainee(t, models.Options{Backend: backend, Quantization: q, KeepPacked: true}, 0)
		l, n := run(t, session(t, m, a, settings), 3, b)
		same(t, "packed", l, n, loss, norm, 1e-5)
	})
}

func TestSavedStateGoesOnBitForBit(t *testing.T) {
	b := packed(10, documents(6, 10), documents(7, 5))
	m, a := trainee(t, models.Options{}, 0.2)
	s := session(t, m, a, settings)
	run(t, s, 2, b)
	dir := t.TempDir()
	if err := s.SaveState(dir); err != nil {
		t.Fatal(err)
	}
	loss, norm := run(t, s, 3, b)
	m, a = trainee(t, models.Options{}, 0.2)
	s = session(t, m, a, settings)
	if err := s.LoadState(dir); err != nil {
		t.Fatal(err)
	}
	l, n := run(t, s, 3, b)
	same(t, "resumed", l, n, loss, norm, 0)
}

// A whole model with a head large enough for 8-bit moments: it learns as with float32 ones, and goes on bit for bit.
func TestEightBitMomentsTrainAModel(t *testing.T) {
	b := packed(10, documents(6, 10), documents(7, 8))
	cfg := tiny
	cfg.VocabSize = 130 // · 32 is above 4096
	train := func(optim, dir string, save bool) (loss, norm []float64) {
		m, err := models.NewRandom(context.Background(), &cfg, 1, models.Options{Trainable: true})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		o := settings
		o.Optim = optim
		s, err := m.NewSession(o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		switch {
		case save:
			run(t, s, 4, b)
			if err := s.SaveState(dir); err != nil {
				t.Fatal(err)
			}
		case dir != "":
			if err := s.LoadState(dir); err != nil {
				t.Fatal(err)
			}
		}
		return run(t, s, 6, b)
	}
	full, _ := train("adamw_torch", "", false)
	for _, optim := range []string{"adamw_8bit", "lion_8bit"} {
		dir := t.TempDir()
		loss, norm := train(optim, dir, true)
		again, n := train(optim, dir, false)
		same(t, optim+" resumed", again, n, loss, norm, 0)
		if loss, _ := train(optim, "", false); loss[5] > loss[0]*0.9 {
			t.Errorf("%s: losses %v", optim, loss)
		}
	}
	eight, _ := train("paged_adamw_8bit", "", false)
	for i := range full {
		if math.Abs(eight[i]/full[i]-1) > 0.02 {
			t.Errorf("step %d: loss %v with 8-bit moments, %v with float32 ones", i+1, eight[i], full[i])
		}
	}
	paged, _ := train("paged_adamw_32bit", "", false)
	same(t, "paged", paged, nil, full, nil, 0)
	o := settings
	o.Optim = "adagrad"
	m, a := trainee(t, models.Options{}, 0)
	if _, err := m.SessionWith(a, o); err == nil || !strings.Contains(err.Error(), `optimizer "adagrad" is unknown, want one of adafactor`) {
		t.Errorf("error %v", err)
	}
}

func TestStateOfAnotherAdapterIsRefusedWhole(t *testing.T) {
	b := packed(10, documents(6, 10))
	m, a := trainee(t, models.Options{}, 0)
	s := session(t, m, a, settings)
	dir := t.TempDir()
	if err := s.SaveState(dir); err != nil {
		t.Fatal(err)
	}
	cfg := tiny
	cfg.NumHiddenLayers = 2
	other, err := models.NewRandom(context.Background(), &cfg, 1, models.Options{Trainable: true})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	so, err := other.NewSession(settings)
	if err != nil {
		t.Fatal(err)
	}
	defer so.Close()
	if err := so.LoadState(dir); err == nil || !strings.Contains(err.Error(), "another model") {
		t.Errorf("got error %v, want a refusal", err)
	}
	run(t, so, 1, b)
	if err := os.Truncate(filepath.Join(dir, "optimizer.safetensors"), 100); err != nil {
		t.Fatal(err)
	}
	if err := s.LoadState(dir); err == nil {
		t.Error("a truncated state was loaded")
	}
	run(t, s, 1, b)
}

func TestWrongBudgetIsNamed(t *testing.T) {
	m, a := trainee(t, models.Options{}, 0)
	for _, budget := range []string{"lots", "-1", "12 parsecs", "NaN", "Inf"} {
		o := settings
		o.ResidualBudget = budget
		if _, err := m.SessionWith(a, o); err == nil || !strings.Contains(err.Error(), "ResidualBudget") {
			t.Errorf("budget %q: got error %v", budget, err)
		}
	}
}
