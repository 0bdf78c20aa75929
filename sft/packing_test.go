package sft

import (
	"reflect"
	"slices"
	"testing"
)

func examplesOf(rows [][]int32) (examples []example) {
	for _, ids := range rows {
		examples = append(examples, example{ids: ids, labels: ids})
	}
	return examples
}

// fitted cuts examples as before packing by BFD.
func fitted(t *testing.T, examples []example, length int) (kept []example) {
	t.Helper()
	report := &DataReport{}
	for _, e := range examples {
		e, ok, err := report.fit(e, SFTConfig{MaxLength: length, PackingStrategy: BFD}, true)
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			kept = append(kept, e)
		}
	}
	return kept
}

func flatten(rows []packedRow) (ids [][]int32, lengths [][]int) {
	for _, row := range rows {
		var all []int32
		var n []int
		for _, e := range row {
			all, n = append(all, e.ids...), append(n, len(e.ids))
		}
		ids, lengths = append(ids, all), append(lengths, n)
	}
	return ids, lengths
}

// The vectors of trl/tests/test_data_utils.py.
func TestPackEqualsTRLsTests(t *testing.T) {
	for _, c := range []struct {
		strategy string
		length   int
		in, want [][]int32
		lengths  [][]int
	}{
		{BFD, 4, [][]int32{{1, 2, 3}, {4, 5, 6, 7}, {8}}, [][]int32{{4, 5, 6, 7}, {1, 2, 3, 8}}, [][]int{{4}, {3, 1}}},
		{BFD, 4, [][]int32{{1, 2, 3, 4, 5}, {6, 7}, {8, 9, 10, 11}, {12}}, [][]int32{{1, 2, 3, 4}, {8, 9, 10, 11}, {6, 7, 12}}, [][]int{{4}, {4}, {2, 1}}},
		{BFDSplit, 4, [][]int32{{1, 2, 3, 4, 5}, {6, 7}, {8, 9, 10, 11}, {12}}, [][]int32{{1, 2, 3, 4}, {8, 9, 10, 11}, {6, 7, 5, 12}}, [][]int{{4}, {4}, {2, 1, 1}}},
		{BFDSplit, 4, [][]int32{{1, -2, 3, -4, 5, -6}, {7, -8, 9}, {-10, 11, -12}, {13, -14, 15, -16}},
			[][]int32{{1, -2, 3, -4}, {13, -14, 15, -16}, {7, -8, 9}, {-10, 11, -12}, {5, -6}}, [][]int{{4}, {4}, {3}, {3}, {2}}},
		{BFDSplit, 5, [][]int32{{1, 2, 3, 4, 5}, {6}, {7, 8, 9, 10}, {11, 12, 13}}, [][]int32{{1, 2, 3, 4, 5}, {7, 8, 9, 10, 6}, {11, 12, 13}}, [][]int{{5}, {4, 1}, {3}}},
		{BFDSplit, 4, [][]int32{{1, 2}, {}, {3, 4, 5}, {}, {6}}, [][]int32{{3, 4, 5, 6}, {1, 2}}, [][]int{{3, 1}, {2}}},
		{Wrapped, 3, [][]int32{{1, 2, 3}, {4, 5, 6, 7}, {8}}, [][]int32{{1, 2, 3}, {4, 5, 6}, {7, 8}}, [][]int{{3}, {3}, {2}}},
	} {
		examples := examplesOf(c.in)
		if c.strategy == BFD { // what is too long is cut before
			examples = fitted(t, examples, c.length)
		}
		ids, lengths := flatten(pack(examples, c.length, c.strategy))
		if !reflect.DeepEqual(ids, c.want) || !reflect.DeepEqual(lengths, c.lengths) {
			t.Errorf("%s %d of %v:\ngot  %v %v\nwant %v %v", c.strategy, c.length, c.in, ids, lengths, c.want, c.lengths)
		}
	}
}

func TestPackEqualsTRLOnRandomRows(t *testing.T) {
	var fixture struct {
		Cases []struct {
			Strategy    string
			Length      int
			Lengths     []int
			First, Sums []int
			Rows        []int
			SeqLengths  [][]int `json:"seq_lengths"`
		}
	}
	readFixture(t, "packing.json", &fixture)
	for _, c := range fixture.Cases {
		var in [][]int32
		next := int32(0)
		for _, n := range c.Lengths {
			row := make([]int32, n)
			for i := range row {
				row[i] = next
				next++
			}
			in = append(in, row)
		}
		examples := examplesOf(in)
		if c.Strategy == BFD {
			examples = fitted(t, examples, c.Length)
		}
		ids, lengths := flatten(pack(examples, c.Length, c.Strategy))
		var first, sums, rows []int
		for _, row := range ids {
			sum := 0
			for i, id := range row {
				sum += (i + 1) * int(id)
			}
			first, sums, rows = append(first, int(row[0])), append(sums, sum), append(rows, len(row))
		}
		if !slices.Equal(rows, c.Rows) || !slices.Equal(first, c.First) || !slices.Equal(sums, c.Sums) {
			t.Errorf("%s %d: %d rows, TRL %d; contents differ", c.Strategy, c.Length, len(ids), len(c.Rows))
		}
		if c.SeqLengths != nil && !reflect.DeepEqual(lengths, c.SeqLengths) {
			t.Errorf("%s %d: documents %v, TRL %v", c.Strategy, c.Length, lengths, c.SeqLengths)
		}
	}
}

// The vectors of trl/tests/test_sft_trainer.py::TestDataCollatorForLanguageModeling: labels are shifted here, and packed
// rows stay rows.
func TestLayoutShiftsLabelsWithinDocuments(t *testing.T) {
	const no = Ignored
	row := func(docs ...[]int32) packedRow { return packedRow(examplesOf(docs)) }
	for _, c := range []struct {
		name                             string
		rows                             []packedRow
		length                           int
		pad                              int32
		ids, labels, positions, segments []int32
		numLabels, numTokens             int
	}{
		{"padded", []packedRow{row([]int32{1, 2, 3}), row([]int32{4, 5})}, 3, 0,
			[]int32{1, 2, 3, 4, 5, 0}, []int32{2, 3, no, 5, no, no}, []int32{0, 1, 2, 0, 1, 0}, []int32{1, 1, 1, 1, 1, 0}, 3, 5},
		{"padded with 999 to 4", []packedRow{row([]int32{1, 2, 3}), row([]int32{4, 5})}, 4, 999,
			[]int32{1, 2, 3, 999, 4, 5, 999, 999}, []int32{2, 3, no, no, 5, no, no, no}, []int32{0, 1, 2, 0, 0, 1, 0, 0}, []int32{1, 1, 1, 0, 1, 1, 0, 0}, 3, 5},
		{"one row", []packedRow{row([]int32{1, 2, 3, 4})}, 4, 0, []int32{1, 2, 3, 4}, []int32{2, 3, 4, no}, []int32{0, 1, 2, 3}, []int32{1, 1, 1, 1}, 3, 4},
		{"documents", []packedRow{row([]int32{1, 2, 3}, []int32{4, 5, 6}), row([]int32{7, 8, 9, 10}, []int32{11})}, 6, 0,
			[]int32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0}, []int32{2, 3, no, 5, 6, no, 8, 9, 10, no, no, no},
			[]int32{0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 0, 0}, []int32{1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 2, 0}, 7, 11},
		{"masked labels", []packedRow{{{ids: []int32{1, 2, 3}, labels: []int32{1, no, 3}}}}, 3, 0,
			[]int32{1, 2, 3}, []int32{no, 3, no}, []int32{0, 1, 2}, []int32{1, 1, 1}, 1, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &dataset{rows: c.rows}
			numbers := []int{0, 1}[:len(c.rows)]
			b := mustBatch(t)(d.layout(numbers, len(c.rows), c.length, c.pad, nil))
			for name, pair := range map[string][2][]int32{"ids": {b.IDs, c.ids}, "labels": {b.Labels, c.labels}, "positions": {b.Positions, c.positions}, "segments": {b.Segments, c.segments}} {
				if !slices.Equal(pair[0], pair[1]) {
					t.Errorf("%s\ngot  %v\nwant %v", name, pair[0], pair[1])
				}
			}
			if b.NumLabels != c.numLabels || b.NumTokens != c.numTokens {
				t.Errorf("%d labels, %d tokens; want %d, %d", b.NumLabels, b.NumTokens, c.numLabels, c.numTokens)
			}
		})
	}
}

func mustBatch(t *testing.T) func(*Batch, error) *Batch {
	return func(b *Batch, err error) *Batch {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

func TestShortBatchesKeepTheirShape(t *testing.T) {
	d := &dataset{rows: []packedRow{packedRow(examplesOf([][]int32{{1, 2, 3}})), packedRow(examplesOf([][]int32{{4, 5}})), packedRow(examplesOf([][]int32{{6}}))}}
	c := SFTConfig{MaxLength: 8}
	b := mustBatch(t)(d.batch([]int{2}, 2, c, 9))
	if b.Rows != 2 || b.Length != 8 || b.NumTokens != 1 || !slices.Equal(b.RowSeeds, []uint64{2, 0}) {
		t.Errorf("got %+v", b)
	}
	for i := 8; i < 16; i++ {
		if b.IDs[i] != 9 || b.Labels[i] != Ignored || b.Segments[i] != 0 {
			t.Errorf("token %d of the empty row: %d, label %d, segment %d", i-8, b.IDs[i], b.Labels[i], b.Segments[i])
		}
	}
	if b := mustBatch(t)(d.batch([]int{0, 1, 2}, 8, c, 9)); b.Rows != 3 {
		t.Errorf("a data set of 3 rows makes batches of %d", b.Rows)
	}
}

func TestBatchLengthsAreFew(t *testing.T) {
	of := func(n int) packedRow {
		return packedRow{{ids: make([]int32, n), labels: make([]int32, n)}}
	}
	rows := []packedRow{of(1), of(64), of(65), of(100), of(130)}
	for _, c := range []struct {
		config  SFTConfig
		packed  bool
		numbers []int
		want    int
	}{
		{SFTConfig{MaxLength: 1024}, false, []int{0}, 64},
		{SFTConfig{MaxLength: 1024}, false, []int{0, 1}, 64},
		{SFTConfig{MaxLength: 1024}, false, []int{2, 0}, 128},
		{SFTConfig{MaxLength: 100}, false, []int{3, 0}, 100},
		{SFTConfig{MaxLength: NoMaxLength}, false, []int{4}, 192},
		{SFTConfig{MaxLength: 130, PadToMultipleOf: 8}, false, []int{4}, 136},
		{SFTConfig{MaxLength: 1024, PadToMultipleOf: 7}, false, []int{0}, 7},
		{SFTConfig{MaxLength: 1024}, true, []int{0}, 192},
		{SFTConfig{MaxLength: 150}, true, []int{0}, 150},
		{SFTConfig{MaxLength: 150, PadToMultipleOf: 128}, true, []int{0}, 256},
	} {
		d := &dataset{rows: rows, packed: c.packed, length: 130}
		if got := d.batchLength(c.numbers, c.config); got != c.want {
			t.Errorf("MaxLength %d, multiple %d, packed %v, rows %v: %d, want %d", c.config.MaxLength, c.config.PadToMultipleOf, c.packed, c.numbers, got, c.want)
		}
	}
}

func TestBucketsAreFewAndWasteLittle(t *testing.T) {
	const longest = 1 << 17
	lengths := map[int]bool{}
	for n := 1; n <= longest; n++ {
		length := roundUp(n, bucket(n))
		lengths[length] = true
		if length < n || n > 512 && 8*(length-n) > n {
			t.Fatalf("%d tokens are padded to %d", n, length)
		}
	}
	if want := 16 + 7*8; len(lengths) != want { // up to 1024, and seven doublings
		t.Errorf("%d lengths, want %d", len(lengths), want)
	}
}
