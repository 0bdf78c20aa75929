package peft

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"io"
	"log/slog"
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
	Mask         [][]int            `json:"mask"`
	Generated    [][]int            `json:"generated"`
	Quantized    string             `json:"quantized"`
	Trainable    []int64            `json:"trainable"`
	Loss         float64            `json:"loss"`
	RankPattern  map[string]int     `json:"rank_pattern"`
	AlphaPattern map[string]float64 `json:"alpha_pattern"`
	Schedule     struct {
		Losses []float64           `json:"losses"`
		Kept   []map[string][]bool `json:"kept"`
	} `json:"schedule"`
	Batches []struct {
		IDs    [][]int `json:"input_ids"`
		Mask   [][]int `json:"attention_mask"`
		Labels [][]int `json:"labels"`
	} `json:"batches"`

	dir  string
	file *safetensors.File
}

func readTuner(t *testing.T, name string) *tunerCase { return readCase(t, "tuners", name) }

// readCase reads a case of a folder of testdata.
func readCase(t *testing.T, folder, name string) *tunerCase {
	t.Helper()
	c := &tunerCase{Name: name, dir: filepath.Join("testdata", folder, name)}
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
	c.compareGradients(t, p.trainedKeys(), grads, limit)
}

func (c *tunerCase) compareGradients(t *testing.T, keys []string, grads [][]float32, limit float64) {
	t.Helper()
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
	if s, ok := p.first().tuner.(*methodSet); ok {
		for i, t := range s.targets {
			if s.forms[i].tuner == nil {
				continue
			}
			for _, n := range s.forms[i].tensors {
				if n.shared == nil {
					keys = append(keys, keyPrefix+t.Path+"."+n.name)
				}
			}
		}
		return keys
	}
	s := p.first().tuner.(*loraSet)
	if slices.ContainsFunc(s.targets, func(t Target) bool { return t.Path == models.EmbeddingPath }) {
		keys = append(keys, keyPrefix+models.EmbeddingPath+suffixEmbeddingA, keyPrefix+models.EmbeddingPath+suffixEmbeddingB)
	}
	if len(s.cfg.TrainableTokenIndices) > 0 {
		keys = append(keys, keyPrefix+models.EmbeddingPath+suffixTokens)
	}
	if s.cfg.saves(models.EmbeddingPath) {
		keys = append(keys, keyPrefix+models.EmbeddingPath+suffixFull)
	}
	if slices.ContainsFunc(s.targets, func(t Target) bool { return t.Path == models.HeadPath }) {
		keys = append(keys, keyPrefix+models.HeadPath+suffixA, keyPrefix+models.HeadPath+suffixB)
	}
	if s.cfg.saves(models.HeadPath) {
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

// compiledCases are those of other tuners that compilers see, for whom each is many programs; AdaLoRA has a test of its own.
var compiledCases = []string{"ia3_qwen2", "loha_phi3", "lokr_phi3", "oft_qwen2", "oft_nf4", "vera_phi3", "boft_phi3"}

// Everything that PEFT saved computes, learns, is merged and is saved here as there.
func TestTunersMadeByPEFTAreItsEqual(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		others := methodNames(t)
		for _, name := range tunerNames(t) {
			if backend != "" && os.Getenv("LORIS_TEST_LONG") == "" && slices.Contains(others, name) && !slices.Contains(compiledCases, name) {
				continue
			}
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
				c.checkSaved(t, p)
				c.checkGradients(t, p, 10*limit)
				if c.NF4 || backend != "" {
					return
				}
				dir := t.TempDir()
				if err := p.SaveMerged(dir, MergeOptions{}); err != nil {
					t.Fatal(err)
				}
				c.checkLogits(t, loadTiny(t, dir, models.Options{DType: models.Float32}), "merged.logits", limit)
				if _, ok := p.Config().(LoraConfig); !ok {
					c.checkMergedInPlace(t, p, limit)
				}
			})
		}
	})
}

// checkMergedInPlace merges into the base and takes the adapter out again, with whatever PEFT loses by that.
func (c *tunerCase) checkMergedInPlace(t *testing.T, p *PeftModel, limit float64) {
	t.Helper()
	if err := p.MergeAdapter(true); err != nil {
		t.Fatal(err)
	}
	c.checkLogits(t, p.Base(), "merged.logits", limit)
	c.checkLogits(t, p, "merged.logits", limit)
	if err := p.UnmergeAdapter(); err != nil {
		t.Fatal(err)
	}
	c.checkLogits(t, p, "unmerged.logits", 5*limit)
	c.checkLogits(t, p.Base(), "base.logits", 5*limit)
}

// checkSaved compares what SavePretrained writes with PEFT's folder: all tensors, and all settings but the version's.
func (c *tunerCase) checkSaved(t *testing.T, p *PeftModel) {
	t.Helper()
	dir := t.TempDir()
	if err := p.SavePretrained(dir); err != nil {
		t.Fatal(err)
	}
	limit := 0.0
	if s, ok := p.first().tuner.(*loraSet); ok && len(s.biases) > 0 {
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
		if (limit == 0 || len(b) == 0) && slices.Equal(a, b) {
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
	return cfg.(LoraConfig)
}

// attachLora puts LoRA adapters of these values onto a model.
func attachLora(p *PeftModel, cfg LoraConfig, weights []AdapterWeight) error {
	stored := map[string]AdapterWeight{}
	for _, w := range weights {
		stored[w.Path] = w
	}
	s, loras, err := p.makeLora(cfg, stored)
	if err != nil {
		return err
	}
	return p.add(DefaultAdapter, &adapterSet{tuner: s}, loras)
}
