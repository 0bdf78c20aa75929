package sft_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/safetensors"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/quant"
	"github.com/loris-ml/loris/sft"
	"github.com/loris-ml/loris/tokenizer"
)

// trajectory is 50 steps of TRL (testdata/trajectories.py).
type trajectory struct {
	Name    string
	Model   string // lora, qlora, full, wide, tiny
	Rows    []sft.Row
	Options map[string]any
	Log     map[string][]float64
}

func readTrajectories(t *testing.T) []trajectory {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "trajectories.json"))
	var file struct{ Cases []trajectory }
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file.Cases
}

// load loads the model of a case as the script does.
func (c trajectory) load(t *testing.T, backend string) sft.Model {
	t.Helper()
	dir, o := reference.Dir("llama_a"), models.Options{Backend: backend, DType: models.Float32}
	switch c.Model {
	case "qlora":
		o.Quantization = &quant.BitsAndBytesConfig{LoadIn4Bit: true, BNB4BitQuantType: quant.NF4, BNB4BitUseDoubleQuant: true, BNB4BitComputeDType: "float32"}
	case "full":
		o.Trainable = true
	case "wide":
		dir, o.Trainable = widened(t, dir, 330), true
	case "tiny":
		dir, o.Trainable = filepath.Join("..", "examples", "tiny"), true
	}
	model, err := models.FromPretrained(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if o.Trainable {
		t.Cleanup(func() { model.Close() })
		return model
	}
	tuned, err := peft.FromPretrained(model, filepath.Join(dir, "adapter"), peft.Logger(silent))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(tuned.Close(), model.Close()); err != nil {
			t.Error(err)
		}
	})
	return tuned
}

// widened is a copy of a model folder in which embedding and head have n rows: theirs again and again, 5/4, 6/4 … as large.
func widened(t *testing.T, dir string, n int) string {
	t.Helper()
	f, err := safetensors.Open(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []safetensors.Tensor
	for _, name := range f.Names() {
		info, _ := f.Info(name)
		raw, err := f.Read(name)
		if err != nil {
			t.Fatal(err)
		}
		if name == "model.embed_tokens.weight" || name == "lm_head.weight" {
			values, err := f.Float32(name)
			if err != nil {
				t.Fatal(err)
			}
			rows, width := info.Shape[0], info.Shape[1]
			info.Shape, raw = []int{n, width}, nil
			for i := range n {
				for _, v := range values[i%rows*width:][:width] {
					raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v*(1+0.25*float32(i/rows))))
				}
			}
		}
		all = append(all, safetensors.Tensor{Name: name, DType: info.DType, Shape: info.Shape, Data: raw})
	}
	var config map[string]any
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err == nil {
		err = json.Unmarshal(text, &config)
	}
	if err != nil {
		t.Fatal(err)
	}
	config["vocab_size"] = n
	text, err = json.Marshal(config)
	out := t.TempDir()
	err = errors.Join(err, os.WriteFile(filepath.Join(out, "config.json"), text, 0o666), safetensors.Write(filepath.Join(out, "model.safetensors"), all, nil))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// config are the options, without those that this trainer has no need of.
func (c trajectory) config(t *testing.T) sft.SFTConfig {
	t.Helper()
	text, err := json.Marshal(c.Options)
	if err != nil {
		t.Fatal(err)
	}
	config, err := sft.ParseSFTConfig(text)
	if err != nil {
		t.Fatal(err)
	}
	config.OutputDir, config.Logger, config.DisableTQDM = t.TempDir(), silent, true
	return config
}

func TestTrajectoriesEqualTRLs(t *testing.T) {
	_, ids, evalRows := readCurves(t)
	short := []string{"accumulation 4", "qlora", "dft", "full training, adafactor", "reduce_lr_on_plateau"}
	reference.OnBackends(t, func(t *testing.T, backend string) {
		for _, c := range readTrajectories(t) {
			if testing.Short() && !slices.Contains(short, c.Name) {
				continue
			}
			t.Run(c.Name, func(t *testing.T) {
				if backend == "" {
					t.Parallel()
				}
				tok, err := tokenizer.FromPretrained(filepath.Join("testdata", "tokenizer"))
				if err != nil {
					t.Fatal(err)
				}
				rows, config := ids, c.config(t)
				if c.Rows != nil {
					rows = sft.FromRows(c.Rows)
				}
				if config.EvalStrategy != "" {
					config.EvalDataset = evalRows
				}
				trainer, err := sft.NewSFTTrainer(c.load(t, backend), tok, rows, config)
				if err != nil {
					t.Fatal(err)
				}
				report, err := trainer.Train(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				c.compare(t, report.LogHistory)
			})
		}
	})
}

// compare bounds ‖a-b‖/‖b‖ and the mean drift of every curve; the fixture has nine digits.
func (c trajectory) compare(t *testing.T, history []sft.Metrics) {
	t.Helper()
	for name, limit := range map[string]float64{"loss": 1e-5, "grad_norm": 2e-4, "learning_rate": 1e-8, "num_tokens": 0, "mean_token_accuracy": 1e-3} {
		var got []float64
		for _, line := range history {
			if _, ok := line.Get("loss"); ok {
				v, _ := line.Get(name)
				got = append(got, v)
			}
		}
		want := c.Log[name]
		if len(got) != 50 || len(want) != 50 {
			t.Fatalf("%s: %d values, TRL %d; want 50", name, len(got), len(want))
		}
		var diff, norm, drift float64
		for i := range want {
			diff, norm, drift = diff+(got[i]-want[i])*(got[i]-want[i]), norm+want[i]*want[i], drift+got[i]-want[i]
		}
		size := math.Sqrt(norm / 50)
		if d := math.Sqrt(diff / norm); !(d <= limit) || !(math.Abs(drift/50) <= limit*size) {
			t.Errorf("%s differs by %.2g, mean drift %.2g; want at most %.2g\ngot %v\nTRL %v", name, d, drift/50, limit, got, want)
		} else {
			t.Logf("%s: ‖Δ‖/‖·‖ %.2g, mean drift %.2g", name, d, drift/50)
		}
	}
}

// TRL's invariances, among its own recordings and ours alike: the same labels make the same steps however they are batched.
func TestTRLsOwnTrajectoriesAgreeWhereTheyShould(t *testing.T) {
	by := map[string]trajectory{}
	for _, c := range readTrajectories(t) {
		by[c.Name] = c
	}
	for _, pair := range [][2]string{{"accumulation 1", "accumulation 4"}, {"plain", "padding-free"}} {
		for _, name := range []string{"loss", "grad_norm"} {
			a, b := by[pair[0]].Log[name], by[pair[1]].Log[name]
			for i := range a {
				if math.Abs(a[i]-b[i]) > 1e-3*math.Abs(a[i]) {
					t.Errorf("%s of %q and %q at step %d: %v and %v", name, pair[0], pair[1], i+1, a[i], b[i])
					break
				}
			}
		}
	}
}
