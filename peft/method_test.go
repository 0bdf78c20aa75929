package peft

import (
	"context"
	"encoding/json/v2"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/quant"
)

// methodNames are the cases of tuners other than LoRA.
func methodNames(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(tunerNames(t), func(name string) bool {
		cfg, _, err := ReadConfig(filepath.Join("testdata", "tuners", name))
		if err != nil {
			t.Fatal(err)
		}
		_, lora := cfg.(LoraConfig)
		return lora
	})
}

// methodConfig is the config of a case as new adapters have it.
func (c *tunerCase) methodConfig(t *testing.T) method {
	t.Helper()
	cfg, _, err := ReadConfig(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := cfg.(AdaLoraConfig); ok {
		a.RankPattern = nil
		return a
	}
	return cfg.(method)
}

// New adapters have PEFT's values where those are no random numbers, and are as large as PEFT's where they are; those that are to
// change nothing do not.
func TestNewAdaptersOfOtherTunersBeginAsPEFTs(t *testing.T) {
	for _, name := range methodNames(t) {
		t.Run(name, func(t *testing.T) {
			c := readTuner(t, name)
			cfg := c.methodConfig(t)
			p, err := GetPeftModel(c.load(t, "", models.Options{}), cfg, Seed(5), quiet)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			s := p.first().tuner.(*methodSet)
			sum, want, values := map[string]float64{}, map[string]float64{}, map[string]int{}
			for i, target := range s.targets {
				for _, n := range s.forms[i].tensors {
					if n.shared != nil {
						continue
					}
					theirs := c.tensor(t, "initial."+keyPrefix+target.Path+"."+n.name)
					if len(theirs) != len(n.values) {
						t.Fatalf("%s has %d values, PEFT's %d", n.name, len(n.values), len(theirs))
					}
					sum[n.name], want[n.name], values[n.name] = sum[n.name]+square(n.values), want[n.name]+square(theirs), values[n.name]+len(theirs)
				}
			}
			for n, a := range sum {
				if b := want[n]; a != b && math.Abs(a-b) > (0.1+6/math.Sqrt(float64(values[n])))*b {
					t.Errorf("%s: mean squares %v, PEFT's are %v, of %d values", n, a/float64(values[n]), b/float64(values[n]), values[n])
				}
			}
			if c.NF4 {
				return // PEFT's base.logits are those of its own kernels
			}
			if initial, base := c.tensor(t, "initial.logits"), c.tensor(t, "base.logits"); square(initial) == square(base) {
				c.checkLogits(t, p, "base.logits", 2e-5)
			}
		})
	}
}

// VeRA's shared projections are those that torch draws, bit for bit.
func TestVeRAProjectionsAreTorchs(t *testing.T) {
	for _, name := range []string{"vera", "vera_phi3", "vera_nf4"} {
		c := readTuner(t, name)
		cfg := c.methodConfig(t).(VeraConfig)
		p, err := GetPeftModel(c.load(t, "", models.Options{}), cfg, quiet)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		stored, err := openWeights(c.dir)
		if err != nil {
			t.Fatal(err)
		}
		defer stored.Close()
		for _, n := range p.first().tuner.(*methodSet).shared {
			if want, err := stored.Float32(n.key); err != nil || !slices.Equal(n.values, want) {
				t.Errorf("%s: %s differs, %v", name, n.key, err)
			}
		}
	}
}

// Over every kind of base, new adapters learn: the loss falls, whatever the tuner.
func TestOtherTunersLearnOverEveryBase(t *testing.T) {
	quick := new(float64)
	for name, cfg := range map[string]Config{
		"IA3":                      IA3Config{},
		"LoHa":                     LoHaConfig{R: 4, TargetModules: AllLinear},
		"LoKr":                     LoKrConfig{R: 4, TargetModules: AllLinear},
		"OFT":                      OFTConfig{OFTBlockSize: 4, TargetModules: AllLinear},
		"VeRA":                     VeraConfig{R: 16, TargetModules: AllLinear},
		"BOFT":                     BOFTConfig{TargetModules: AllLinear},
		"Ada":                      AdaLoraConfig{InitR: 4, TargetR: 2, TotalStep: 8, OrthRegWeight: quick, TargetModules: AllLinear},
		"exact OFT, shared blocks": OFTConfig{OFTBlockSize: 4, UseCayleyNeumann: new(bool), BlockShare: true, TargetModules: AllLinear},
	} {
		t.Run(name, func(t *testing.T) {
			ids := []int{1, 17, 40, 12, 63, 5, 40, 12}
			var firsts []float64
			for _, o := range []models.Options{{DType: models.Float32}, {DType: models.BFloat16}, {DType: models.Float32, Quantization: nf4()},
				{DType: models.Float32, Quantization: nf4(), KeepPacked: true}, {DType: models.Float32, Quantization: &quant.BitsAndBytesConfig{LoadIn8Bit: true}}} {
				p, err := GetPeftModel(loadTiny(t, filepath.Join("..", "models", "testdata", "bnb_none"), o), cfg, Seed(3), quiet)
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				first, last := teach(t, p, ids)
				if !(last < 0.97*first) {
					t.Errorf("%+v: the loss went from %v to %v", o, first, last)
				}
				firsts = append(firsts, first, last)
			}
			if math.Abs(firsts[2]-firsts[0]) > 0.03*firsts[0] || math.Abs(firsts[4]-firsts[6]) > 1e-4*firsts[4] || math.Abs(firsts[5]-firsts[7]) > 1e-3*firsts[5] {
				t.Errorf("losses before and after in float32, bfloat16, NF4 and packed NF4: %v", firsts)
			}
		})
	}
}

// COFT's weights are where PEFT has them in every step.
func TestConstrainedOFTTrainsAsPEFTDoes(t *testing.T) {
	c := readTuner(t, "oft_coft")
	p := c.open(t, c.load(t, "", models.Options{}))
	s, err := p.NewSession(training.SessionOptions{AdamBeta1: 0.9, AdamBeta2: 0.999, AdamEpsilon: 1e-8})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := c.batch()
	for step, want := range c.Schedule.Losses {
		st, err := s.MicroStep(context.Background(), b)
		if err != nil {
			t.Fatal(err)
		}
		if loss := st.LossSum / float64(st.Labels); math.Abs(loss-want) > 5e-5 {
			t.Errorf("step %d: loss %v, PEFT's is %v", step, loss, want)
		}
		if _, err := s.Apply(context.Background(), training.ApplyOptions{LearningRate: 0.02, NumItems: float64(st.Labels)}); err != nil {
			t.Fatal(err)
		}
	}
}

// Inputs are dropped while training, and at no other time.
func TestOtherTunersDropInputsWhileTraining(t *testing.T) {
	ids := []int{1, 17, 40, 12, 63, 5, 40, 12}
	first := func(cfg Config) (evaluated, trained float64) {
		p, err := GetPeftModel(loadTiny(t, filepath.Join("..", "models", "testdata", "bnb_none"), models.Options{DType: models.Float32}), cfg, Seed(3), quiet)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		logProbs, err := p.LogProbs(context.Background(), [][]int{ids})
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range logProbs[0] {
			evaluated -= v / float64(len(ids)-1)
		}
		trained, _ = teach(t, p, ids)
		return evaluated, trained
	}
	for name, cfgs := range map[string][2]Config{
		"VeRA":            {VeraConfig{R: 8, InitWeights: new(bool)}, VeraConfig{R: 8, InitWeights: new(bool), VeraDropout: 0.5}},
		"LoHa":            {LoHaConfig{InitWeights: new(bool)}, LoHaConfig{InitWeights: new(bool), RankDropout: 0.5}},
		"LoHa, all of it": {LoHaConfig{InitWeights: new(bool)}, LoHaConfig{InitWeights: new(bool), ModuleDropout: 0.9}},
		"LoKr":            {LoKrConfig{InitWeights: LoKrInitFalse}, LoKrConfig{InitWeights: LoKrInitFalse, RankDropout: 0.5, RankDropoutScale: true}},
		"AdaLoRA":         {AdaLoraConfig{TotalStep: 9, InitLoraWeights: new(bool)}, AdaLoraConfig{TotalStep: 9, InitLoraWeights: new(bool), LoraDropout: 0.5}},
	} {
		plain, same := first(cfgs[0])
		evaluated, dropped := first(cfgs[1])
		if math.Abs(plain-same) > 1e-4 || evaluated != plain || math.Abs(dropped-plain) < 1e-3 {
			t.Errorf("%s: losses %v and %v without, %v and %v with dropout", name, plain, same, evaluated, dropped)
		}
	}
}

// In bfloat16 other tuners stay as near to float32 as LoRA does.
func TestOtherTunersInBFloat16(t *testing.T) {
	for _, name := range []string{"ia3", "loha", "lokr", "oft", "vera", "boft", "adalora"} {
		c := readTuner(t, name)
		m, err := models.FromPretrained(context.Background(), c.load(t, "", models.Options{}).Path(), models.Options{DType: models.BFloat16})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		c.checkLogits(t, c.open(t, m), "logits", 3e-2)
	}
}

func TestWhatLoRAAloneCanSaysSo(t *testing.T) {
	c := readTuner(t, "ia3")
	p := c.open(t, c.load(t, "", models.Options{}))
	if err := p.AddAdapter("lora", LoraConfig{}); err != nil {
		t.Fatal(err)
	}
	_, rows := p.ForRows(DefaultAdapter, "lora")
	_, vllm := p.CheckExport(ExportVLLM)
	if r, err := p.CheckExport(ExportTransformers); err != nil || !r.OK() {
		t.Errorf("%v, %v", r, err)
	}
	for what, err := range map[string]error{
		"joined":    p.SetAdapter(DefaultAdapter, "lora"),
		"weighted":  p.AddWeightedAdapter("w", []string{"lora", DefaultAdapter}, []float64{1, 1}, WeightedOptions{}),
		"hotswap":   p.PrepareHotswap(4),
		"rows":      rows,
		"export":    vllm,
		"plain":     p.SavePlain(t.TempDir()),
		"converted": p.SaveConverted(t.TempDir(), ""),
		"GGUF":      p.SaveGGUF(filepath.Join(t.TempDir(), "a.gguf")),
		"EVA":       p.InitializeEVA(context.Background(), []EVABatch{{IDs: [][]int{{1}}}}),
	} {
		if err == nil || !strings.Contains(err.Error(), "IA3") {
			t.Errorf("%s: error %v, want one that names IA3", what, err)
		}
	}
	if _, _, _, err := LoadAdapter(c.dir); err == nil || !strings.Contains(err.Error(), "use FromPretrained") {
		t.Errorf("error %v", err)
	}
	// Sets of different tuners take turns.
	if err := p.SetAdapter("lora"); err != nil {
		t.Fatal(err)
	}
	c.checkLogits(t, p, "base.logits", 2e-5)
	if err := p.SetAdapter(DefaultAdapter); err != nil {
		t.Fatal(err)
	}
	c.checkLogits(t, p, "logits", 2e-5)
	if err := p.DeleteAdapter(DefaultAdapter); err != nil {
		t.Fatal(err)
	}
	c.checkLogits(t, p, "base.logits", 2e-5)
}

func TestConfigsOfOtherTunersAreChecked(t *testing.T) {
	for want, cfg := range map[string]Config{
		`"up_proj" is not among them`:                   IA3Config{TargetModules: Modules("q_proj"), FeedforwardModules: Modules("up_proj")},
		`target_modules "": an empty expression`:        IA3Config{TargetModules: Regexp("")},
		"alpha NaN":                                     LoHaConfig{Alpha: math.NaN()},
		"r -1: the rank must be positive":               LoHaConfig{R: -1},
		"dropout 1: must be a probability":              LoKrConfig{RankDropout: 1},
		`init_weights "gaussian" is unknown`:            LoKrConfig{InitWeights: InitGaussian},
		"decompose_factor -3":                           LoKrConfig{DecomposeFactor: -3},
		"give one of them":                              OFTConfig{R: 4, OFTBlockSize: 4},
		"eps -1: must be a positive number":             OFTConfig{COFT: true, Eps: -1},
		"vera_dropout 1":                                VeraConfig{VeraDropout: 1},
		"projection_prng_key -1":                        VeraConfig{ProjectionPRNGKey: -1},
		"boft_n_butterfly_factor -1: must be positive":  BOFTConfig{BOFTNButterflyFactor: -1},
		"boft_block_size 4 and boft_block_num 4: give":  BOFTConfig{BOFTBlockSize: 4, BOFTBlockNum: 4},
		"total_step 0":                                  AdaLoraConfig{},
		"no step is left":                               AdaLoraConfig{TotalStep: 10, TInit: 6, TFinal: 4},
		"task_type \"SEQ_CLS\" is not supported":        LoHaConfig{Origin: Origin{TaskType: "SEQ_CLS"}},
		"layers_to_transform [0] cannot be used":        OFTConfig{TargetModules: Regexp(".*q_proj"), LayersToTransform: []int{0}},
		"layers_pattern [\"layers\"] needs layers_to_t": BOFTConfig{LayersPattern: []string{"layers"}},
	} {
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want %s", cfg, err, want)
		}
	}
	c := readTuner(t, "ia3")
	m := c.load(t, "", models.Options{})
	for want, cfg := range map[string]Config{
		"the model's ends take LoRA alone":             LoHaConfig{TargetModules: Modules("lm_head")},
		"36 inputs must be divisible":                  BOFTConfig{BOFTBlockSize: 5},
		"needs blocks of an even size":                 BOFTConfig{BOFTBlockSize: 3, BOFTNButterflyFactor: 2},
		"blocks of one input, of 36, cannot turn":      OFTConfig{R: 36},
		"Target modules [\"c_attn\"] not found in the": VeraConfig{TargetModules: Modules("c_attn")},
		"AdaLoraConfig: total_step 0":                  AdaLoraConfig{},
	} {
		if _, err := GetPeftModel(m, cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want %s", cfg, err, want)
		}
	}
}

// Configs come back from their JSON; keys that none knows are warned about in files, and what is not there is refused by name.
func TestConfigsOfOtherTunersComeBackFromJSON(t *testing.T) {
	for _, name := range methodNames(t) {
		cfg, warnings, err := ReadConfig(filepath.Join("testdata", "tuners", name))
		if err != nil || len(warnings) > 0 {
			t.Fatalf("%s: %v, %q", name, err, warnings)
		}
		text, err := json.Marshal(cfg)
		if err != nil {
			t.Fatal(err)
		}
		again, warnings, err := parseAnyConfig(text)
		if err != nil || len(warnings) > 0 {
			t.Fatalf("%s: %v, %q", name, err, warnings)
		}
		if second, err := json.Marshal(again); err != nil || string(second) != string(text) {
			t.Errorf("%s: %s, then %s, %v", name, text, second, err)
		}
	}
	dir := t.TempDir()
	for text, want := range map[string]string{
		`{"peft_type": "LOHA", "r": null}`:                            "r null: must be an integer",
		`{"peft_type": "LOHA", "modules_to_save": [""]}`:              `modules_to_save [""] holds an empty name`,
		`{"peft_type": "OFT", "bias": "all"}`:                         `bias "all": not supported yet`,
		`{"peft_type": "VERA", "vera_dropout": "much"}`:               "vera_dropout \"much\": must be a number",
		`{"peft_type": "ADALORA", "total_step": 5, "use_dora": true}`: "use_dora true: not supported yet",
	} {
		writeFile(t, dir, ConfigName, text)
		if _, _, err := ReadConfig(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", text, err, want)
		}
	}
	for text, want := range map[string]string{
		`{"peft_type": "LOHA", "later": 1}`:              `unknown keys ["later"] are ignored`,
		`{"peft_type": "OFT", "peft_version": "0.17.1"}`: "PEFT before 0.18",
		`{"peft_type": "OFT"}`:                           "PEFT before 0.18",
	} {
		writeFile(t, dir, ConfigName, text)
		if _, warnings, err := ReadConfig(dir); err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], want) {
			t.Errorf("%s: %q, %v, want %s", text, warnings, err, want)
		}
	}
	var c LoKrConfig
	if err := json.Unmarshal([]byte(`{"later": 1}`), &c); err == nil || !strings.Contains(err.Error(), `LOKR config: unknown keys ["later"]`) {
		t.Errorf("error %v", err)
	}
	if err := json.Unmarshal([]byte(`{"r": 3, "init_weights": "lycoris"}`), &c); err != nil || c.R != 3 || c.InitWeights != LoKrInitLycoris {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestDimensionsAreSplitAsPEFTDoes(t *testing.T) {
	for in, want := range map[[2]int][2]int{{256, -1}: {16, 16}, {128, -1}: {8, 16}, {127, -1}: {1, 127}, {128, 4}: {4, 32}, {36, 8}: {6, 6}, {40, 16}: {5, 8}} {
		if m, n := factorization(in[0], in[1]); [2]int{m, n} != want {
			t.Errorf("%v: %d·%d, want %v", in, m, n, want)
		}
	}
	for in, want := range map[[2]int]int{{36, 5}: 4, {36, 8}: 9, {40, 50}: 40, {36, 32}: 36, {7, 3}: 1, {64, 32}: 32} {
		if n := nearestDivisor(in[0], in[1]); n != want {
			t.Errorf("%v: %d, want %d", in, n, want)
		}
	}
}

// Tensors that are missing or of other shapes, and those that nothing asks for.
func TestFilesOfOtherTunersAreChecked(t *testing.T) {
	c := readTuner(t, "ia3")
	m := c.load(t, "", models.Options{})
	p := c.open(t, m)
	s := p.first().tuner.(*methodSet)
	values, err := p.first().weights.Values()
	if err != nil {
		t.Fatal(err)
	}
	save := func(change func(s *methodSet)) string {
		dir := t.TempDir()
		copied := &methodSet{cfg: s.cfg, targets: slices.Clone(s.targets), plan: plan{forms: slices.Clone(s.forms)}}
		change(copied)
		if err := copied.save(dir, values); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for want, dir := range map[string]string{
		"it has no tensor \"model.layers.0.self_attn.k_proj.ia3_l\"": save(func(s *methodSet) { s.targets, s.forms = s.targets[1:], s.forms[1:] }),
		"config and model want": save(func(s *methodSet) {
			s.forms[0].tensors = []formTensor{s.forms[0].tensors[0]}
			s.forms[0].tensors[0].shape = []int{1, s.targets[0].Out}
		}),
	} {
		if _, err := FromPretrained(m, dir, quiet); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), WeightsName) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	for i := range s.forms { // as a state dict has them that was saved by other means
		s.forms[i].tensors[0].name = "ia3_l.default"
	}
	for path, l := range values {
		l.Tuned.Tensors[0].Name = "ia3_l.default"
		values[path] = l
	}
	q, err := FromPretrained(m, save(func(*methodSet) {}), quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	c.checkLogits(t, q, "logits", 2e-5)
}
