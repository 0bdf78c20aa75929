package peft

import (
	"encoding/json/v2"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/safetensors"
)

func TestLoadAdapterReadsWhatPEFTSaved(t *testing.T) {
	var adapters map[string]map[string]targetFixture
	readFixture(t, "adapters.json", &adapters)
	for name, modules := range adapters {
		t.Run(name, func(t *testing.T) {
			cfg, weights, warnings, err := LoadAdapter(filepath.Join("testdata", "adapters", name))
			if err != nil {
				t.Fatal(err)
			}
			if len(weights) != len(modules) {
				t.Fatalf("%d modules, want %d", len(weights), len(modules))
			}
			for _, w := range weights {
				checkWeight(t, w, modules[w.Path])
				if s, err := cfg.Scaling(w.Path); err != nil || s != modules[w.Path].Scaling {
					t.Errorf("%s: scaling %v, %v; PEFT's is %v", w.Path, s, err, modules[w.Path].Scaling)
				}
			}
			checkTargetsOf(t, cfg, modules)
			wantWarning := map[string]string{
				"head": `lm_head.base_layer.weight" is ignored`,
			}[name]
			if got := strings.Join(warnings, "\n"); (got == "") != (wantWarning == "") || !strings.Contains(got, wantWarning) {
				t.Errorf("warnings %q, want %q", got, wantWarning)
			}
		})
	}
}

func checkWeight(t *testing.T, w AdapterWeight, want targetFixture) {
	t.Helper()
	if !slices.Equal([]int{w.R, w.In}, want.AShape) || !slices.Equal([]int{w.Out, w.R}, want.BShape) || w.R != want.R {
		t.Errorf("%s: r %d, in %d, out %d; PEFT has r %d, A %v, B %v", w.Path, w.R, w.In, w.Out, want.R, want.AShape, want.BShape)
	}
	for which, values := range map[string][]float32{"A": w.A, "B": w.B} {
		sum, wantSum := 0.0, want.ASum
		if which == "B" {
			wantSum = want.BSum
		}
		for _, x := range values {
			sum += float64(x)
		}
		if math.Abs(sum-wantSum) > 1e-9 {
			t.Errorf("%s: sum of %s is %v, PEFT's %v", w.Path, which, sum, wantSum)
		}
	}
}

// checkTargetsOf: the config that was read targets what PEFT had targeted.
func checkTargetsOf(t *testing.T, cfg LoraConfig, modules map[string]targetFixture) {
	t.Helper()
	r, err := ResolveTargets(cfg, "llama", llamaModules(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Targets) != len(modules) {
		t.Errorf("%d targets, want %d", len(r.Targets), len(modules))
	}
	for _, target := range r.Targets {
		if want := modules[target.Path]; target.R != want.R || target.Alpha != want.Alpha || target.Scaling != want.Scaling {
			t.Errorf("%s: r %d, alpha %v, scaling %v; PEFT has %d, %v, %v", target.Path, target.R, target.Alpha, target.Scaling, want.R, want.Alpha, want.Scaling)
		}
	}
}

func TestReadConfigReadsEveryField(t *testing.T) {
	read, _, err := ReadConfig(filepath.Join("testdata", "adapters", "names"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := read.(LoraConfig)
	cfg.TargetModules, cfg.RankPattern = nil, nil
	got, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(LoraConfig{LoraAlpha: 16, LoraDropout: 0.05, Revision: "main", BaseModelNameOrPath: "loris-ml/tiny-llama", InferenceMode: true})
	if err != nil || string(got) != string(want) {
		t.Errorf("%s\nwant %s, %v", got, want, err)
	}
}

func TestUnsupportedFeaturesInFilesAreRefusedByName(t *testing.T) {
	var configs map[string]string
	readFixture(t, "configs.json", &configs)
	for name, text := range configs {
		dir := t.TempDir()
		writeFile(t, dir, ConfigName, text)
		_, _, err := ReadConfig(dir)
		key := strings.Fields(name)[0]
		if err == nil || !strings.Contains(err.Error(), key+" ") || !strings.Contains(err.Error(), "not supported yet") || !strings.Contains(err.Error(), filepath.Join(dir, ConfigName)) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func writeFile(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

func TestReadConfigWarnsOfWhatIsIgnored(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, ConfigName, `{"peft_type": "LORA", "enable_lora": null, "merge_weights": false, "runtime_config": {"ephemeral_gpu_offload": false},
		"init_lora_weights": "eva", "eva_config": {"rho": 3.0, "sigma": 1}, "loftq_config": {"loftq_bits": 4}, "corda_config": {"verbose": true}, "peft_version": "9.9", "auto_mapping": {"parent_library": "x"},
		"layers_pattern": "", "exclude_modules": [], "layers_to_transform": 2, "target_modules": ["q_proj"]}`)
	read, warnings, err := ReadConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg := read.(LoraConfig)
	all := strings.Join(warnings, "\n")
	for _, want := range []string{`unknown keys ["enable_lora", "eva_config.sigma", "merge_weights"] are ignored`, "runtime_config is ignored", "corda_config is ignored"} {
		if !strings.Contains(all, want) {
			t.Errorf("no warning %s in\n%s", want, all)
		}
	}
	if len(warnings) != 3 {
		t.Errorf("%d warnings:\n%s", len(warnings), all)
	}
	if cfg.ExcludeModules != nil || cfg.LayersPattern != nil || !slices.Equal(cfg.LayersToTransform, []int{2}) || cfg.R != 0 || cfg.InitLoraWeights != InitEVA || cfg.EvaConfig.Rho != 3 || cfg.LoftQConfig.LoftQBits != 4 {
		t.Errorf("%+v", cfg)
	}
}

func TestReadConfigNamesFileKeyAndValue(t *testing.T) {
	for text, want := range map[string]string{
		`{"r": 8}`:                                                              `peft_type is missing; a LoRA adapter has "peft_type": "LORA"`,
		`{"peft_type": "FOURIERFT"}`:                                            `peft_type "FOURIERFT" is not supported: this package has ADALORA, BOFT, IA3, LN_TUNING`,
		`{"peft_type": "LORA", "r": -4}`:                                        `r -4: must be a positive integer`,
		`{"peft_type": "LORA", "lora_alpha": 0}`:                                `lora_alpha 0: must not be zero`,
		`{"peft_type": "LORA", "r": 1, "r": 2}`:                                 `duplicate`,
		`{"peft_type": "LORA", "lora_dropout": 1.5}`:                            `lora_dropout 1.5: must be a probability`,
		`{"peft_type": "LORA", "target_modules": "a("}`:                         `target_modules "a(": not a regular expression`,
		`{"peft_type": "LORA", "layers_pattern": "h"}`:                          `layers_pattern ["h"] needs layers_to_transform`,
		`{"peft_type": "LORA", "target_modules": "a", "layers_to_transform":0}`: `layers_to_transform [0] cannot be used`,
		`{"peft_type": "LORA"`:                                                  `not a JSON object`,
		``:                                                                      `not a JSON object`,
	} {
		dir := t.TempDir()
		writeFile(t, dir, ConfigName, text)
		if _, _, err := ReadConfig(dir); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), filepath.Join(dir, ConfigName)) {
			t.Errorf("%s: error %v, want %s", text, err, want)
		}
	}
}

// tensor is one of zeros.
func tensor(name, dtype string, shape ...int) safetensors.Tensor {
	size := map[string]int{"F32": 4, "F16": 2, "BF16": 2, "I32": 4}[dtype]
	for _, n := range shape {
		size *= n
	}
	return safetensors.Tensor{Name: name, DType: dtype, Shape: shape, Data: make([]byte, size)}
}

func TestWrongWeightsAreErrorsThatNameTensors(t *testing.T) {
	const q = "base_model.model.model.layers.0.self_attn.q_proj"
	a, b := tensor(q+".lora_A.weight", "F32", 8, 6), tensor(q+".lora_B.weight", "F32", 5, 8)
	for name, c := range map[string]struct {
		tensors []safetensors.Tensor
		want    string
	}{
		"no B":              {[]safetensors.Tensor{a}, q + `.lora_A.weight" has no counterpart "` + q + `.lora_B.weight"`},
		"no A":              {[]safetensors.Tensor{b}, q + `.lora_B.weight" has no counterpart "` + q + `.lora_A.weight"`},
		"ranks differ":      {[]safetensors.Tensor{a, tensor(b.Name, "F32", 5, 4)}, `[8 6] and "` + b.Name + `" [5 4]: want shapes [r, in] and [out, r]`},
		"convolution":       {[]safetensors.Tensor{tensor(a.Name, "F32", 8, 6, 1, 1), b}, `[8 6 1 1]`},
		"other rank":        {[]safetensors.Tensor{tensor(a.Name, "F32", 4, 6), tensor(b.Name, "F32", 5, 4)}, `is of rank 4, adapter_config.json says 8 for it`},
		"empty":             {[]safetensors.Tensor{tensor(a.Name, "F32", 0, 6), tensor(b.Name, "F32", 5, 0)}, `want shapes`},
		"integers":          {[]safetensors.Tensor{tensor(a.Name, "I32", 8, 6), b}, `I32`},
		"two adapters":      {[]safetensors.Tensor{tensor("x.lora_A.one.weight", "F32", 8, 6), tensor("x.lora_B.two.weight", "F32", 5, 8)}, `belong to different adapters`},
		"same module twice": {[]safetensors.Tensor{a, tensor(strings.TrimPrefix(a.Name, keyPrefix), "F32", 8, 6)}, `are of the same module`},
		"DoRA unannounced":  {[]safetensors.Tensor{a, b, tensor(q+".lora_magnitude_vector", "F32", 5)}, `its magnitude has 5 values, with use_dora false`},
		"magnitude alone":   {[]safetensors.Tensor{tensor(q+".lora_magnitude_vector", "F32", 5)}, `has no lora_A and lora_B beside it`},
		"magnitude's shape": {[]safetensors.Tensor{a, b, tensor(q+".lora_magnitude_vector", "F32", 6)}, `want [5], one for each output`},
		"embedding":         {[]safetensors.Tensor{a, b, tensor("base_model.model.model.embed_tokens.lora_embedding_A", "F32", 8, 6)}, `has no counterpart`},
		"bias of B":         {[]safetensors.Tensor{a, b, tensor(q+".lora_B.bias", "F32", 5)}, `the bias of its B has 5 values, with lora_bias false`},
		"bias":              {[]safetensors.Tensor{a, b, tensor(q+".base_layer.bias", "F32", 5)}, `its own bias was trained, with bias "none"`},
		"tokens":            {[]safetensors.Tensor{a, b, tensor("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", "F32", 5, 6)}, `rows of it were trained, without trainable_token_indices`},
		"full module":       {[]safetensors.Tensor{a, b, tensor("base_model.model.lm_head.weight", "F32", 5, 6)}, `"lm_head": it was trained in full, with modules_to_save []`},
		"nothing":           {nil, `it holds no lora_A and lora_B weights`},
	} {
		dir := t.TempDir()
		writeFile(t, dir, ConfigName, `{"peft_type": "LORA", "r": 8}`)
		path := filepath.Join(dir, WeightsName)
		if err := safetensors.Write(path, c.tensors, nil); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := LoadAdapter(dir); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want %s", name, err, c.want)
		}
	}
}

func TestModulesMayBeCalledLikeAdapters(t *testing.T) {
	for key, want := range map[string][3]string{
		"base_model.model.lora_A.lora_A.weight":            {"lora_A", "A", ""},
		"base_model.model.x.weight.lora_B.weight":          {"x.weight", "B", ""},
		"base_model.model.default.x.lora_B.default.weight": {"default.x", "B", "default"},
		"_orig_mod.base_model.model.x.lora_A.weight":       {"x", "A", ""},
		"base_model.model._orig_mod.x.y.lora_A.a-b.weight": {"x.y", "A", "a-b"},
		"x.lora_A.weight": {"x", "A", ""},
		"base_model.model.base_model.model.x.lora_A.weight": {"base_model.model.x", "A", ""},
	} {
		m := loraKey.FindStringSubmatch(key)
		if m == nil || [3]string(m[1:]) != want {
			t.Errorf("%s: %q, want %q", key, m, want)
		}
	}
}

func TestHalfPrecisionAndInfiniteValuesAreRead(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, ConfigName, `{"peft_type": "LORA", "r": 1}`)
	a, b := tensor("x.lora_A.weight", "F16", 1, 2), tensor("x.lora_B.weight", "BF16", 1, 1)
	copy(a.Data, []byte{0x00, 0x3c, 0x00, 0xc0}) // 1, -2
	copy(b.Data, []byte{0x80, 0x7f})             // +Inf
	if err := safetensors.Write(filepath.Join(dir, WeightsName), []safetensors.Tensor{a, b}, nil); err != nil {
		t.Fatal(err)
	}
	_, weights, warnings, err := LoadAdapter(dir)
	if err != nil {
		t.Fatal(err)
	}
	if w := weights[0]; !slices.Equal(w.A, []float32{1, -2}) || !math.IsInf(float64(w.B[0]), 1) {
		t.Errorf("%+v", w)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], `module "x" holds NaN or infinite values`) {
		t.Errorf("warnings %q", warnings)
	}
}

func TestFoldersThatAreNoAdaptersSayWhatToDo(t *testing.T) {
	dir := t.TempDir()
	if _, _, _, err := LoadAdapter(filepath.Join(dir, "absent")); err == nil || !strings.Contains(err.Error(), "no such folder") {
		t.Errorf("error %v", err)
	}
	if _, _, _, err := LoadAdapter(dir); err == nil || !strings.Contains(err.Error(), "it has no adapter_config.json; give a folder") {
		t.Errorf("error %v", err)
	}
	sub := filepath.Join(dir, "french")
	if err := os.Mkdir(sub, 0o777); err != nil {
		t.Fatal(err)
	}
	writeFile(t, sub, ConfigName, `{"peft_type": "LORA"}`)
	if _, _, _, err := LoadAdapter(dir); err == nil || !strings.Contains(err.Error(), "but these folders have: "+sub) {
		t.Errorf("error %v", err)
	}
	if _, _, _, err := LoadAdapter(sub); err == nil || !strings.Contains(err.Error(), "it has no adapter_model.safetensors") {
		t.Errorf("error %v", err)
	}
	writeFile(t, sub, binName, "pickle")
	if _, _, _, err := LoadAdapter(sub); err == nil || !strings.Contains(err.Error(), "convert it once in Python") {
		t.Errorf("error %v", err)
	}
	writeFile(t, sub, WeightsName, "not safetensors")
	if _, _, _, err := LoadAdapter(sub); err == nil || !strings.Contains(err.Error(), filepath.Join(sub, WeightsName)) {
		t.Errorf("error %v", err)
	}
}
