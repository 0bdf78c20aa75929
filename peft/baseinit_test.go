package peft

import (
	"context"
	"maps"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/models"
)

// Adapters that are a part of the base's weights begin as PEFT's do: the same products, and the base lacks them.
func TestBaseWeightsAreDecomposedAsPEFTDoes(t *testing.T) {
	for _, name := range []string{"pissa", "pissa_qwen2", "olora", "olora_nf4", "loftq", "loftq_int8"} {
		t.Run(name, func(t *testing.T) {
			c := readTuner(t, name)
			for _, packed := range []bool{false, true} {
				if packed && !c.NF4 {
					continue
				}
				m := c.load(t, "", models.Options{KeepPacked: packed})
				p, err := GetPeftModel(m, c.config(t))
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				const limit = 1e-5
				values, err := p.first().loraWeights()
				if err != nil {
					t.Fatal(err)
				}
				for _, w := range values {
					key := "initial." + keyPrefix + w.Path
					reference.CheckClose(t, w.Path, product(w.A, w.B, w.R), product(c.tensor(t, key+suffixA), c.tensor(t, key+suffixB), w.R), 10*limit)
				}
				c.checkLogits(t, p, "initial.logits", 10*limit)
				if strings.HasPrefix(name, "pissa") || name == "olora" {
					c.checkLogits(t, p, "base.logits", limit)
				}
				if m.Altered() == "" {
					t.Error("the base does not say that its weights were replaced")
				}
				if err := p.AddAdapter("again", c.config(t)); err == nil || !strings.Contains(err.Error(), "load it anew") {
					t.Errorf("a second set that changes the base: %v", err)
				}
			}
		})
	}
}

// Randomized decomposition keeps as much of the weight as PEFT's with the same niter, and all of it with many.
func TestRandomizedPiSSAKeepsWhatPEFTsDoes(t *testing.T) {
	c := readTuner(t, "pissa_niter")
	norms := map[Init]float64{}
	for _, how := range []Init{InitPiSSA, InitPiSSANiter(4), InitPiSSANiter(2000)} {
		cfg := c.config(t)
		cfg.InitLoraWeights = how
		p, err := GetPeftModel(c.load(t, "", models.Options{}), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		c.checkLogits(t, p, "base.logits", 1e-5)
		values, err := p.first().loraWeights()
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range values {
			norms[how] += square(product(w.A, w.B, w.R))
			key := "initial." + keyPrefix + w.Path
			if how == InitPiSSA {
				norms["PEFT"] += square(product(c.tensor(t, key+suffixA), c.tensor(t, key+suffixB), w.R))
			}
		}
	}
	if a, b := norms[InitPiSSANiter(4)], norms["PEFT"]; math.Abs(a-b) > 0.05*b || a > norms[InitPiSSA] {
		t.Errorf("the part has a square of %v, PEFT's %v, of %v at most", a, b, norms[InitPiSSA])
	}
	if a, b := norms[InitPiSSANiter(2000)], norms[InitPiSSA]; math.Abs(a-b) > 1e-4*b {
		t.Errorf("after many iterations, the part has a square of %v, want %v", a, b)
	}
}

func square(v []float32) (s float64) {
	for _, x := range v {
		s += float64(x) * float64(x)
	}
	return s
}

func TestConvertedAdaptersAreWhatPEFTConverts(t *testing.T) {
	for _, name := range []string{"pissa", "pissa_qwen2", "olora"} {
		t.Run(name, func(t *testing.T) {
			c := readTuner(t, name)
			p := c.open(t, c.load(t, "", models.Options{}))
			initial, dir := c.saveInitial(t), t.TempDir()
			if err := p.SaveConverted(dir, initial); err != nil {
				t.Fatal(err)
			}
			checkFolder(t, dir, filepath.Join(c.dir, "converted"), 0)
			plain, err := FromPretrained(c.load(t, "", models.Options{}), dir)
			if err != nil {
				t.Fatal(err)
			}
			defer plain.Close()
			c.checkLogits(t, plain, "logits", 2e-5)
			if err := p.SaveConverted(t.TempDir(), filepath.Join("testdata", "adapters", "names")); err == nil || !strings.Contains(err.Error(), "saved before this training") {
				t.Errorf("another adapter's initial values: %v", err)
			}
		})
	}
}

// saveInitial writes PEFT's initial adapter as it would have been saved before training.
func (c *tunerCase) saveInitial(t *testing.T) string {
	t.Helper()
	cfg, weights, _, err := LoadAdapter(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range weights {
		key := "initial." + keyPrefix + w.Path
		weights[i].A, weights[i].B = c.tensor(t, key+suffixA), c.tensor(t, key+suffixB)
	}
	dir := t.TempDir()
	if err := SaveAdapter(dir, cfg, weights); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestOrthogonalAdaptersChangeNothingThoughTheyAreNotZero(t *testing.T) {
	a, b := initial(t, 3, initPath, InitOrthogonal, 8, 40, 24)
	for _, v := range product(a, b, 8) {
		if v > 1e-6 || v < -1e-6 {
			t.Fatalf("B·A holds %v", v)
		}
	}
	c := readTuner(t, "orthogonal")
	sums := func(v []float32) float64 { return square(v) / float64(len(v)) }
	key := "initial.base_model.model.model.layers.0.mlp.down_proj"
	wantA, wantB := c.tensor(t, key+suffixA), c.tensor(t, key+suffixB)
	a, b = initial(t, 3, initPath, InitOrthogonal, 4, len(wantA)/4, len(wantB)/4)
	for _, v := range [][2]float64{{sums(a), sums(wantA)}, {sums(b), sums(wantB)}} {
		if v[0] < v[1]/2 || v[0] > 2*v[1] {
			t.Errorf("mean square %v, PEFT's is %v", v[0], v[1])
		}
	}
}

// On a base that was quantized while loading, LoftQ brings the adapters' sum nearer to the original weights.
func TestLoftQOnAQuantizedBaseMakesUpForQuantization(t *testing.T) {
	c := readTuner(t, "loftq")
	c.NF4 = true
	for _, packed := range []bool{false, true} {
		m := c.load(t, "", models.Options{KeepPacked: packed})
		p, err := GetPeftModel(m, LoraConfig{InitLoraWeights: InitLoftQ, R: 8, LoraAlpha: 8, TargetModules: AllLinear})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if how := p.Config().(LoraConfig).InitLoraWeights; how != InitTrue || m.Altered() != "" {
			t.Errorf("the config says %q, the base %q", how, m.Altered())
		}
		var before, after float64
		loras, err := p.first().loras()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range loras {
			w, err := m.OriginalLinear(l.Path)
			if err != nil {
				t.Fatal(err)
			}
			q, err := m.Tensor(l.Path + ".weight")
			if err != nil {
				t.Fatal(err)
			}
			before += reference.RelativeError(q, w)
			sum, err := m.SumOf(l)
			if err != nil {
				t.Fatal(err)
			}
			after += reference.RelativeError(sum, w)
		}
		if after > 0.75*before {
			t.Errorf("the error of weights went from %v to %v", before, after)
		}
	}
}

func TestEVAFindsPEFTsComponentsAndRanks(t *testing.T) {
	for _, name := range []string{"eva", "eva_whiten"} {
		t.Run(name, func(t *testing.T) {
			c := readTuner(t, name)
			m := c.load(t, "", models.Options{})
			cfg := c.config(t)
			begin := LoraConfig{R: cfg.R, LoraAlpha: cfg.LoraAlpha, InitLoraWeights: InitEVA, EvaConfig: cfg.EvaConfig,
				TargetModules: Modules("q_proj", "k_proj", "o_proj", "down_proj")}
			if name == "eva_whiten" {
				begin.TargetModules = AllLinear
			}
			p, err := GetPeftModel(m, begin)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			var batches []EVABatch
			for _, b := range c.Batches {
				batches = append(batches, EVABatch{IDs: b.IDs, Mask: b.Mask, Labels: b.Labels})
			}
			if err := p.InitializeEVA(context.Background(), batches); err != nil {
				t.Fatal(err)
			}
			c.checkLogits(t, p, "base.logits", 2e-5)
			got := p.Config().(LoraConfig)
			ranks, alphas := map[string]int{}, map[string]float64{}
			for _, e := range got.RankPattern {
				ranks[e.Key] = e.Value
			}
			for _, e := range got.AlphaPattern {
				alphas[e.Key] = e.Value
			}
			if !maps.Equal(ranks, c.RankPattern) || !maps.Equal(alphas, c.AlphaPattern) {
				t.Fatalf("ranks %v and alphas %v, PEFT's are %v and %v", ranks, alphas, c.RankPattern, c.AlphaPattern)
			}
			values, err := p.first().loraWeights()
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range values {
				want := c.tensor(t, "initial."+keyPrefix+w.Path+suffixA)
				// The rows span the same space, in the same proportions.
				reference.CheckClose(t, w.Path, gram(w.A, w.R), gram(want, w.R), 1e-4)
			}
			if err := p.SavePretrained(t.TempDir()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// gram is AᵀA of A [r, in].
func gram(a []float32, r int) []float32 {
	in := len(a) / r
	t := make([]float32, len(a))
	for k := range r {
		for i := range in {
			t[i*r+k] = a[k*in+i]
		}
	}
	return product(a, t, r)
}

func TestInitsThatChangeTheBaseAreRefusedWhereTheyCannotBe(t *testing.T) {
	c := readTuner(t, "olora_nf4")
	quantized := c.load(t, "", models.Options{})
	c.NF4 = false
	dense := c.load(t, "", models.Options{})
	get := func(m *models.CausalLM, cfg LoraConfig) error { _, err := GetPeftModel(m, cfg); return err }
	for want, err := range map[string]error{
		`"pissa": the base is quantized`: get(quantized, LoraConfig{InitLoraWeights: InitPiSSA}),
		`loftq_iter must be 1`:           get(quantized, LoraConfig{InitLoraWeights: InitLoftQ, LoftQConfig: &LoftQConfig{LoftQIter: 2}}),
		`more than a weight [`:           get(dense, LoraConfig{InitLoraWeights: InitPiSSA, R: 400}),
		`needs a positive one`:           get(dense, LoraConfig{InitLoraWeights: InitPiSSA, LoraAlpha: -1}),
		`is not in a layer`:              get(dense, LoraConfig{InitLoraWeights: InitOLoRA, TargetModules: Modules("q_proj", "lm_head")}),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	if dense.Altered() != "" {
		t.Errorf("a refused adapter has changed the base: %s", dense.Altered())
	}
	p, err := GetPeftModel(dense, LoraConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.SaveConverted(t.TempDir(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "others are saved as they are") {
		t.Errorf("error %v", err)
	}
	if err := p.InitializeEVA(context.Background(), nil); err == nil || !strings.Contains(err.Error(), `want "eva"`) {
		t.Errorf("error %v", err)
	}
}
