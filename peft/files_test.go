package peft

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func someWeights() []AdapterWeight {
	return []AdapterWeight{
		{Path: "model.layers.1.self_attn.q_proj", R: 2, In: 3, Out: 1, A: []float32{1, 2, 3, 4, 5, 6}, B: []float32{-1, 0.5}},
		{Path: "model.layers.0.self_attn.q_proj", R: 2, In: 3, Out: 1, A: []float32{0, 0, 0, 0, 0, 1e-30}, B: []float32{7, 8}},
	}
}

func TestSavedConfigIsByteForBytePythons(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "adapter")
	cfg := LoraConfig{R: 2, LoraAlpha: 16, LoraDropout: 0.05, TargetModules: Modules("v_proj", "q_proj"), ExcludeModules: Modules("k"), UseRSLora: true,
		BaseModelNameOrPath: "modèles/Llama", RankPattern: Ranks{{Key: "v_proj", Value: 4}}, AlphaPattern: Alphas{{Key: "b", Value: 0.5}, {Key: "a", Value: 3}}}
	if err := SaveAdapter(dir, cfg, someWeights()); err != nil {
		t.Fatal(err)
	}
	const want = `{
  "alpha_pattern": {
    "a": 3,
    "b": 0.5
  },
  "base_model_name_or_path": "mod\u00e8les/Llama",
  "bias": "none",
  "exclude_modules": [
    "k"
  ],
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "layers_pattern": null,
  "layers_to_transform": null,
  "lora_alpha": 16,
  "lora_dropout": 0.05,
  "modules_to_save": null,
  "peft_type": "LORA",
  "r": 2,
  "rank_pattern": {
    "v_proj": 4
  },
  "revision": null,
  "target_modules": [
    "q_proj",
    "v_proj"
  ],
  "task_type": "CAUSAL_LM",
  "use_rslora": true
}`
	if got := readFile(t, dir, ConfigName); got != want {
		t.Errorf("%s", got)
	}
	cfg.LoraDropout = 0
	if err := SaveAdapter(dir, cfg, someWeights()); err != nil {
		t.Fatal(err)
	}
	if got := readFile(t, dir, ConfigName); !strings.Contains(got, "\"lora_dropout\": 0.0,\n") {
		t.Errorf("%s", got)
	}
}

func readFile(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestSavingWhatPEFTSavedGivesItsBytes: weights and model card are the same, the config has a part of its lines.
func TestSavingWhatPEFTSavedGivesItsBytes(t *testing.T) {
	for _, name := range []string{"names", "regexp", "lookahead", "all_linear", "patterns", "rslora", "layers", "orthogonal"} {
		from, to := filepath.Join("testdata", "adapters", name), filepath.Join(t.TempDir(), name)
		cfg, weights, _, err := LoadAdapter(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := SaveAdapter(to, cfg, weights); err != nil {
			t.Fatal(err)
		}
		if readFile(t, from, WeightsName) != readFile(t, to, WeightsName) {
			t.Errorf("%s: other bytes of weights", name)
		}
		theirs := strings.Split(readFile(t, from, ConfigName), "\n")
		for _, line := range strings.Split(readFile(t, to, ConfigName), "\n") {
			if !slices.Contains(theirs, line) && !slices.Contains(theirs, line+",") && name != "orthogonal" {
				t.Errorf("%s: PEFT's config has no line %s", name, line)
			}
		}
		if name == "names" && !strings.HasPrefix(readFile(t, to, cardName), readFile(t, from, cardName)) {
			t.Errorf("metadata of the model card differ: %s", readFile(t, to, cardName))
		}
		again, back, warnings, err := LoadAdapter(to)
		if err != nil || len(warnings) > 0 || !reflect.DeepEqual(weights, back) {
			t.Errorf("%s: read back: %v, %q", name, err, warnings)
		}
		if !reflect.DeepEqual(again.WithDefaults(), cfg.WithDefaults()) && name != "patterns" { // its keys come back sorted
			t.Errorf("%s: %+v, want %+v", name, again, cfg)
		}
	}
}

func TestSavedTargetsAreNeverAllLinear(t *testing.T) {
	for _, targets := range []TargetModules{nil, AllLinear, Regexp("ALL-linear")} {
		dir := filepath.Join(t.TempDir(), "a")
		if err := SaveAdapter(dir, LoraConfig{R: 2, TargetModules: targets}, someWeights()); err != nil {
			t.Fatal(err)
		}
		cfg, _, err := ReadConfig(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := cfg.(LoraConfig).TargetModules.String(); got != `["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]` {
			t.Errorf("%v: %s", targets, got)
		}
	}
}

func TestPatternKeysAreSortedUnlessTheirOrderDecides(t *testing.T) {
	sorted := Ranks{{Key: ".*q_proj", Value: 2}, {Key: "layers.1.self_attn.q_proj", Value: 2}}
	kept := Ranks{{Key: "layers.1.self_attn.q_proj", Value: 1}, {Key: ".*q_proj", Value: 2}}
	for _, c := range []struct{ in, want Ranks }{{Ranks{sorted[1], sorted[0]}, sorted}, {kept, kept}} {
		got, err := orderForFile(c.in, "rank_pattern", []string{"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"})
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, %v; want %v", c.in, got, err, c.want)
		}
	}
}

func TestSavingIntoAFolderKeepsWhatElseIsThere(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "tokenizer.json", "{}")
	writeFile(t, dir, cardName, "my notes")
	if err := os.Mkdir(filepath.Join(dir, "other"), 0o777); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := SaveAdapter(dir, LoraConfig{R: 2}, someWeights()); err != nil {
			t.Fatal(err)
		}
		if names := listing(t, dir); !slices.Equal(names, []string{"README.md", ConfigName, WeightsName, "other", "tokenizer.json"}) {
			t.Errorf("%q", names)
		}
	}
	if got := readFile(t, dir, cardName); got != "my notes" {
		t.Errorf("README.md is %q", got)
	}
}

func listing(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestFailedSaveLeavesTheOldAdapterOrNothing(t *testing.T) {
	dir := t.TempDir()
	if err := SaveAdapter(dir, LoraConfig{R: 2}, someWeights()); err != nil {
		t.Fatal(err)
	}
	before := readFile(t, dir, ConfigName) + readFile(t, dir, WeightsName)
	wrong := someWeights()
	wrong[1].A = wrong[1].A[:5]
	if err := SaveAdapter(dir, LoraConfig{R: 2}, wrong); err == nil {
		t.Error("no error")
	}
	if readFile(t, dir, ConfigName)+readFile(t, dir, WeightsName) != before {
		t.Error("the old adapter changed")
	}
	absent := filepath.Join(t.TempDir(), "a")
	if err := SaveAdapter(absent, LoraConfig{R: 2}, wrong); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(absent); !os.IsNotExist(err) {
		t.Errorf("something was written: %v", err)
	}
	file := filepath.Join(dir, WeightsName)
	if err := SaveAdapter(file, LoraConfig{R: 2}, someWeights()); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("error %v", err)
	}
}

func TestSaveAdapterRefusesWhatDoesNotFit(t *testing.T) {
	change := func(f func(w []AdapterWeight)) []AdapterWeight {
		w := someWeights()
		f(w)
		return w
	}
	for want, c := range map[string]struct {
		cfg     LoraConfig
		weights []AdapterWeight
	}{
		`there are no weights`:                           {LoraConfig{R: 2}, nil},
		`its adapter is of rank 2, the config says 8`:    {LoraConfig{}, someWeights()},
		`A has 6 values and B 1, want [2, 3] and [1, 2`:  {LoraConfig{R: 2}, change(func(w []AdapterWeight) { w[0].B = w[0].B[:1] })},
		`has two adapters`:                               {LoraConfig{R: 2}, change(func(w []AdapterWeight) { w[1].Path = w[0].Path })},
		`module path "base_model.model.x": give the`:     {LoraConfig{R: 2}, change(func(w []AdapterWeight) { w[0].Path = "base_model.model.x" })},
		`its magnitude has 0 values, with use_dora true`: {LoraConfig{R: 2, UseDora: true}, someWeights()},
		`its magnitude has 9 values, want [`:             {LoraConfig{R: 2, UseDora: true}, change(func(w []AdapterWeight) { w[0].Magnitude = make([]float32, 9) })},
	} {
		dir := filepath.Join(t.TempDir(), "a")
		if err := SaveAdapter(dir, c.cfg, c.weights); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("error %v, want %s", err, want)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s: something was written", want)
		}
	}
	if err := SaveAdapter("", LoraConfig{}, someWeights()); err == nil {
		t.Error("an empty folder name is accepted")
	}
}

// TestInterruptedReplacementIsNoAdapter: between the removal of the old config and the new one there is none.
func TestInterruptedReplacementIsNoAdapter(t *testing.T) {
	dir := t.TempDir()
	if err := SaveAdapter(dir, LoraConfig{R: 2}, someWeights()); err != nil {
		t.Fatal(err)
	}
	// A folder in the way of the weights stops the replacement after the removal.
	weights := filepath.Join(dir, WeightsName)
	if err := os.Remove(weights); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(weights, "full"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := SaveAdapter(dir, LoraConfig{R: 2, LoraAlpha: 99}, someWeights()); err == nil {
		t.Fatal("no error")
	}
	if _, err := os.Stat(filepath.Join(dir, ConfigName)); !os.IsNotExist(err) {
		t.Errorf("a config is there: %v", err)
	}
	left, err := fs.Glob(os.DirFS(dir), ".adapter*")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestModelCardQuotesWhatYAMLWouldMisread(t *testing.T) {
	for base, want := range map[string]string{
		"meta-llama/Llama-3.2-1B": "base_model: meta-llama/Llama-3.2-1B\n",
		"./out/model":             "base_model: ./out/model\n",
		"/data/My Models: new":    "base_model: \"/data/My Models: new\"\n",
		"1.5":                     "base_model: \"1.5\"\n",
		"null":                    "base_model: \"null\"\n",
		"- x\n#":                  "base_model: \"- x\\n#\"\n",
		"C:\\models":              "base_model: \"C:\\\\models\"\n",
	} {
		card := modelCard(LoraConfig{BaseModelNameOrPath: base}.WithDefaults())
		if !bytes.Contains(card, []byte(want)) {
			t.Errorf("%q: no %s in\n%s", base, want, card)
		}
	}
	if card := string(modelCard(LoraConfig{}.WithDefaults())); strings.Contains(card, "base_model:") || !strings.Contains(card, "PeftModel.from_pretrained(base, ") {
		t.Errorf("%s", card)
	}
}
