package peft

import (
	"encoding/json/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/loris-ml/loris/models"
)

// llamaModules are the linears of testdata/tiny_llama.py.
func llamaModules(t *testing.T) (modules []Module) {
	t.Helper()
	for _, m := range readMatching(t).Models[0].Modules {
		modules = append(modules, Module(m))
	}
	return modules
}

// writtenAdapters are configs whose adapters PEFT must load. Their base is testdata/tiny_llama.py.
var writtenAdapters = map[string]LoraConfig{
	"defaults":   {},
	"all_linear": {R: 3, LoraAlpha: 5, TargetModules: AllLinear, LoraDropout: 0.05},
	"regexp":     {R: 1, TargetModules: Regexp(`.*\.(?!v_)[a-z]_proj`), UseRSLora: true, LoraAlpha: 2.5},
	"layers":     {TargetModules: Modules("o_proj", "down_proj"), ExcludeModules: Modules("layers.2.mlp.down_proj"), LayersToTransform: []int{0, 2}, LayersPattern: []string{"layers"}},
	"patterns": {R: 4, LoraAlpha: 8, TargetModules: Modules("q_proj", "k_proj", "up_proj"),
		RankPattern: Ranks{{Key: "up_proj", Value: 2}, {Key: `^model\.layers\.1\..*`, Value: 7}}, AlphaPattern: Alphas{{Key: "k_proj", Value: 0.5}, {Key: "q_proj", Value: 12}}},
	// In PEFT's order of keys, the first would win everywhere.
	"ordered_patterns": {TargetModules: Modules("q_proj"), RankPattern: Ranks{{Key: "layers.2.self_attn.q_proj", Value: 2}, {Key: "layers.*q_proj", Value: 3}}},
	"names":            {TargetModules: Modules("model.layers.0.self_attn.q_proj", "mlp.gate_proj"), Revision: "main", InitLoraWeights: InitGaussian},
}

// writeAdapter saves an adapter with random A and B for cfg, and loris.json with the scaling of its modules.
func writeAdapter(t *testing.T, dir string, cfg LoraConfig) {
	t.Helper()
	cfg.BaseModelNameOrPath = "loris-ml/tiny-llama"
	r, err := ResolveTargets(cfg, "llama", llamaModules(t))
	if err != nil {
		t.Fatal(err)
	}
	scaling := map[string]float64{}
	var weights []AdapterWeight
	for _, target := range r.Targets {
		a, b, err := InitAdapter(1, target.Path, InitFalse, target.R, target.In, target.Out)
		if err != nil {
			t.Fatal(err)
		}
		weights = append(weights, AdapterWeight{Path: target.Path, A: a, B: b, R: target.R, In: target.In, Out: target.Out})
		scaling[target.Path] = target.Scaling
	}
	if err := SaveAdapter(dir, r.Config, weights); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(scaling)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "loris.json"), text, 0o666); err != nil {
		t.Fatal(err)
	}
}

// TestPEFTLoadsWrittenAdapters needs a Python with scripts/requirements.txt in LORIS_PYTHON.
func TestPEFTLoadsWrittenAdapters(t *testing.T) {
	python := os.Getenv("LORIS_PYTHON")
	if python == "" {
		t.Skip("LORIS_PYTHON names no Python with peft")
	}
	dir := t.TempDir()
	for name, cfg := range writtenAdapters {
		writeAdapter(t, filepath.Join(dir, name), cfg)
	}
	out, err := exec.Command(python, filepath.Join("testdata", "check_loads.py"), dir).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

// TestPEFTLoadsSavedTuners needs a Python with scripts/requirements.txt in LORIS_PYTHON.
func TestPEFTLoadsSavedTuners(t *testing.T) {
	python := os.Getenv("LORIS_PYTHON")
	if python == "" {
		t.Skip("LORIS_PYTHON names no Python with peft")
	}
	dir := t.TempDir()
	for _, name := range tunerNames(t) {
		if name == "pissa_niter" {
			continue // the base follows from random numbers
		}
		c := readTuner(t, name)
		if err := c.open(t, c.load(t, "", models.Options{})).SavePretrained(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(python, filepath.Join("testdata", "check_tuners.py"), dir).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

// TestPEFTLoadsSavedCopiesAndVirtualTokens needs a Python with scripts/requirements.txt in LORIS_PYTHON.
func TestPEFTLoadsSavedCopiesAndVirtualTokens(t *testing.T) {
	python := os.Getenv("LORIS_PYTHON")
	if python == "" {
		t.Skip("LORIS_PYTHON names no Python with peft")
	}
	dir := t.TempDir()
	for _, name := range virtualNames(t, "") {
		c := readCase(t, "virtual", name)
		if err := c.open(t, c.load(t, "", models.Options{})).SavePretrained(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command(python, filepath.Join("testdata", "check_virtual.py"), dir).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}
