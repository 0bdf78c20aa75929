package peft

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/models"
)

// vllmScale and llamaScale are what the programs multiply a module's B·A with, by the folder alone.
func vllmScale(cfg map[string]any, _ int) float64 {
	if rs, _ := cfg["use_rslora"].(bool); rs {
		return cfg["lora_alpha"].(float64) / math.Sqrt(cfg["r"].(float64))
	}
	return cfg["lora_alpha"].(float64) / cfg["r"].(float64)
}

func llamaScale(cfg map[string]any, rank int) float64 {
	return cfg["lora_alpha"].(float64) / float64(rank)
}

// A report without problems is right: with the program's own scaling, the folder says what the adapter does. One with a silent
// problem is right, too; and what it recommends helps.
func TestCheckExportKnowsHowProgramsScale(t *testing.T) {
	c := readTuner(t, "orthogonal")
	m := c.load(t, "", models.Options{})
	for name, cfg := range map[string]LoraConfig{
		"plain":         {R: 4, LoraAlpha: 6},
		"rslora":        {R: 4, LoraAlpha: 6, UseRSLora: true},
		"rank_pattern":  {R: 4, LoraAlpha: 6, RankPattern: Ranks{{Key: "v_proj", Value: 2}}},
		"alpha_pattern": {R: 4, LoraAlpha: 6, AlphaPattern: Alphas{{Key: "v_proj", Value: 2}}},
	} {
		cfg.InitLoraWeights = InitFalse
		p, err := GetPeftModel(m, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		want, err := p.first().loras()
		if err != nil {
			t.Fatal(err)
		}
		dir, plain := t.TempDir(), t.TempDir()
		if err := p.SavePretrained(dir); err != nil {
			t.Fatal(err)
		}
		if err := p.SavePlain(plain); err != nil {
			t.Fatal(err)
		}
		for target, scale := range map[ExportTarget]func(map[string]any, int) float64{ExportVLLM: vllmScale, ExportLlamaCpp: llamaScale} {
			r, err := p.CheckExport(target)
			if err != nil {
				t.Fatal(err)
			}
			if right := folderEquals(t, dir, want, scale); right != r.OK() {
				t.Errorf("%s: the folder is right for %s: %v; the report says\n%s", name, target, right, r)
			}
			if !folderEquals(t, plain, want, scale) {
				t.Errorf("%s: %s computes something else from what SavePlain wrote", name, target)
			}
		}
	}
}

func folderEquals(t *testing.T, dir string, want []models.LoRA, scale func(map[string]any, int) float64) bool {
	t.Helper()
	_, weights, _, err := LoadAdapter(dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg := configMap(t, dir)
	for _, w := range weights {
		i := slices.IndexFunc(want, func(l models.LoRA) bool { return l.Path == w.Path })
		got, is := product(w.A, w.B, w.R), product(want[i].A, want[i].B, want[i].R)
		for j := range got {
			got[j] *= float32(scale(cfg, w.R))
			is[j] *= float32(want[i].Scaling)
		}
		if reference.RelativeError(got, is) > 1e-5 {
			return false
		}
	}
	return true
}

func TestCheckExportSaysWhatToChange(t *testing.T) {
	quiet := Logger(slog.New(slog.NewTextHandler(io.Discard, nil)))
	c := readTuner(t, "orthogonal")
	for _, x := range []struct {
		cfg    LoraConfig
		target ExportTarget
		want   string
	}{
		{LoraConfig{InitLoraWeights: InitPiSSA, R: 2}, ExportVLLM, `init_lora_weights "pissa": the adapter belongs to a base`},
		{LoraConfig{InitLoraWeights: InitOLoRA, R: 2}, ExportLlamaCpp, "SaveConverted"},
		{LoraConfig{InitLoraWeights: InitLoftQ, R: 2}, ExportLlamaCpp, "Base().SavePretrained"},
		{LoraConfig{InitLoraWeights: InitPiSSA, R: 2}, ExportTransformers, "transformers takes the adapter"},
		{LoraConfig{R: 20}, ExportVLLM, "note: start vLLM with --max-lora-rank 32"},
		{LoraConfig{R: 600}, ExportVLLM, "problem: r 600: vLLM takes ranks up to 512"},
		{LoraConfig{}, ExportLlamaCpp, "llama.cpp takes the adapter"},
	} {
		p, err := GetPeftModel(c.load(t, "", models.Options{}), x.cfg, quiet)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		r, err := p.CheckExport(x.target)
		if err != nil || !strings.Contains(r.String(), x.want) {
			t.Errorf("%v\n%s, want %s", err, r, x.want)
		}
		if _, err := p.CheckExport("tgi"); err == nil || !strings.Contains(err.Error(), `"tgi" is unknown; use "vllm"`) {
			t.Errorf("error %v", err)
		}
	}
}

// Configs of PEFT from 0.6 on mean here what they mean there.
func TestConfigsOfOlderVersionsAreRead(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "versions", "*.json"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%q, %v", files, err)
	}
	want, err := json.Marshal(LoraConfig{R: 4, LoraDropout: 0.1, TargetModules: Modules("q_proj", "v_proj"), LayersToTransform: []int{0, 2},
		LayersPattern: []string{"layers"}, BaseModelNameOrPath: "loris-ml/tiny-llama", InferenceMode: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		writeFile(t, dir, ConfigName, string(text))
		cfg, warnings, err := ReadConfig(dir)
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v, warnings %q", file, err, warnings)
		}
		if got, err := json.Marshal(cfg); err != nil || string(got) != string(want) {
			t.Errorf("%s: %s, %v, want %s", file, got, err, want)
		}
	}
}

func ExamplePeftModel_CheckExport() {
	run := func(p *PeftModel) error {
		report, err := p.CheckExport(ExportVLLM)
		if err != nil {
			return err
		}
		fmt.Print(report)
		return nil
	}
	model, err := models.FromPretrained(context.Background(), filepath.Join("..", "models", "testdata", "bnb_none"), models.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer model.Close()
	p, err := GetPeftModel(model, LoraConfig{R: 32, RankPattern: Ranks{{Key: "v_proj", Value: 8}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Close()
	if err := run(p); err != nil {
		fmt.Println(err)
	}
	// Output:
	// vllm does not take the adapter as it is
	//   problem: rank_pattern, alpha_pattern given: vLLM scales all modules by lora_alpha and r; save it with SavePlain, which makes the scaling part of B
	//   note: start vLLM with --max-lora-rank 32; its default is 16
}
