package sft

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	source "github.com/loris-ml/loris/dataset"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/tokenizer"
)

// digested is a data set that testdata/real.py has hashed.
type digested struct {
	Rows, Tokens, Labels int
	SHA256               string
}

func digestOf(d *dataset) digested {
	g := digested{Rows: len(d.rows), SHA256: d.digest()}
	for _, row := range d.rows {
		for _, e := range row {
			g.Tokens += len(e.ids)
			g.Labels += training.CountLabels(e.labels)
		}
	}
	return g
}

// realFile is where a tokenizer or data set of the fixture is; those that are not in the repository may be absent, and
// LORIS_TEST_FAQ is the folder of the question-answer sets.
var realFile = map[string]string{
	"examples/tiny":  filepath.Join("..", "examples", "tiny"),
	"smollm2":        filepath.Join("..", ".cache", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
	"examples/qlora": filepath.Join("..", "examples", "qlora", "data", "train.jsonl"),
	"faq_en":         filepath.Join(os.Getenv("LORIS_TEST_FAQ"), "faq_en.json"),
	"faq_ja":         filepath.Join(os.Getenv("LORIS_TEST_FAQ"), "faq_ja.json"),
}

func TestRealConversationsAreSplitMaskedAndPackedAsByTRL(t *testing.T) {
	var fixture struct {
		Cases []struct {
			Tokenizer, Data string
			TestSize        float64 `json:"test_size"`
			Seed            int64
			Options         json.RawMessage
			Train, Eval     digested
		}
	}
	readFixture(t, "real.json", &fixture)
	held, toks := 0, map[string]*tokenizer.Tokenizer{}
	for i, want := range fixture.Cases {
		t.Run(fmt.Sprintf("%d %s with %s", i, want.Data, want.Tokenizer), func(t *testing.T) {
			for _, name := range []string{want.Tokenizer, want.Data} {
				if _, err := os.Stat(realFile[name]); err != nil {
					t.Skipf("%s is not here", name)
				}
			}
			tok := toks[want.Tokenizer]
			if tok == nil {
				var err error
				if tok, err = tokenizer.FromPretrained(realFile[want.Tokenizer]); err != nil {
					t.Fatal(err)
				}
				toks[want.Tokenizer] = tok
			}
			data, err := source.Load(t.Context(), realFile[want.Data], source.Options{})
			if err != nil {
				t.Fatal(err)
			}
			train, eval, err := data.TrainTestSplit(source.SplitOptions{TestSize: want.TestSize, Seed: want.Seed})
			if err != nil {
				t.Fatal(err)
			}
			c := readConfig(t, want.Options).withDefaults()
			for _, part := range []struct {
				name    string
				data    *Dataset
				packing bool
				want    digested
			}{{"training", train, c.Packing, want.Train}, {"evaluation", eval, *c.EvalPacking, want.Eval}} {
				d, _, err := prepare(part.data, tok, c, part.packing, part.name)
				if err != nil {
					t.Fatal(err)
				}
				if got := digestOf(d); got != part.want {
					t.Errorf("%s, %s data:\n got %+v\nTRL %+v", want.Options, part.name, got, part.want)
				}
			}
			held++
		})
	}
	if held == 0 {
		t.Error("nothing was compared")
	}
}
