package sft

import (
	"context"
	"slices"
	"testing"
)

// joiner is a toyModel whose device has room for batches of so many rows.
type joiner struct {
	*toyModel
	room int
	rows []int // of the batches that it got
}

func (m *joiner) NewSession(o SessionOptions) (Session, error) {
	s, err := m.toyModel.NewSession(o)
	return joiningSession{s, m}, err
}

type joiningSession struct {
	Session
	m *joiner
}

func (s joiningSession) FitsWhole(rows, _ int) bool { return rows <= s.m.room }

func (s joiningSession) MicroStep(ctx context.Context, b *Batch) (Stats, error) {
	s.m.rows = append(s.m.rows, b.Rows)
	if b.Joined == nil {
		return s.Session.MicroStep(ctx, b)
	}
	var all Stats
	at := 0
	for _, n := range b.Joined {
		from, to := at*b.Length, (at+n)*b.Length
		part := &Batch{Rows: n, Length: b.Length, IDs: b.IDs[from:to], Labels: b.Labels[from:to], Positions: b.Positions[from:to],
			Segments: b.Segments[from:to], RowSeeds: b.RowSeeds[at : at+n]}
		for _, l := range part.Labels {
			if l != Ignored {
				part.NumLabels++
			}
		}
		st, err := s.Session.MicroStep(ctx, part)
		if err != nil {
			return all, err
		}
		all.LossSum, all.EntropySum = all.LossSum+st.LossSum, all.EntropySum+st.EntropySum
		all.Correct, all.Labels = all.Correct+st.Correct, all.Labels+st.Labels
		all.Joined = append(all.Joined, Stats{LossSum: st.LossSum, EntropySum: st.EntropySum, Correct: st.Correct, Labels: part.NumLabels})
		at += n
	}
	return all, nil
}

func TestMicroStepsThatFitTogetherRunAsOneAndLogTheSame(t *testing.T) {
	rows := slices.Concat(zen(), zen())
	c := testConfig(t)
	c.PerDeviceTrainBatchSize, c.GradientAccumulationSteps, c.LoggingSteps, c.NumTrainEpochs = 2, 4, 1, 2
	c.MaxLength, c.PadToMultipleOf = 64, 64
	run := func(room int) (logged []float64, sizes []int) {
		m := &joiner{toyModel: newToyModel(), room: room}
		m.dropout = 0.2
		c.OutputDir = t.TempDir()
		for _, line := range untimed(mustTrain(t, m, rows, c).LogHistory) {
			for _, e := range line {
				logged = append(logged, e.Value)
			}
		}
		return logged, m.rows
	}
	want, apart := run(0)
	for _, c := range []struct {
		room int
		rows []int // of the first epoch: 26 rows are three steps of four micro-steps, and one of one
	}{
		{8, []int{8, 8, 8, 2}},
		{7, []int{4, 4, 4, 4, 4, 4, 2}}, // six rows would not divide eight
		{3, slices.Repeat([]int{2}, 13)},
	} {
		got, sizes := run(c.room)
		if d := distance(got, want); len(got) != len(want) || d > 1e-14 {
			t.Errorf("room for %d rows logs %v, one by one it is %v", c.room, got, want)
		}
		if !slices.Equal(sizes[:len(sizes)/2], c.rows) {
			t.Errorf("room for %d rows: batches of %v rows, want %v", c.room, sizes[:len(sizes)/2], c.rows)
		}
	}
	if len(apart) != 26 {
		t.Errorf("%d batches one by one, want 26", len(apart))
	}
}
