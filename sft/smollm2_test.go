package sft

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	source "github.com/loris-ml/loris/dataset"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/tokenizer"
)

// smolLM2Runs is testdata/smollm2.json, written by smollm2.py.
type smolLM2Runs struct {
	Options json.RawMessage
	Split   struct {
		TestSize float64 `json:"test_size"`
		Seed     int64
	}
	Runs []struct {
		Files       []string
		Rows        int
		Train, Eval struct {
			Rows   int
			SHA256 string
		}
		Log map[string][]float64
	}
}

// digest is that of smollm2.py.
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

// TestSmolLM2TrainsAsInTRL tunes the real model on real rows: the prepared data are TRL's, and the losses within 1e-3. It
// needs the folder of the question-answer files, which are not the project's, and runs on the first of LORIS_TEST_BACKENDS.
func TestSmolLM2TrainsAsInTRL(t *testing.T) {
	folder, backends := os.Getenv("LORIS_TEST_FAQ"), strings.Fields(os.Getenv("LORIS_TEST_BACKENDS"))
	if folder == "" || len(backends) == 0 {
		t.Skip("takes minutes: set LORIS_TEST_FAQ to the folder of faq_en.json and faq_ja.json, and LORIS_TEST_BACKENDS to an XLA backend")
	}
	ref := reference.LoadSmolLM2(t)
	var fixture smolLM2Runs
	readFixture(t, "smollm2.json", &fixture)
	for _, want := range fixture.Runs {
		t.Run(strings.Join(want.Files, "+"), func(t *testing.T) {
			rows := inTurns(t, folder, want.Files)
			if n, err := rows.Len(); err != nil || n != want.Rows {
				t.Fatalf("%d rows, error %v, TRL had %d", n, err, want.Rows)
			}
			train, eval, err := rows.TrainTestSplit(source.SplitOptions{TestSize: fixture.Split.TestSize, Seed: fixture.Split.Seed})
			if err != nil {
				t.Fatal(err)
			}
			config, err := ParseSFTConfig(fixture.Options)
			if err != nil {
				t.Fatal(err)
			}
			config.OutputDir, config.EvalDataset, config.Logger, config.DisableTQDM = t.TempDir(), eval, quiet, true
			tok, err := tokenizer.FromPretrained(ref.GGUF)
			if err != nil {
				t.Fatal(err)
			}
			model, err := models.FromPretrained(t.Context(), ref.GGUF, models.Options{Backend: backends[0], DType: models.Float32})
			if err != nil {
				t.Fatal(err)
			}
			defer model.Close()
			tuned := hashedAdapter(t, model, ref.LoRA)
			defer tuned.Close()
			trainer, err := NewSFTTrainer(tuned, tok, train, config)
			if err != nil {
				t.Fatal(err)
			}
			if got := trainer.train.digest(); got != want.Train.SHA256 || len(trainer.train.rows) != want.Train.Rows {
				t.Errorf("training data: %d rows of digest %s, TRL %d of %s", len(trainer.train.rows), got, want.Train.Rows, want.Train.SHA256)
			}
			if got := trainer.eval.digest(); got != want.Eval.SHA256 || len(trainer.eval.rows) != want.Eval.Rows {
				t.Errorf("evaluation data: %d rows of digest %s, TRL %d of %s", len(trainer.eval.rows), got, want.Eval.Rows, want.Eval.SHA256)
			}
			report, err := trainer.Train(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for name, values := range want.Log {
				limit, got := 1e-3, []float64{}
				if name == "grad_norm" {
					limit = 1e-2
				}
				for _, line := range report.LogHistory {
					if v, ok := line.Get(name); ok && (name != "num_tokens" && name != "mean_token_accuracy" || has(line, "loss")) {
						got = append(got, v)
					}
				}
				if len(got) != len(values) {
					t.Errorf("%s: %d values, TRL %d", name, len(got), len(values))
					continue
				}
				worst := 0.0
				for i := range values {
					worst = max(worst, math.Abs(got[i]-values[i]))
				}
				t.Logf("%s: at most %.2g apart", name, worst)
				if !(worst <= limit) {
					t.Errorf("%s is %v, TRL %v", name, got, values)
				}
			}
		})
	}
}

// inTurns are the rows of files, a row of each in turn.
func inTurns(t *testing.T, folder string, files []string) *Dataset {
	t.Helper()
	var sets []*Dataset
	for _, file := range files {
		d, err := source.Load(t.Context(), filepath.Join(folder, file), source.Options{})
		if err != nil {
			t.Fatal(err)
		}
		sets = append(sets, d)
	}
	if len(sets) == 1 {
		return sets[0]
	}
	rows, err := source.Interleave(sets, source.InterleaveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func has(m Metrics, name string) bool { _, ok := m.Get(name); return ok }

// hashedAdapter is a LoRA on every linear of the layers, with the reference's A and B = 0.
func hashedAdapter(t *testing.T, model *models.CausalLM, l reference.LoRACurves) *peft.PeftModel {
	t.Helper()
	var weights []peft.AdapterWeight
	for _, linear := range model.Linears() {
		if !linear.Head {
			weights = append(weights, peft.AdapterWeight{Path: linear.Path, R: l.R, In: linear.In, Out: linear.Out,
				A: reference.InitialA(len(weights), l.R, linear.In), B: make([]float32, linear.Out*l.R)})
		}
	}
	dir := t.TempDir()
	if err := peft.SaveAdapter(dir, peft.LoraConfig{R: l.R, LoraAlpha: float64(l.LoraAlpha), TaskType: "CAUSAL_LM"}, weights); err != nil {
		t.Fatal(err)
	}
	tuned, err := peft.FromPretrained(model, dir, peft.Logger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	return tuned
}
