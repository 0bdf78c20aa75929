package dataset_test

import (
	"fmt"
	"log"
	"strings"

	"github.com/loris-ml/loris/dataset"
)

// numbered are n rows.
func numbered(n int) *dataset.Dataset {
	var rows []dataset.Row
	for i := range n {
		rows = append(rows, dataset.Row{"n": i, "text": fmt.Sprint("row ", i)})
	}
	return dataset.FromRows(rows)
}

func show(d *dataset.Dataset, column string) {
	var values []string
	for row, err := range d.All() {
		if err != nil {
			log.Fatal(err)
		}
		values = append(values, fmt.Sprint(row[column]))
	}
	fmt.Println(strings.Join(values, ", "))
}

func ExampleFromRows() {
	rows := dataset.FromRows([]dataset.Row{{"text": "one", "source": "a"}, {"text": "two", "source": "b"}})
	first, err := rows.SelectColumns("text").First()
	fmt.Println(first, err)
	// Output: map[text:one] <nil>
}

func ExampleDataset_Map() {
	show(numbered(3).Map(func(r dataset.Row) (dataset.Row, error) {
		return dataset.Row{"text": strings.ToUpper(r["text"].(string))}, nil
	}), "text")
	// Output: ROW 0, ROW 1, ROW 2
}

func ExampleDataset_Filter() {
	show(numbered(6).Filter(func(r dataset.Row) (bool, error) { return r["n"].(int)%2 == 0, nil }), "text")
	// Output: row 0, row 2, row 4
}

// The order is that of datasets with the same seed.
func ExampleDataset_Shuffle() {
	show(numbered(8).Shuffle(42).Skip(1).Take(4), "n")
	// Output: 4, 2, 7, 6
}

func ExampleConcatenate() {
	show(dataset.Concatenate(numbered(2), numbered(3)), "n")
	// Output: 0, 1, 0, 1, 2
}

func ExampleDataset_Fingerprint() {
	a, err := numbered(3).Fingerprint()
	if err != nil {
		log.Fatal(err)
	}
	b, err := numbered(3).Fingerprint()
	fmt.Println(a == b, err)
	// Output: true <nil>
}
