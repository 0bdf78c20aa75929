package dataset

import (
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/loris-ml/loris/internal/pyrandom"
)

// DefaultShuffleBuffer is how many rows of a stream Shuffle holds.
const DefaultShuffleBuffer = 1000

// Shuffle puts the rows in random order: that of datasets' shuffle(seed=seed). Of a stream it holds DefaultShuffleBuffer rows;
// see ShuffleBuffer. Seeds are not negative.
func (d *Dataset) Shuffle(seed int64) *Dataset {
	if d.Streaming() {
		return d.ShuffleBuffer(seed, DefaultShuffleBuffer)
	}
	return inMemory(func() ([]Row, error) {
		rows, err := d.rows()
		if err != nil {
			return nil, err
		}
		if seed < 0 {
			return nil, negativeSeed(seed)
		}
		return pick(rows, pyrandom.NewNumPy(seed).Permutation(len(rows))), nil
	})
}

// ShuffleBuffer shuffles a stream in constant memory, as IterableDataset.shuffle(seed, buffer_size) of datasets 5 does: size
// rows are collected and shuffled, half of them are handed out, and the other half stays to be mixed with those that follow.
// The order of files is not shuffled. Rows in memory are shuffled as by Shuffle.
func (d *Dataset) ShuffleBuffer(seed int64, size int) *Dataset {
	if !d.Streaming() {
		return d.Shuffle(seed)
	}
	shuffled := d.derived(func(rows iter.Seq2[Row, error]) iter.Seq2[Row, error] {
		return func(yield func(Row, error) bool) {
			switch {
			case seed < 0:
				yield(nil, negativeSeed(seed))
				return
			case size < 1:
				yield(nil, fmt.Errorf("dataset: ShuffleBuffer of %d rows; want at least 1", size))
				return
			}
			shuffleStream(rows, pyrandom.NewNumPy(seed), size, yield)
		}
	})
	return shuffled.printed(d, "shuffle", seed, " ", size)
}

func shuffleStream(rows iter.Seq2[Row, error], random *pyrandom.NumPy, size int, yield func(Row, error) bool) {
	var buffer []Row
	for row, err := range rows {
		if err != nil {
			yield(nil, err)
			return
		}
		buffer = append(buffer, row)
		if len(buffer) < size {
			continue
		}
		shuffled := pick(buffer, random.Permutation(len(buffer)))
		out := len(shuffled) - size/2
		for _, row := range shuffled[:out] {
			if !yield(row, nil) {
				return
			}
		}
		buffer = append(buffer[:0], shuffled[out:]...)
	}
	for _, row := range pick(buffer, random.Permutation(len(buffer))) {
		if !yield(row, nil) {
			return
		}
	}
}

func negativeSeed(seed int64) error {
	return fmt.Errorf("dataset: the seed is %d; want one that is not negative", seed)
}

// pick returns the rows of these numbers.
func pick(rows []Row, numbers []int) []Row {
	picked := make([]Row, len(numbers))
	for i, n := range numbers {
		picked[i] = rows[n]
	}
	return picked
}

// SplitOptions says how TrainTestSplit divides rows. The zero value keeps a quarter for testing, drawn with seed 0.
type SplitOptions struct {
	TestSize  float64 // rows, or below 1 a fraction of all, rounded up; 0: what TrainSize leaves, or 0.25
	TrainSize float64 // rows, or below 1 a fraction of all, rounded down; 0: what TestSize leaves
	Seed      int64
	NoShuffle bool // the first rows are for training, the others for testing
}

// TrainTestSplit divides the rows in two, in random order, as datasets' train_test_split does. The rows must be in memory.
func (d *Dataset) TrainTestSplit(o SplitOptions) (train, test *Dataset, err error) {
	if d.Streaming() {
		return nil, nil, errors.New("dataset: TrainTestSplit needs rows in memory, and these are a stream: Collect them, or divide with Take and Skip")
	}
	rows, err := d.rows()
	if err != nil {
		return nil, nil, err
	}
	nTrain, nTest, err := o.sizes(len(rows))
	if err != nil {
		return nil, nil, err
	}
	if o.NoShuffle {
		return FromRows(rows[:nTrain]), FromRows(rows[nTrain : nTrain+nTest]), nil
	}
	if o.Seed < 0 {
		return nil, nil, negativeSeed(o.Seed)
	}
	order := pyrandom.NewNumPy(o.Seed).Permutation(len(rows))
	return FromRows(pick(rows, order[nTest:nTest+nTrain])), FromRows(pick(rows, order[:nTest])), nil
}

// sizes returns how many of n rows are for training and for testing.
func (o SplitOptions) sizes(n int) (train, test int, err error) {
	for name, size := range map[string]float64{"TestSize": o.TestSize, "TrainSize": o.TrainSize} {
		if !(size >= 0) || size >= 1 && (size != math.Trunc(size) || size >= float64(n)) {
			return 0, 0, fmt.Errorf("dataset: SplitOptions.%s is %v; want a fraction below 1, or fewer rows than all %d", name, size, n)
		}
	}
	if o.TestSize == 0 && o.TrainSize == 0 {
		o.TestSize = 0.25
	}
	rows := func(size float64, round func(float64) float64) int {
		if size < 1 {
			size = round(size * float64(n))
		}
		return int(size)
	}
	train, test = rows(o.TrainSize, math.Floor), rows(o.TestSize, math.Ceil)
	switch {
	case o.TrainSize == 0:
		train = n - test
	case o.TestSize == 0:
		test = n - train
	}
	if train+test > n {
		return 0, 0, fmt.Errorf("dataset: SplitOptions.TrainSize %v and TestSize %v are %d rows together, and there are %d; make one smaller", o.TrainSize, o.TestSize, train+test, n)
	}
	if train == 0 {
		return 0, 0, fmt.Errorf("dataset: SplitOptions.TrainSize %v and TestSize %v leave none of %d rows for training", o.TrainSize, o.TestSize, n)
	}
	return train, test, nil
}
