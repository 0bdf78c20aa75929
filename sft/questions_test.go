package sft

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/tokenizer"
)

// digest is that of testdata/questions.py.
func (d *dataset) digest() string {
	h := sha256.New()
	for _, row := range d.rows {
		_ = binary.Write(h, binary.LittleEndian, int32(len(row))) // a hash takes everything
		for _, e := range row {
			_ = binary.Write(h, binary.LittleEndian, int32(len(e.ids)))
			_ = binary.Write(h, binary.LittleEndian, e.ids)
			_ = binary.Write(h, binary.LittleEndian, e.labels)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Every id and label of real conversations, English and Japanese, packed. It needs the folder of the question-answer files,
// which are not the project's, and SmolLM2's tokenizer.
func TestRealQuestionsArePreparedAsInTRL(t *testing.T) {
	folder := os.Getenv("LORIS_TEST_FAQ")
	if folder == "" {
		t.Skip("set LORIS_TEST_FAQ to the folder of faq_en.json and faq_ja.json")
	}
	type part struct {
		Rows   int
		SHA256 string
	}
	var fixture struct {
		Options  json.RawMessage
		EvalRows int `json:"eval_rows"`
		Runs     []struct {
			File        string
			Rows        int
			Train, Eval part
		}
	}
	readFixture(t, "questions.json", &fixture)
	tok, err := tokenizer.FromPretrained(reference.LoadSmolLM2(t).GGUF)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range fixture.Runs {
		rows, err := LoadJSONL(filepath.Join(folder, want.File))
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) != want.Rows {
			t.Fatalf("%s: %d rows, TRL had %d", want.File, len(rows), want.Rows)
		}
		config, err := ParseSFTConfig(fixture.Options)
		if err != nil {
			t.Fatal(err)
		}
		split := len(rows) - fixture.EvalRows
		config.OutputDir, config.EvalDataset, config.Logger = t.TempDir(), rows[split:], quiet
		trainer, err := NewSFTTrainer(newToyModel(), tok, rows[:split], config)
		if err != nil {
			t.Fatal(err)
		}
		for name, pair := range map[string]struct {
			got  *dataset
			want part
		}{"training": {trainer.train, want.Train}, "evaluation": {trainer.eval, want.Eval}} {
			if got := (part{len(pair.got.rows), pair.got.digest()}); got != pair.want {
				t.Errorf("%s, %s rows: %+v, TRL %+v", want.File, name, got, pair.want)
			}
		}
	}
}
