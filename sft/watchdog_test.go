package sft

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

// spoiled is a toy model that finds one token unbearable.
type spoiled struct {
	*toyModel
	token int32
	loss  float64
}

type spoiledSession struct {
	Session
	m *spoiled
}

func (m *spoiled) NewSession(o SessionOptions) (Session, error) {
	s, err := m.toyModel.NewSession(o)
	return spoiledSession{s, m}, err
}

func (s spoiledSession) add(b *Batch, st Stats, err error) (Stats, error) {
	for i, l := range b.Labels {
		if l == s.m.token && b.Segments[i] != 0 {
			st.LossSum += s.m.loss
		}
	}
	return st, err
}

func (s spoiledSession) MicroStep(ctx context.Context, b *Batch) (Stats, error) {
	st, err := s.Session.MicroStep(ctx, b)
	return s.add(b, st, err)
}

func (s spoiledSession) Evaluate(ctx context.Context, b *Batch) (Stats, error) {
	st, err := s.Session.Evaluate(ctx, b)
	return s.add(b, st, err)
}

func TestWatchdogNamesTheRowsThatSpoilTheLoss(t *testing.T) {
	const token = 'q' // none of the other rows has it
	rows := slices.Clone(zen())
	rows[7] = Row{"text": "aq"}
	for _, c := range []struct {
		name   string
		change func(*SFTConfig)
		loss   float64
		says   []string
	}{
		{"not finite", func(c *SFTConfig) {}, math.NaN(), []string{"the loss is NaN", "worst first: 8 (loss NaN)", "last checkpoint is intact"}},
		{"not finite, packed", func(c *SFTConfig) { c.Packing, c.MaxLength = true, 80 }, math.Inf(1), []string{"the loss is +Inf", "8 (loss +Inf)"}},
		{"too high", func(c *SFTConfig) { c.LossWatchdogThreshold, c.LossWatchdogPatience = 100, 1 }, 1e6,
			[]string{"worst first: 8 (loss ", "LossWatchdogThreshold 100 for 1 steps"}},
		{"too high, but not for long", func(c *SFTConfig) { c.LossWatchdogThreshold = 100 }, 1e6, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := testConfig(t)
			c.change(&config)
			_, err := mustTrainer(t, &spoiled{newToyModel(), int32(token), c.loss}, rows, config).Train(t.Context())
			if c.says == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, append(c.says, "rows of the data set")...)
			var diverged *DivergedError
			if !errors.As(err, &diverged) || len(diverged.Rows) == 0 || diverged.Step < 1 {
				t.Fatalf("%#v", diverged)
			}
			if worst := diverged.Rows[0]; worst.Row != 8 && !config.Packing {
				t.Errorf("the worst row is %+v, of %+v", worst, diverged.Rows)
			}
			for _, r := range diverged.Rows {
				if r.Row < 1 || r.Row > len(rows) {
					t.Errorf("there is no row %d", r.Row)
				}
			}
		})
	}
}

func TestGradientThatIsNotFiniteNamesItsRows(t *testing.T) {
	c := testConfig(t)
	c.TrainSamplingStrategy = Sequential
	_, err := mustTrainer(t, &wildModel{newToyModel()}, zen(), c).Train(t.Context())
	wantError(t, err, "step 1", "gradient norm is +Inf", "1 (loss", "4 (loss")
	if strings.Contains(err.Error(), "5 (loss") {
		t.Errorf("row 5 is not in step 1: %v", err)
	}
}

// wildModel's gradients are infinite.
type wildModel struct{ *toyModel }

type wildSession struct{ Session }

func (m *wildModel) NewSession(o SessionOptions) (Session, error) {
	s, err := m.toyModel.NewSession(o)
	return wildSession{s}, err
}

func (wildSession) Apply(context.Context, ApplyOptions) (float64, error) { return math.Inf(1), nil }

func TestCollatorReplacesHowBatchesAreMade(t *testing.T) {
	c := testConfig(t)
	want := mustTrain(t, newToyModel(), zen(), c)
	seen := 0
	c.Collate = func(in Collation) (*Batch, error) {
		seen += len(in.Rows)
		return CollateRows(in)
	}
	got := mustTrain(t, newToyModel(), zen(), c)
	if seen != 26 || !slices.Equal(losses(got.LogHistory), losses(want.LogHistory)) {
		t.Errorf("%d rows collated, losses %v, want 26, %v", seen, losses(got.LogHistory), losses(want.LogHistory))
	}
	// One that trains the last label of every row only.
	c.Collate = func(in Collation) (*Batch, error) {
		b, err := CollateRows(in)
		for i := range in.Rows {
			last := -1
			for t := range b.Length {
				if at := i*b.Length + t; b.Labels[at] != Ignored {
					if last >= 0 {
						b.Labels[last] = Ignored
						b.NumLabels--
					}
					last = at
				}
			}
		}
		return b, err
	}
	model := &labelCounter{toyModel: newToyModel()}
	mustTrain(t, model, zen(), c)
	if model.labels != 26 {
		t.Errorf("%d labels in 2 epochs of 13 rows, want 26", model.labels)
	}
	for _, bad := range []struct {
		batch *Batch
		err   error
		says  string
	}{
		{nil, errBroken, errBroken.Error()},
		{nil, nil, "nil"},
		{&Batch{Rows: 1, Length: 2, IDs: []int32{1}, Labels: []int32{1, 2}}, nil, "batch of 1 rows of 2: IDs has 1 values, want 2"},
		{&Batch{Rows: 1, Length: 2, IDs: []int32{1, 2}, Labels: []int32{1, Ignored}, NumLabels: 2}, nil, "NumLabels is 2"},
		{&Batch{Rows: -1, Length: -2, IDs: []int32{1, 2}, Labels: []int32{1, Ignored}, NumLabels: 1}, nil, "Rows must be at least 1"},
		{&Batch{Rows: 1, Length: 2, IDs: []int32{1, 2}, Labels: []int32{1, -1}, NumLabels: 2}, nil, "Labels[1] is -1, at position 1 of row 0"},
		{&Batch{Rows: 1, Length: 2, IDs: []int32{1, 2}, Labels: []int32{1, Ignored}, NumLabels: 1, Joined: []int{2}}, nil, "Joined[0] is 2 rows"},
	} {
		c.Collate = func(Collation) (*Batch, error) { return bad.batch, bad.err }
		_, err := mustTrainer(t, newToyModel(), zen(), c).Train(t.Context())
		wantError(t, err, "SFTConfig.Collate", bad.says)
	}
}

type labelCounter struct {
	*toyModel
	labels int
}

func (m *labelCounter) NewSession(o SessionOptions) (Session, error) {
	s, err := m.toyModel.NewSession(o)
	return countingSession{s, m}, err
}

type countingSession struct {
	Session
	m *labelCounter
}

func (s countingSession) MicroStep(ctx context.Context, b *Batch) (Stats, error) {
	s.m.labels += b.NumLabels
	return s.Session.MicroStep(ctx, b)
}
