package peft

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/safetensors"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

// tunerCase is a folder of testdata/tuners, which PEFT made (scripts/reference/make_tuner_fixtures.py).
type tunerCase struct {
	Name         string
	Base         string             `json:"base"`
	NF4          bool               `json:"nf4"`
	IDs          [][]int            `json:"ids"`
	Loss         float64            `json:"loss"`
	RankPattern  map[string]int     `json:"rank_pattern"`
	AlphaPattern map[string]float64 `json:"alpha_pattern"`
	Batches      []struct {
		IDs    [][]int `json:"input_ids"`
		Mask   [][]int `json:"attention_mask"`
		Labels [][]int `json:"labels"`
	} `json:"batches"`

	dir  string
	file *safetensors.File
}

func readTuner(t *testing.T, name string) *tunerCase {
	t.Helper()
	c := &tunerCase{Name: name, dir: filepath.Join("testdata", "tuners", name)}
	raw, err := os.ReadFile(filepath.Join(c.dir, "case.json"))
	if err == nil {
		err = json.Unmarshal(raw, c)
	}
	if err == nil {
		c.file, err = safetensors.Open(filepath.Join(c.dir, "reference.safetensors"))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.file.Close() })
	return c
}

func tunerNames(t *testing.T) (names []string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join("testdata", "tuners", "*", "case.json"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, f := range found {
		names = append(names, filepath.Base(filepath.Dir(f)))
	}
	return names
}

func (c *tunerCase) load(t *testing.T, backend string, o models.Options) *models.CausalLM {
	t.Helper()
	o.Backend, o.DType, o.Logger = backend, models.Float32, slog.New(slog.NewTextHandler(io.Discard, nil))
	if c.NF4 {
		o.Quantization = nf4()
	}
	return loadTiny(t, filepath.Join("..", "models", "testdata", filepath.FromSlash(c.Base)), o)
}

// open attaches the adapter that PEFT saved.
func (c *tunerCase) open(t *testing.T, m *models.CausalLM) *PeftModel {
	t.Helper()
	p, err := FromPretrained(m, c.dir, Logger(slog.New(slog.NewTextHandler(io.Discard, nil))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func (c *tunerCase) tensor(t *testing.T, key string) []float32 {
	t.Helper()
	values, err := c.file.Float32(key)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

type logitser interface {
	Logits(ctx context.Context, ids, mask [][]int) ([][][]float32, error)
}

func (c *tunerCase) checkLogits(t *testing.T, m logitser, key string, limit float64) {
	t.Helper()
	logits, err := m.Logits(context.Background(), c.IDs, nil)
	if err != nil {
		t.Fatal(err)
	}
	var all []float32
	for _, row := range logits {
		all = append(all, flat(row)...)
	}
	reference.CheckClose(t, c.Name+" "+key, all, c.tensor(t, key), limit)
}

func (c *tunerCase) batch() *training.Batch {
	b := &training.Batch{Rows: len(c.IDs), Length: len(c.IDs[0])}
	for _, row := range c.IDs {
		for i, id := range row {
			label := int32(-100)
			if i+1 < len(row) {
				label = int32(row[i+1])
				b.NumLabels++
			}
			b.IDs, b.Labels, b.Segments = append(b.IDs, int32(id)), append(b.Labels, label), append(b.Segments, 1)
			b.NumTokens++
		}
	}
	return b
}

// gradients of the mean loss, in the order of the trained tensors: what AdamW's first moment is after a step, over 1-β₁.
func gradients(t *testing.T, p *PeftModel, b *training.Batch) (loss float64, grads [][]float32) {
	t.Helper()
	ctx := context.Background()
	s, err := p.NewSession(training.SessionOptions{AdamBeta1: 0.5, AdamBeta2: 0.999, AdamEpsilon: 1e-8})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	st, err := s.MicroStep(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(ctx, training.ApplyOptions{NumItems: float64(b.NumLabels)}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := s.SaveState(dir); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(filepath.Join(dir, "optimizer.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := 0; ; i++ {
		values, err := f.Float32(fmt.Sprintf("%d.m", i))
		if err != nil {
			return st.LossSum / float64(st.Labels), grads
		}
		for j := range values {
			values[j] *= 2
		}
		grads = append(grads, values)
	}
}

// checkGradients compares the gradients of everything that is trained with PEFT's.
func (c *tunerCase) checkGradients(t *testing.T, p *PeftModel, limit float64) {
	t.Helper()
	loss, grads := gradients(t, p, c.batch())
	if d := loss - c.Loss; d > 1e-5 || d < -1e-5 {
		t.Errorf("%s: loss %v, PEFT's is %v", c.Name, loss, c.Loss)
	}
	keys := p.trainedKeys()
	if len(keys) != len(grads) {
		t.Fatalf("%s: %d gradients of %d tensors", c.Name, len(grads), len(keys))
	}
	var got, want []float32
	for i, key := range keys {
		g := c.tensor(t, "grad."+key)
		if e := reference.RelativeError(grads[i], g); e > 20*limit {
			t.Errorf("%s: gradient of %s is %.3g off", c.Name, key, e)
		}
		got, want = append(got, grads[i]...), append(want, g...)
	}
	reference.CheckClose(t, c.Name+" gradients", got, want, limit)
}

// trainedKeys are the keys in files of what is trained, in the session's order.
func (p *PeftModel) trainedKeys() (keys []string) {
	s := p.first()
	if slices.ContainsFunc(s.targets, func(t Target) bool { return t.Path == models.EmbeddingPath }) {
		keys = append(keys, keyPrefix+models.EmbeddingPath+suffixEmbeddingA, keyPrefix+models.EmbeddingPath+suffixEmbeddingB)
	}
	if len(s.cfg.TrainableTokenIndices) > 0 {
		keys = append(keys, keyPrefix+models.EmbeddingPath+suffixTokens)
	}
	if slices.Contains(s.full, models.EmbeddingPath) {
		keys = append(keys, keyPrefix+models.EmbeddingPath+suffixFull)
	}
	if slices.ContainsFunc(s.targets, func(t Target) bool { return t.Path == models.HeadPath }) {
		keys = append(keys, keyPrefix+models.HeadPath+suffixA, keyPrefix+models.HeadPath+suffixB)
	}
	if slices.Contains(s.full, models.HeadPath) {
		keys = append(keys, keyPrefix+models.HeadPath+suffixFull)
	}
	for _, l := range p.base.Linears()[:len(p.base.Linears())-1] {
		adapted := slices.ContainsFunc(s.targets, func(t Target) bool { return t.Path == l.Path })
		if adapted {
			keys = append(keys, keyPrefix+l.Path+suffixA, keyPrefix+l.Path+suffixB)
			if s.cfg.UseDora {
				keys = append(keys, keyPrefix+l.Path+keyMagnitude)
			}
			if s.cfg.LoraBias {
				keys = append(keys, keyPrefix+l.Path+suffixBiasB)
			}
		}
		if slices.ContainsFunc(s.biases, func(b trainedBias) bool { return b.Path == l.Path }) {
			suffix := suffixUntouched
			if adapted {
				suffix = suffixAdapted
			}
			keys = append(keys, keyPrefix+l.Path+suffix)
		}
	}
	return keys
}

// plainCases have the programs of any LoRA.
var plainCases = []string{"orthogonal", "pissa", "loftq", "loftq_int8", "eva", "eva_whiten"}

// Everything that PEFT saved computes, learns, is merged and is saved here as there.
func TestTunersMadeByPEFTAreItsEqual(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		for _, name := range tunerNames(t) {
			t.Run(name, func(t *testing.T) {
				c := readTuner(t, name)
				m := c.load(t, backend, models.Options{})
				c.checkLogits(t, m, "base.logits", 2e-5)
				p := c.open(t, m)
				if name == "pissa_niter" {
					return // the base follows from PEFT's random numbers
				}
				if backend != "" && slices.Contains(plainCases, name) {
					return // no program that others have not
				}
				const limit = 2e-5
				c.checkLogits(t, p, "logits", limit)
				c.checkGradients(t, p, 10*limit)
				c.checkSaved(t, p)
				if c.NF4 || backend != "" {
					return
				}
				dir := t.TempDir()
				if err := p.SaveMerged(dir, MergeOptions{}); err != nil {
					t.Fatal(err)
				}
				c.checkLogits(t, loadTiny(t, dir, models.Options{DType: models.Float32}), "merged.logits", limit)
			})
		}
	})
}

// checkSaved compares what SavePretrained writes with PEFT's folder: all tensors, and all settings but the version's.
func (c *tunerCase) checkSaved(t *testing.T, p *PeftModel) {
	t.Helper()
	dir := t.TempDir()
	if err := p.SavePretrained(dir); err != nil {
		t.Fatal(err)
	}
	limit := 0.0
	if len(p.first().biases) > 0 {
		limit = 1e-6 // on the device they are differences
	}
	checkFolder(t, dir, c.dir, limit)
}

// checkFolder compares two adapter folders; limit is the relative error of tensors.
func checkFolder(t *testing.T, dir, want string, limit float64) {
	t.Helper()
	got, err := safetensors.Open(filepath.Join(dir, WeightsName))
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	peft, err := safetensors.Open(filepath.Join(want, WeightsName))
	if err != nil {
		t.Fatal(err)
	}
	defer peft.Close()
	theirNames := slices.DeleteFunc(slices.Clone(peft.Names()), func(n string) bool { return strings.HasSuffix(n, ".base_layer.weight") }) // copies
	if !slices.Equal(slices.Sorted(slices.Values(got.Names())), slices.Sorted(slices.Values(theirNames))) {
		t.Errorf("tensors %q, PEFT has %q", got.Names(), peft.Names())
		return
	}
	for _, n := range theirNames {
		a, _ := got.Float32(n)
		b, err := peft.Float32(n)
		if err != nil {
			t.Fatal(err)
		}
		if limit == 0 && slices.Equal(a, b) {
			continue
		}
		reference.CheckClose(t, n, a, b, limit)
	}
	ours, theirs := configMap(t, dir), configMap(t, want)
	for key, v := range ours {
		if w, ok := theirs[key]; !ok || fmt.Sprint(v) != fmt.Sprint(w) {
			t.Errorf("%s is %v, PEFT has %v", key, v, w)
		}
	}
	for key, v := range theirs { // what is left out stands for PEFT's default
		if _, ok := ours[key]; !ok && !off([]byte(fmt.Sprint(v))) && !slices.Contains([]string{"<nil>", "map[]", "megatron.core", "16"}, fmt.Sprint(v)) && key != "peft_version" {
			t.Errorf("%s is left out, PEFT has %v", key, v)
		}
	}
}

func configMap(t *testing.T, dir string) (m map[string]any) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, ConfigName))
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// product is B·A, of which signs of singular vectors and columns of Q are no part.
func product(a, b []float32, r int) []float32 {
	w := make([]float32, len(a)/r*(len(b)/r))
	subtract(w, -1, a, b, r)
	return w
}

func (c *tunerCase) config(t *testing.T) LoraConfig {
	t.Helper()
	cfg, _, err := ReadConfig(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

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
				values, err := p.first().values()
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
		values, err := p.first().values()
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
		if how := p.Config().InitLoraWeights; how != InitTrue || m.Altered() != "" {
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
			got := p.Config()
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
			values, err := p.first().values()
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
