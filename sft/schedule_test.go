package sft

import (
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"testing"
)

func TestSchedulesEqualTransformers(t *testing.T) {
	var fixture struct {
		Cases []struct {
			Name         string
			LearningRate float64 `json:"learning_rate"`
			WarmupSteps  float64 `json:"warmup_steps"`
			Steps        int
			Kwargs       map[string]any
			Rates        []float64
		}
	}
	readFixture(t, "schedules.json", &fixture)
	seen := map[string]bool{}
	for _, c := range fixture.Cases {
		seen[c.Name] = true
		config := SFTConfig{LRSchedulerType: c.Name, LearningRate: c.LearningRate, WarmupSteps: c.WarmupSteps, LRSchedulerKwargs: c.Kwargs}
		rate, err := newSchedule(config, c.Steps)
		if err != nil {
			t.Fatal(err)
		}
		for step, want := range c.Rates {
			if got := rate(step); math.Abs(got-want) > 1e-14*c.LearningRate {
				t.Errorf("%s, warmup %v, %v, step %d of %d: %v, transformers %v", c.Name, c.WarmupSteps, c.Kwargs, step, c.Steps, got, want)
			}
		}
	}
	for _, name := range scheduleNames() {
		if config := (SFTConfig{LRSchedulerType: name}); !seen[name] && !config.follows() {
			t.Errorf("no fixture for %s", name)
		}
	}
}

func TestRatesThatFollowEvaluationsEqualTransformers(t *testing.T) {
	var fixture struct {
		Followed []struct {
			Name           string
			Kwargs         map[string]any
			LearningRate   float64 `json:"learning_rate"`
			Metrics, Rates []float64
		}
	}
	readFixture(t, "schedules.json", &fixture)
	if len(fixture.Followed) < 8 {
		t.Fatalf("only %d cases", len(fixture.Followed))
	}
	for _, c := range fixture.Followed {
		config := SFTConfig{LRSchedulerType: c.Name, LearningRate: c.LearningRate, LRSchedulerKwargs: c.Kwargs}
		if _, err := newSchedule(config, 10); err != nil {
			t.Fatal(err)
		}
		f := newFollower(config)
		for i, metric := range c.Metrics {
			if i%3 == 2 { // as a resumed run does
				text := mustJSON(t, f)
				f = newFollower(config)
				if err := json.Unmarshal([]byte(text), f); err != nil {
					t.Fatal(err)
				}
			}
			if f.see(metric); math.Abs(f.rate()-c.Rates[i]) > 1e-15*c.Rates[i] {
				t.Errorf("%s, %v, evaluation %d: %v, transformers %v", c.Name, c.Kwargs, i, f.rate(), c.Rates[i])
			}
		}
	}
}

func TestWarmupRatioIsAFractionOfWarmupSteps(t *testing.T) {
	a, err1 := newSchedule(SFTConfig{LearningRate: 1, LRSchedulerType: Linear, WarmupRatio: 0.3}, 11)
	b, err2 := newSchedule(SFTConfig{LearningRate: 1, LRSchedulerType: Linear, WarmupSteps: 4}, 11)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	for s := range 11 {
		if a(s) != b(s) {
			t.Errorf("step %d: %v, want %v", s, a(s), b(s))
		}
	}
}

func TestPlanCountsStepsAsTransformers(t *testing.T) {
	for _, c := range []struct {
		rows                                     int
		config                                   SFTConfig
		batches, stepsPerEpoch, maxSteps, epochs int
		samples                                  float64
	}{
		{13, SFTConfig{PerDeviceTrainBatchSize: 2, GradientAccumulationSteps: 2}, 7, 4, 12, 3, 39},
		{13, SFTConfig{PerDeviceTrainBatchSize: 2, GradientAccumulationSteps: 2, DataloaderDropLast: true}, 6, 3, 9, 3, 39},
		{13, SFTConfig{}, 2, 2, 6, 3, 39},
		{3, SFTConfig{}, 1, 1, 3, 3, 9},
		{3, SFTConfig{DataloaderDropLast: true}, 1, 1, 3, 3, 9},
		{13, SFTConfig{PerDeviceTrainBatchSize: 1, NumTrainEpochs: 0.5}, 13, 13, 7, 1, 6.5},
		{13, SFTConfig{PerDeviceTrainBatchSize: 1, NumTrainEpochs: 1.5, GradientAccumulationSteps: 4}, 13, 4, 6, 2, 19.5},
		{13, SFTConfig{PerDeviceTrainBatchSize: 2, MaxSteps: 10}, 7, 7, 10, 2, 20},
		{13, SFTConfig{PerDeviceTrainBatchSize: 2, MaxSteps: 14, NumTrainEpochs: 9}, 7, 7, 14, 2, 28},
	} {
		want := stepPlan{c.batches, c.stepsPerEpoch, c.maxSteps, c.epochs, c.samples}
		if got := c.config.withDefaults().plan(c.rows); got != want {
			t.Errorf("%d rows, %+v:\ngot  %+v\nwant %+v", c.rows, c.config, got, want)
		}
	}
}

func TestOrderIsAPermutationThatOnlySeedAndEpochDecide(t *testing.T) {
	d := &dataset{rows: make([]packedRow, 101)}
	c := SFTConfig{}.withDefaults()
	first := d.order(c, 0)
	sorted := slices.Sorted(slices.Values(first))
	for i, n := range sorted {
		if i != n {
			t.Fatalf("not a permutation: %v", first)
		}
	}
	if slices.Equal(first, sorted) || !slices.Equal(first, d.order(c, 0)) || slices.Equal(first, d.order(c, 1)) {
		t.Error("the order is not random, not reproducible, or the same in two epochs")
	}
	c.DataSeed = 7
	if slices.Equal(first, d.order(c, 0)) {
		t.Error("two seeds give one order")
	}
	c.TrainSamplingStrategy = Sequential
	if !slices.Equal(d.order(c, 3), sorted) {
		t.Error("sequential order is not sequential")
	}
}

func TestOrderEqualsTRLs(t *testing.T) {
	var fixture struct {
		Orders []struct {
			Rows    int
			Options json.RawMessage
			Epochs  [][]int
		}
	}
	readFixture(t, "order.json", &fixture)
	if len(fixture.Orders) == 0 {
		t.Fatal("no orders")
	}
	for _, want := range fixture.Orders {
		c := readConfig(t, want.Options).withDefaults()
		d := &dataset{}
		for i := range want.Rows {
			d.rows = append(d.rows, packedRow{{ids: make([]int32, 1+i%3)}})
		}
		for epoch, order := range want.Epochs {
			if got := d.order(c, epoch); !slices.Equal(got, order) {
				t.Errorf("%s, epoch %d: %v, TRL %v", want.Options, epoch, got, order)
			}
		}
	}
}

func TestShuffleDatasetEqualsTRLs(t *testing.T) {
	var fixture struct {
		Shuffles []struct {
			Rows     int
			Options  json.RawMessage
			InputIDs [][]int32 `json:"input_ids"`
		}
	}
	readFixture(t, "order.json", &fixture)
	if len(fixture.Shuffles) == 0 {
		t.Fatal("no shuffles")
	}
	for _, want := range fixture.Shuffles {
		var rows []Row
		for i := range want.Rows {
			rows = append(rows, Row{"input_ids": slices.Repeat([]int{i + 1}, 1+i%3)})
		}
		c := readConfig(t, want.Options).withDefaults()
		d, _, err := prepare(FromRows(rows), toyTokenizer{}, c, c.Packing, "training")
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := flatten(d.rows); !reflect.DeepEqual(got, want.InputIDs) {
			t.Errorf("%s:\ngot %v\nTRL %v", want.Options, got, want.InputIDs)
		}
	}
}

func TestGroupByLengthKeepsLengthsTogether(t *testing.T) {
	d := &dataset{}
	for i := range 96 {
		n := 1 + i*37%61
		d.rows = append(d.rows, packedRow{{ids: make([]int32, n), labels: make([]int32, n)}})
	}
	c := SFTConfig{PerDeviceTrainBatchSize: 4, TrainSamplingStrategy: GroupByLength}.withDefaults()
	order := d.order(c, 0)
	spread := func(order []int) (total int) {
		for batch := range slices.Chunk(order, 4) {
			var lengths []int
			for _, n := range batch {
				lengths = append(lengths, d.rows[n].length())
			}
			total += slices.Max(lengths) - slices.Min(lengths)
		}
		return total
	}
	c.TrainSamplingStrategy = Random
	if a, b := spread(order), spread(d.order(c, 0)); a*3 > b {
		t.Errorf("lengths in batches spread over %d, without grouping over %d", a, b)
	}
	if d.rows[order[0]].length() != 61 {
		t.Errorf("the first row has %d tokens, the longest has 61", d.rows[order[0]].length())
	}
	if got := slices.Sorted(slices.Values(order)); got[0] != 0 || got[95] != 95 || len(slices.Compact(got)) != 96 {
		t.Error("not a permutation")
	}
}

func TestPlateauLowersTheRateOfARun(t *testing.T) {
	c := testConfig(t)
	c.LRSchedulerType, c.LRSchedulerKwargs = ReduceLROnPlateau, map[string]any{"patience": 0, "factor": 0.5, "threshold": 0.9}
	c.EvalDataset, c.EvalStrategy, c.EvalSteps, c.LoggingSteps = FromRows(zen()[:3]), Steps, 2, 1
	var rates []float64
	for _, m := range mustTrain(t, newToyModel(), zen(), c).LogHistory {
		if rate, ok := m.Get("learning_rate"); ok {
			rates = append(rates, rate)
		}
	}
	// The first evaluation is the best; none after it is better by 90 %.
	if want := []float64{0.03, 0.03, 0.03, 0.03, 0.015, 0.015, 0.0075, 0.0075}; !slices.Equal(rates, want) {
		t.Errorf("rates %v, want %v", rates, want)
	}
}
