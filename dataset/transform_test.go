package dataset

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"testing"
)

// both runs a test on rows in memory and on a stream of them.
func both(t *testing.T, rows []Row, f func(t *testing.T, d *Dataset)) {
	t.Run("in memory", func(t *testing.T) { f(t, FromRows(rows)) })
	t.Run("stream", func(t *testing.T) { f(t, FromSeq(FromRows(rows).All())) })
}

func wantRows(t *testing.T, d *Dataset, want ...Row) {
	t.Helper()
	for range 2 {
		got, err := d.Rows()
		if err != nil {
			t.Fatal(err)
		}
		if len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		if n, err := d.Len(); err != nil || n != len(want) {
			t.Errorf("Len is %d (%v), want %d", n, err, len(want))
		}
	}
}

func TestTransformations(t *testing.T) {
	source := []Row{{"a": int64(1), "b": "x"}, {"a": int64(2), "b": "y"}, {"a": int64(3), "b": "z"}}
	both(t, source, func(t *testing.T, d *Dataset) {
		double := func(r Row) (Row, error) { r["a"] = 2 * r["a"].(int64); return r, nil }
		odd := func(r Row) (bool, error) { return r["a"].(int64)%2 == 1, nil }
		wantRows(t, d.Map(double).SelectColumns("a"), Row{"a": int64(2)}, Row{"a": int64(4)}, Row{"a": int64(6)})
		wantRows(t, d.SelectColumns("a"), Row{"a": int64(1)}, Row{"a": int64(2)}, Row{"a": int64(3)}) // the source is as it was
		wantRows(t, d.Filter(odd).RemoveColumns("b"), Row{"a": int64(1)}, Row{"a": int64(3)})
		wantRows(t, d.RenameColumn("b", "text").Skip(1).Take(1), Row{"a": int64(2), "text": "y"})
		wantRows(t, d.Take(0))
		wantRows(t, d.Skip(5))
		wantRows(t, d.Take(9), source...)
		wantRows(t, Concatenate(d.Take(1), d.Skip(2)), source[0], source[2])
		if first, err := d.First(); err != nil || !reflect.DeepEqual(first, source[0]) {
			t.Errorf("First is %v (%v)", first, err)
		}
		if _, err := d.Take(0).First(); err == nil {
			t.Error("First of no rows has no error")
		}
	})
}

func TestErrorsOfTransformationsNameTheRow(t *testing.T) {
	broken := errors.New("broken")
	both(t, []Row{{"a": "x"}, {"b": "y"}, {"a": "z"}}, func(t *testing.T, d *Dataset) {
		onB := func(r Row) error {
			if r.Has("b") {
				return broken
			}
			return nil
		}
		for says, d := range map[string]*Dataset{
			"Map: row 2: broken":                                           d.Map(func(r Row) (Row, error) { return r, onB(r) }),
			"Filter: row 2: broken":                                        d.Filter(func(r Row) (bool, error) { return true, onB(r) }),
			`SelectColumns: row 2: column "a" is missing`:                  d.SelectColumns("a"),
			`RemoveColumns: row 2: column "a" is missing`:                  d.RemoveColumns("a"),
			`RenameColumn: row 2: column "a" is missing (the row has "b")`: d.RenameColumn("a", "c"),
			`column "a" is there already`:                                  d.Skip(2).Map(func(r Row) (Row, error) { r["b"] = 1; return r, nil }).RenameColumn("b", "a"),
			"the seed is -1":                                               d.Shuffle(-1),
		} {
			n, err := d.Len()
			wantError(t, err, says)
			if n > 1 {
				t.Errorf("%s: %d rows before the error", says, n)
			}
			count := 0
			for row, err := range d.All() {
				if count++; err != nil && row != nil {
					t.Errorf("%s: row %v with an error", says, row)
				}
			}
			if count > 2 {
				t.Errorf("%s: %d rows and errors; want none behind the first error", says, count)
			}
		}
	})
}

func TestInMemoryTransformationsRunOnce(t *testing.T) {
	calls := 0
	d := FromRows([]Row{{"a": 1}, {"a": 2}}).Map(func(r Row) (Row, error) { calls++; return r, nil })
	for range 3 {
		if _, err := d.Rows(); err != nil {
			t.Fatal(err)
		}
	}
	if calls != 2 {
		t.Errorf("%d calls for 2 rows", calls)
	}
}

func TestSplitAndInterleaveRefuseWhatCannotBe(t *testing.T) {
	d := numbered(10, 0, false)
	for says, o := range map[string]SplitOptions{
		"TestSize is 10":        {TestSize: 10},
		"TestSize is -0.1":      {TestSize: -0.1},
		"TrainSize is 1.5":      {TrainSize: 1.5},
		"are 12 rows together":  {TrainSize: 7, TestSize: 5},
		"leave none of 10 rows": {TrainSize: 0.01, TestSize: 2},
		"the seed is -3":        {Seed: -3},
	} {
		_, _, err := d.TrainTestSplit(o)
		wantError(t, err, says)
	}
	_, _, err := numbered(10, 0, true).TrainTestSplit(SplitOptions{})
	wantError(t, err, "a stream", "Collect")
	two := []*Dataset{d, d}
	for says, o := range map[string]InterleaveOptions{
		"Probabilities has 1 values": {Probabilities: []float64{1}},
		"sum to 0.9":                 {Probabilities: []float64{0.5, 0.4}},
		"Probabilities[1] is -1":     {Probabilities: []float64{2, -1}},
		"Probabilities[1] is 0":      {Probabilities: []float64{1, 0}, StoppingStrategy: AllExhausted},
		`StoppingStrategy is "last"`: {StoppingStrategy: "last"},
	} {
		if says == "Probabilities[1] is -1" {
			o.Probabilities[0] = 1
		}
		_, err := Interleave(two, o)
		wantError(t, err, says)
	}
	_, err = Interleave(nil, InterleaveOptions{})
	wantError(t, err, "no data sets")
	mixed, err := Interleave([]*Dataset{d, FromRows(nil)}, InterleaveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = mixed.Rows()
	wantError(t, err, "data set 1 has no rows")
}

func TestFingerprintsTellContentApart(t *testing.T) {
	print := func(d *Dataset) string {
		t.Helper()
		p, err := d.Fingerprint()
		if err != nil {
			t.Fatal(err)
		}
		if len(p) != 64 {
			t.Errorf("fingerprint %q", p)
		}
		return p
	}
	rows := []Row{{"a": int64(1), "m": []Message{{"role": "user"}}}, {"a": nil, "t": json.RawMessage("[1]"), "l": []any{1.5, true}, "i": []int32{1, 2}}}
	same := []*Dataset{FromRows(rows), FromSeq(FromRows(rows).All()), FromRows(slices.Clone(rows)).Map(func(r Row) (Row, error) { return r, nil })}
	for i, d := range same {
		if print(d) != print(same[0]) {
			t.Errorf("data set %d of the same rows has another fingerprint", i)
		}
	}
	path := write(t, "a.jsonl", "{\"text\": \"a\", \"n\": 1}\n{\"text\": \"b\", \"n\": 2}\n")
	stream, err := Load(t.Context(), path, Options{Streaming: true})
	if err != nil {
		t.Fatal(err)
	}
	column, err := Load(t.Context(), path, Options{Streaming: true, Columns: []string{"text"}})
	if err != nil {
		t.Fatal(err)
	}
	other, err := Load(t.Context(), write(t, "a.jsonl", "{\"text\": \"a\", \"n\": 1}\n{\"text\": \"b\", \"n\": 3}\n"), Options{Streaming: true})
	if err != nil {
		t.Fatal(err)
	}
	mixed, err := Interleave([]*Dataset{stream, other}, InterleaveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	different := []*Dataset{same[0], FromRows(rows[:1]), FromRows([]Row{rows[1], rows[0]}), FromRows([]Row{{"a": 1.0}}), FromRows([]Row{{"a": "1"}}), FromRows([]Row{{"a": true}}),
		FromRows([]Row{{"a": []any{"x"}, "b": "y"}}), FromRows([]Row{{"a": []any{"x", "b", "y"}}}),
		stream, column, other, mixed, stream.Take(1), stream.Skip(1), stream.Shuffle(1), stream.Shuffle(2), stream.ShuffleBuffer(1, 2), stream.SelectColumns("n"), stream.RemoveColumns("n"),
		stream.RenameColumn("n", "m"), Concatenate(stream, other), Concatenate(other, stream), stream.Map(func(r Row) (Row, error) { return r, nil })}
	for i, d := range different {
		p := print(d)
		if j, ok := seen[p]; ok {
			t.Errorf("data sets %d and %d have the same fingerprint", i, j)
		}
		seen[p] = i
		if print(d) != p {
			t.Errorf("data set %d has another fingerprint the second time", i)
		}
	}
}
