package sft

import (
	"encoding/json"
	"math"
	"testing"
)

func TestMetricsKeepValuesThroughJSON(t *testing.T) {
	m := Metrics{{"loss", 2.0 / 3}, {"learning_rate", 2e-5}, {"num_tokens", 1e17}, {"big", 123456789}, {"step", 3}}
	text := mustJSON(t, m)
	if want := `{"loss":0.6666666666666666,"learning_rate":2e-05,"num_tokens":1e+17,"big":123456789.0,"step":3}`; text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	var back Metrics
	if err := json.Unmarshal([]byte(text), &back); err != nil {
		t.Fatal(err)
	}
	for _, e := range m {
		if v, ok := back.Get(e.Name); !ok || v != e.Value {
			t.Errorf("%s is %v, was %v", e.Name, v, e.Value)
		}
	}
	if _, err := json.Marshal(Metrics{{"loss", math.NaN()}}); err == nil {
		t.Error("NaN became JSON")
	}
	if got, want := m[:2].String(), "loss=0.66667 learning_rate=2e-05"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestMicroStepsWithoutLabelsCountAsZero(t *testing.T) {
	var m meter
	m.micro(3, 1, 1)
	m.micro(0, 0, 0)
	m.micro(8, 1, 4)
	var got Metrics
	m.averages(&got, "", 7)
	if want := "entropy=1.6667 num_tokens=7 mean_token_accuracy=0.41667"; got.String() != want { // (3+0+2)/3, (1+0+¼)/3
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAnEqualEvaluationIsNotANewBest(t *testing.T) {
	for greater, values := range map[bool][]float64{false: {3, 2, 2, 2.5, 1}, true: {1, 2, 2, 1.5, 3}} {
		c := SFTConfig{MetricForBestModel: "eval_x", GreaterIsBetter: new(greater)}.withDefaults()
		s := TrainerState{}
		for i, want := range []bool{true, true, false, false, true} {
			s.GlobalStep = i + 1
			best, err := s.noteBest(&c, Metrics{{"eval_x", values[i]}})
			if err != nil || best != want {
				t.Errorf("greater is better: %v, evaluation %d of %v: best %v, %v; want %v", greater, i+1, values, best, err, want)
			}
		}
		if *s.BestGlobalStep != 5 || *s.BestMetric != values[4] {
			t.Errorf("best %v at step %d", *s.BestMetric, *s.BestGlobalStep)
		}
	}
}

func TestAStepIsLoggedOnce(t *testing.T) {
	c := testConfig(t)
	c.LoggingSteps = 4 // an epoch has 4 steps
	c.Callbacks = []Callback{{OnEpochEnd: func(e *Event) error {
		e.Control.ShouldLog = true
		return nil
	}}}
	report := mustTrain(t, newToyModel(), zen(), c)
	if got := losses(report.LogHistory); len(got) != 2 {
		t.Errorf("training lines %v in 2 epochs", got)
	}
}
