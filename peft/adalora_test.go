package peft

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

// fresh makes the adapter of a case with the first values that PEFT's had.
func (c *tunerCase) fresh(t *testing.T, m *models.CausalLM, cfg method) *PeftModel {
	t.Helper()
	p := newPeftModel(m, []Option{quiet})
	made, _, err := cfg.attach(p, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := made.(*methodSet)
	var first [][][]float32
	for i, target := range s.targets {
		var own [][]float32
		for _, n := range s.forms[i].tensors {
			own = append(own, c.tensor(t, "initial."+keyPrefix+target.Path+"."+n.name))
		}
		first = append(first, own)
	}
	if err := p.add(DefaultAdapter, &adapterSet{tuner: s}, s.with(first)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// scheduled trains a case of AdaLoRA as PEFT did, from a step on.
func (c *tunerCase) scheduled(t *testing.T, p *PeftModel, s training.Session, from, to int) {
	t.Helper()
	b := c.batch()
	for step := from; step < to; step++ {
		st, err := s.MicroStep(context.Background(), b)
		if err != nil {
			t.Fatal(err)
		}
		if loss := st.LossSum / float64(st.Labels); loss < c.Schedule.Losses[step]-2e-4 || loss > c.Schedule.Losses[step]+2e-4 {
			t.Errorf("step %d: loss %v, PEFT's is %v", step, loss, c.Schedule.Losses[step])
		}
		if _, err := s.Apply(context.Background(), training.ApplyOptions{LearningRate: 0.02, NumItems: float64(st.Labels)}); err != nil {
			t.Fatal(err)
		}
		if kept := p.Config().(AdaLoraConfig).RankPattern; fmt.Sprint(kept) != fmt.Sprint(c.Schedule.Kept[step]) {
			t.Errorf("step %d: ranks %v, PEFT has %v", step, kept, c.Schedule.Kept[step])
		}
	}
}

// AdaLoRA takes the same ranks away in the same steps as PEFT, learns the same, and goes on from a checkpoint as if nothing had
// been.
func TestAdaLoRAAllocatesRanksAsPEFTDoes(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		c := readTuner(t, "adalora_ranks")
		read, _, err := ReadConfig(c.dir)
		if err != nil {
			t.Fatal(err)
		}
		cfg := read.(AdaLoraConfig)
		cfg.RankPattern, cfg.InferenceMode = nil, false
		o := training.SessionOptions{AdamBeta1: 0.9, AdamBeta2: 0.999, AdamEpsilon: 1e-8}
		m := c.load(t, backend, models.Options{})
		p := c.fresh(t, m, cfg)
		s, err := p.NewSession(o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		const middle = 5
		c.scheduled(t, p, s, 0, middle)
		checkpoint, dir := t.TempDir(), t.TempDir()
		if err := s.SaveState(checkpoint); err != nil {
			t.Fatal(err)
		}
		c.scheduled(t, p, s, middle, len(c.Schedule.Losses))
		if err := p.SavePretrained(dir); err != nil {
			t.Fatal(err)
		}
		checkFolder(t, dir, c.dir, 2e-3)
		c.checkLogits(t, p, "logits", 1e-4)

		q := c.fresh(t, m, cfg)
		again, err := q.NewSession(o)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if err := again.LoadState(checkpoint); err != nil {
			t.Fatal(err)
		}
		c.scheduled(t, q, again, middle, len(c.Schedule.Losses))
		want, err := p.first().loras()
		if err != nil {
			t.Fatal(err)
		}
		got, err := q.first().loras()
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			for j, n := range want[i].Tuned.Tensors {
				if !slices.Equal(n.Values, got[i].Tuned.Tensors[j].Values) {
					t.Errorf("%s of %s differs after a resumed training", n.Name, want[i].Path)
				}
			}
		}
		if err := again.LoadState(t.TempDir()); err == nil || !strings.Contains(err.Error(), "it has no ranks.json") {
			t.Errorf("a checkpoint without a schedule: %v", err)
		}
	})
}

// What trainers and benchmarks ask of a session by its type AdaLoRA's has as well.
func TestAdaLoRAsSessionHasWhatOtherSessionsHave(t *testing.T) {
	c := readTuner(t, "adalora_ranks")
	s, err := c.open(t, c.load(t, "", models.Options{})).NewSession(training.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for name, has := range map[string]func() bool{
		"Prefetcher": func() bool { _, ok := s.(training.Prefetcher); return ok },
		"LossScaler": func() bool { _, ok := s.(training.LossScaler); return ok },
		"Joiner":     func() bool { _, ok := s.(training.Joiner); return ok },
		"Device":     func() bool { _, ok := s.(interface{ Device() *backend.Device }); return ok },
		"Profile": func() bool {
			_, ok := s.(interface {
				Profile(run func() error) ([]seam.Execution, error)
			})
			return ok
		},
		"ForecastMemory": func() bool {
			_, ok := s.(interface {
				ForecastMemory(rows, length int) (layerwise.Forecast, bool)
			})
			return ok
		},
	} {
		if !has() {
			t.Errorf("%T has no %s", s, name)
		}
	}
}

func TestAdaLoRABudgetsFallByACubicSchedule(t *testing.T) {
	c := AdaLoraConfig{TInit: 1, TFinal: 2, DeltaT: 2, TotalStep: 9}
	for step, want := range map[int]struct {
		budget int
		mask   bool
	}{0: {24, false}, 1: {24, false}, 2: {18, true}, 3: {15, false}, 4: {13, true}, 6: {12, true}, 7: {12, false}, 8: {12, true}} {
		if budget, mask := c.budget(step, 24, 12); budget != want.budget || mask != want.mask {
			t.Errorf("step %d: %d, %v, want %v", step, budget, mask, want)
		}
	}
	scores := map[string][]float32{"a": {3, 1, 2}, "b": {0, 2, 5}}
	pattern := allocated(scores, 3)
	if got := slices.Sorted(maps.Keys(pattern)); len(got) != 2 || fmt.Sprint(pattern) != "map[a:[true false false] b:[false false true]]" { // of equals, none stays
		t.Errorf("%v", pattern)
	}
	if fmt.Sprint(allocated(scores, 6)) != "map[a:[true true true] b:[true true true]]" {
		t.Error("a budget for all of them takes some away")
	}
}
