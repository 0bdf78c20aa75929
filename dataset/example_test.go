package dataset_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/loris-ml/loris/dataset"
)

// file writes a data file, and returns its path and what removes it.
func file(name, text string) (path string, remove func()) {
	dir, err := os.MkdirTemp("", "dataset")
	if err != nil {
		log.Fatal(err)
	}
	path = filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		log.Fatal(err)
	}
	return path, func() { os.RemoveAll(dir) }
}

func ExampleLoad() {
	path, remove := file("questions.csv", "question,answer\nWhat is 1+1?,2\nWhat is 2+2?,4\n")
	defer remove()
	rows, err := dataset.Load(context.Background(), path, dataset.Options{})
	if err != nil {
		log.Fatal(err)
	}
	pairs := rows.RenameColumn("question", "prompt").RenameColumn("answer", "completion")
	for row, err := range pairs.All() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(row["prompt"], row["completion"])
	}
	// Output:
	// What is 1+1? 2
	// What is 2+2? 4
}

func ExampleFromSeq() {
	lines := "one\ntwo\nthree"
	rows := dataset.FromSeq(func(yield func(dataset.Row, error) bool) {
		for line := range strings.Lines(lines) {
			if !yield(dataset.Row{"text": strings.TrimSuffix(line, "\n")}, nil) {
				return
			}
		}
	})
	n, err := rows.Filter(func(r dataset.Row) (bool, error) { return r["text"] != "two", nil }).Len()
	fmt.Println(n, err)
	// Output: 2 <nil>
}

func ExampleDataset_TrainTestSplit() {
	var rows []dataset.Row
	for i := range 10 {
		rows = append(rows, dataset.Row{"text": fmt.Sprint(i)})
	}
	train, test, err := dataset.FromRows(rows).TrainTestSplit(dataset.SplitOptions{TestSize: 0.2, Seed: 42})
	if err != nil {
		log.Fatal(err)
	}
	for row := range test.All() {
		fmt.Println(row["text"])
	}
	fmt.Println(train.Len())
	// Output:
	// 5
	// 6
	// 8 <nil>
}

func ExampleInterleave() {
	chat := dataset.FromRows([]dataset.Row{{"text": "chat 1"}, {"text": "chat 2"}, {"text": "chat 3"}})
	code := dataset.FromRows([]dataset.Row{{"text": "code 1"}, {"text": "code 2"}})
	mixed, err := dataset.Interleave([]*dataset.Dataset{chat, code}, dataset.InterleaveOptions{
		Probabilities: []float64{0.7, 0.3}, Seed: 1, StoppingStrategy: dataset.AllExhaustedWithoutReplacement,
	})
	if err != nil {
		log.Fatal(err)
	}
	for row := range mixed.All() {
		fmt.Println(row["text"])
	}
	// Output:
	// chat 1
	// code 1
	// chat 2
	// code 2
	// chat 3
}
