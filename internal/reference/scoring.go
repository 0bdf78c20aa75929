package reference

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// Scoring is what make_scoring_fixtures.py scored with one model.
type Scoring struct {
	Model, Adapter string // folders; Adapter "": none
	Rows           [][]int
	LogProbs       [][]float64 `json:"log_probs"` // of every token of Rows but the first of each
	IDs            []int       // of the text whose perplexities there are
	Perplexities   []struct {
		MaxLength int `json:"max_length"`
		Stride    int
		Value     float64
	}
}

// LoadScoring reads the fixture; folders are made absolute.
func LoadScoring(t *testing.T) []Scoring {
	t.Helper()
	path := Dir("scoring.json")
	var file struct{ Cases []Scoring }
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &file)
	}
	if err != nil || len(file.Cases) == 0 {
		t.Fatalf("%s: %d cases (%v)", path, len(file.Cases), err)
	}
	repository := filepath.Join(filepath.Dir(path), "..", "..", "..")
	for i := range file.Cases {
		c := &file.Cases[i]
		c.Model = filepath.Join(repository, c.Model)
		if c.Adapter != "" {
			c.Adapter = filepath.Join(repository, c.Adapter)
		}
	}
	return file.Cases
}

// Check compares the numbers of a model, which the two functions compute, with the fixture's.
func (s Scoring) Check(t *testing.T, logProbs func(rows [][]int) ([][]float64, error), perplexity func(ids []int, maxLength, stride int) (float64, error)) {
	t.Helper()
	rows, err := logProbs(s.Rows)
	if err != nil {
		t.Fatal(err)
	}
	var got, want []float32
	for i, row := range s.LogProbs {
		if len(rows[i]) != len(row) {
			t.Fatalf("row %d has %d log-probabilities, want %d", i, len(rows[i]), len(row))
		}
		for j := range row {
			got, want = append(got, float32(rows[i][j])), append(want, float32(row[j]))
		}
	}
	CheckClose(t, "log-probabilities", got, want, 1e-5)
	for _, p := range s.Perplexities {
		v, err := perplexity(s.IDs, p.MaxLength, p.Stride)
		if err != nil {
			t.Fatal(err)
		}
		CheckCurve(t, "perplexity", []float64{v}, []float64{p.Value}, 2e-5)
	}
}
