package models

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/quant"
)

// copyOf is a copy of a fixture's checkpoint, to be spoiled.
func copyOf(t *testing.T, name string) string {
	t.Helper()
	from, to := reference.Dir(name), t.TempDir()
	files, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.IsDir() || strings.HasPrefix(f.Name(), "reference.") {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, f.Name()), raw, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// edit changes a field of config.json; nil removes it.
func edit(field string, value any) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		path := filepath.Join(dir, "config.json")
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]any{}
		if err := json.Unmarshal(raw, &all); err != nil {
			t.Fatal(err)
		}
		if all[field] = value; value == nil {
			delete(all, field)
		}
		if raw, err = json.Marshal(all); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSpoiledCheckpointsAreErrorsThatNameTheSpot(t *testing.T) {
	rope := func(kind string) map[string]any {
		return map[string]any{"rope_type": kind, "rope_theta": 1e4, "factor": 2}
	}
	for _, c := range []struct {
		name, fixture string
		spoil         func(t *testing.T, dir string)
		want          []string
	}{
		{"no config", "llama_a", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "config.json")) }, []string{"config.json"}},
		{"config is no JSON", "llama_a", func(t *testing.T, dir string) {
			os.WriteFile(filepath.Join(dir, "config.json"), []byte("{"), 0o644)
		}, []string{"config.json"}},
		{"unknown model_type", "llama_a", edit("model_type", "mamba"), []string{"config.json", "model_type", "mamba", "llama"}},
		{"unknown rope_type", "llama_a", edit("rope_parameters", rope("spiral")), []string{"config.json", "rope_type", "spiral", "llama3"}},
		{"unknown activation", "llama_a", edit("hidden_act", "relu"), []string{"hidden_act", "relu", "silu"}},
		{"sliding window", "llama_a", edit("sliding_window", 4096), []string{"sliding_window", "4096"}},
		{"quantization of another kind", "llama_a", edit("quantization_config", map[string]any{"quant_method": "awq"}), []string{"config.json", "quant_method", "awq"}},
		{"no hidden size", "llama_a", edit("hidden_size", nil), []string{"config.json", "hidden_size", "0"}},
		{"absurd vocabulary", "llama_a", edit("vocab_size", 1<<40), []string{"config.json", "vocab_size", "1099511627776"}},
		{"absurd heads", "llama_a", edit("head_dim", 1<<20), []string{"config.json", "head_dim 1048576"}},
		{"heads do not divide", "llama_a", edit("num_key_value_heads", 3), []string{"num_key_value_heads", "3"}},
		{"another shape", "llama_a", edit("intermediate_size", 99), []string{"mlp.gate_proj.weight", "[100 64]", "[99 64]"}},
		{"more layers than tensors", "llama_a", edit("num_hidden_layers", 5), []string{"model.layers.2.", "missing"}},
		{"missing shard", "llama_c", func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, "model-00002-of-00003.safetensors"))
		}, []string{"model-00002-of-00003.safetensors"}},
		{"truncated shard", "llama_c", func(t *testing.T, dir string) {
			os.Truncate(filepath.Join(dir, "model-00002-of-00003.safetensors"), 100_000)
		}, []string{"model-00002-of-00003.safetensors", "truncated"}},
		{"no weights", "llama_a", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "model.safetensors")) }, []string{"safetensors"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := copyOf(t, c.fixture)
			c.spoil(t, dir)
			m, err := FromPretrained(context.Background(), dir, Options{})
			if err == nil {
				m.Close()
				t.Fatal("it loaded")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not contain %q", err, w)
				}
			}
		})
	}
}

func TestUnsupportedIsAnErrorOfItsOwnType(t *testing.T) {
	dir := copyOf(t, "llama_a")
	edit("model_type", "mamba")(t, dir)
	_, err := FromPretrained(context.Background(), dir, Options{})
	var u *UnsupportedError
	if !errors.As(err, &u) || u.Field != "model_type" || !strings.HasSuffix(u.Path, "config.json") {
		t.Errorf("got %#v", err)
	}
}

func TestWrongOptionsAndPathsAreErrors(t *testing.T) {
	dir := reference.Dir("llama_a")
	nf4 := &quant.BitsAndBytesConfig{LoadIn4Bit: true, BNB4BitQuantType: quant.NF4}
	for _, c := range []struct {
		path string
		o    Options
		want string
	}{
		{"no/such/folder", Options{}, "no such folder or file"},
		{dir, Options{Backend: "tpu"}, `unknown name "tpu"`},
		{dir, Options{DType: "int3"}, "int3"},
		{dir, Options{Trainable: true, Quantization: nf4}, "cannot be trained"},
		{dir, Options{Trainable: true, DType: Float16}, "ComputeDType float16"},
		{dir, Options{Trainable: true, ComputeDType: Float8E4M3}, "only products of frozen weights are in float8"},
		{dir, Options{DType: Float8E4M3}, "as Options.ComputeDType only"},
		{dir, Options{Attention: 7}, "Options.Attention is Route(7)"},
		{dir, Options{Attention: attention.RouteCuDNN}, "cuDNN is on CUDA only"},
		{dir, Options{Quantization: &quant.BitsAndBytesConfig{LoadIn4Bit: true, LoadIn8Bit: true}}, "load_in_8bit"},
		{filepath.Join(dir, "reference.json"), Options{}, "reference.json"},
	} {
		if _, err := FromPretrained(context.Background(), c.path, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %+v: got error %v, want one with %q", c.path, c.o, err, c.want)
		}
	}
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := FromPretrained(canceled, dir, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled load: got error %v", err)
	}
}

func TestCudaWithoutAGPUSaysWhatItNeeds(t *testing.T) {
	if _, err := os.Stat("/dev/nvidiactl"); err == nil {
		t.Skip("there is a GPU here")
	}
	_, err := FromPretrained(context.Background(), reference.Dir("llama_a"), Options{Backend: "xla:cuda"})
	if err == nil || !strings.Contains(err.Error(), "xla:cuda") {
		t.Errorf("got error %v", err)
	}
}

func TestTruncatedAndForeignGGUFAreErrors(t *testing.T) {
	dir := t.TempDir()
	short := filepath.Join(dir, "short.gguf")
	if err := os.WriteFile(short, []byte("GGUF\x03\x00\x00\x00\x05\x00"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := FromPretrained(context.Background(), short, Options{}); err == nil || !strings.Contains(err.Error(), "short.gguf") {
		t.Errorf("got error %v", err)
	}
	smol := filepath.Join("..", ".cache", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
	raw, err := os.ReadFile(smol)
	if err != nil {
		t.Skip("SmolLM2 is not here: run scripts/fetch-smollm2.sh")
	}
	cut := filepath.Join(dir, "cut.gguf")
	if err := os.WriteFile(cut, raw[:60_000_000], 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := FromPretrained(context.Background(), cut, Options{}); err == nil || !strings.Contains(err.Error(), "truncated") {
		t.Errorf("got error %v", err)
	}
}

func TestWrongIDsAndMasksAreErrors(t *testing.T) {
	m := mustLoad(t, reference.Dir("llama_a"), Options{})
	for want, in := range map[string][2][][]int{
		"ids are empty":         {nil, nil},
		"row 1 of ids has 1":    {{{1, 2}, {3}}, nil},
		"mask has 1 rows":       {{{1, 2}, {3, 4}}, {{1, 1}}},
		"row 1 of mask has 1":   {{{1, 2}, {3, 4}}, {{1, 1}, {1}}},
		"want 0 or 1":           {{{1, 2}}, {{1, 7}}},
		"outside the model's v": {{{1, 150}}, nil},
	} {
		if _, err := m.Logits(context.Background(), in[0], in[1]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got error %v, want one with %q", in, err, want)
		}
	}
}

func TestDamagedWeightFilesAreFileErrors(t *testing.T) {
	dir := copyOf(t, "llama_a")
	weights := filepath.Join(dir, "model.safetensors")
	raw, err := os.ReadFile(weights)
	if err != nil {
		t.Fatal(err)
	}
	ggufs, err := filepath.Glob("testdata/gguf/*.gguf")
	if err != nil || len(ggufs) == 0 {
		t.Fatalf("no fixtures (%v)", err)
	}
	whole, err := os.ReadFile(ggufs[0])
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(dir, "cut.gguf")
	for _, c := range []struct {
		path, load string
		content    []byte
	}{
		{weights, dir, raw[:20]}, {weights, dir, append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, raw[8:]...)},
		{cut, cut, whole[:40]}, {cut, cut, append([]byte("GGUF\x03\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"), whole[16:]...)},
	} {
		if err := os.WriteFile(c.path, c.content, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := FromPretrained(context.Background(), c.load, Options{})
		if e, ok := errors.AsType[*FileError](err); !ok || e.Path != c.path {
			t.Errorf("error %v, want a FileError of %s", err, c.path)
		}
	}
}
