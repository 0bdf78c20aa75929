package models

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/safetensors"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/quant"
)

// family is a tiny model of a family with the numbers that transformers and peft computed; testdata/families/README.md
// says which.
type family struct {
	name, dir      string
	Scaling        float64
	Padded, Packed familyBatch
	BF16           struct{ Logits, Gradients float64 }
	Prompt, Greedy []int
	file           *safetensors.File
}

type familyBatch struct {
	IDs, Labels, Positions, Segments []int32
	Rows                             int
	Loss                             float64
}

// oneOfEach are fixtures that have every primitive and type of layers among them, and farApart the two that have least in
// common: compilers take their time for all.
var (
	oneOfEach = []string{"qwen2_window", "qwen3_yarn", "gemma2_caps", "gemma3_types", "phi3_longrope"}
	farApart  = []string{"gemma3_types", "phi3_longrope"}
)

// eachFamily runs a test of the named fixtures where a backend compiles, of all where it does not or LORIS_TEST_LONG is
// set.
func eachFamily(t *testing.T, backend string, names []string, test func(t *testing.T, f *family)) {
	dirs, err := filepath.Glob("testdata/families/*/reference.json")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no fixtures (%v)", err)
	}
	for _, path := range dirs {
		f := &family{dir: filepath.Dir(path)}
		f.name = filepath.Base(f.dir)
		if backend != "" && os.Getenv("LORIS_TEST_LONG") == "" && !slices.Contains(names, f.name) {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			raw, err := os.ReadFile(path)
			if err == nil {
				err = json.Unmarshal(raw, f)
			}
			if err == nil {
				f.file, err = safetensors.Open(filepath.Join(f.dir, "reference.safetensors"))
			}
			if err != nil {
				t.Fatal(err)
			}
			defer f.file.Close()
			test(t, f)
		})
	}
}

func (f *family) tensor(t *testing.T, name string) []float32 {
	t.Helper()
	values, err := f.file.Float32(name)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// loras are the adapters of the fixture, on the paths that PEFT gave them.
func (f *family) loras(t *testing.T) (all []LoRA) {
	for _, name := range f.file.Names() {
		path, ok := strings.CutSuffix(name, ".lora_A.weight")
		if !ok || strings.Contains(name, "grad.") {
			continue
		}
		l := LoRA{Path: path, R: 2, Scaling: f.Scaling, A: f.tensor(t, name), B: f.tensor(t, path+".lora_B.weight")}
		all = append(all, l)
	}
	return all
}

func (f *family) load(t *testing.T, o Options) (*CausalLM, Adapters) {
	t.Helper()
	m := mustLoad(t, f.dir, o)
	return m, f.adapters(t, m)
}

func (f *family) adapters(t *testing.T, m *CausalLM) Adapters {
	t.Helper()
	a, err := m.NewAdapters(f.loras(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// rows are ids or segments as Logits takes them.
func (b familyBatch) matrix(values []int32) (rows [][]int) {
	for row := range slices.Chunk(values, len(values)/b.Rows) {
		var ints []int
		for _, v := range row {
			ints = append(ints, int(v))
		}
		rows = append(rows, ints)
	}
	return rows
}

// logits are those of the padded batch where there is no padding.
func (f *family) logits(t *testing.T, m *CausalLM, a Adapters) (flat []float32) {
	t.Helper()
	mask := f.Padded.matrix(f.Padded.Segments)
	out, err := m.LogitsWith(context.Background(), a, f.Padded.matrix(f.Padded.IDs), mask)
	if err != nil {
		t.Fatal(err)
	}
	for r, row := range out {
		for c, v := range row {
			if mask[r][c] == 1 {
				flat = append(flat, v...)
			}
		}
	}
	return flat
}

// gradients returns the mean loss of a batch and its gradients, by the names of the fixture: those of the adapters, and
// of base, where m trains it. They are read off one step of AdamW whose epsilon is so large that it is plain descent. For packed batches all values
// are kept for the backward pass, for others none.
func (f *family) gradients(t *testing.T, m *CausalLM, a Adapters, b familyBatch, base ...string) (float64, map[string][]float32) {
	t.Helper()
	ctx := context.Background()
	const epsilon, rate = 1e9, 300
	budget := "0"
	if b.Positions != nil {
		budget = "1GB"
	}
	s, err := m.SessionWith(a, training.SessionOptions{AdamBeta2: 0.5, AdamEpsilon: epsilon, ResidualBudget: budget})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before := f.values(t, m, a, base)
	batch := &training.Batch{Rows: b.Rows, Length: len(b.IDs) / b.Rows, IDs: b.IDs, Labels: b.Labels, Positions: b.Positions, Segments: b.Segments}
	for _, l := range b.Labels {
		if l != -100 {
			batch.NumLabels++
		}
	}
	st, err := s.MicroStep(ctx, batch)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(ctx, training.ApplyOptions{LearningRate: rate * epsilon, NumItems: float64(batch.NumLabels)}); err != nil {
		t.Fatal(err)
	}
	after := f.values(t, m, a, base)
	for name, v := range before {
		for i := range v {
			v[i] = (v[i] - after[name][i]) / rate
		}
	}
	return st.LossSum / float64(st.Labels), before
}

func (f *family) values(t *testing.T, m *CausalLM, a Adapters, base []string) map[string][]float32 {
	t.Helper()
	loras, err := a.Values()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]float32{}
	for path, l := range loras {
		all[path+".lora_A.weight"], all[path+".lora_B.weight"] = l.A, l.B
	}
	for _, name := range base {
		if all[name], err = m.download(name); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// check compares gradients with the fixture's, whose names begin with prefix.
func (f *family) check(t *testing.T, prefix string, got map[string][]float32, limit float64) {
	t.Helper()
	for name, g := range got {
		reference.CheckClose(t, prefix+name, g, f.tensor(t, prefix+name), limit)
	}
}

func TestFamiliesComputeAsTransformers(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		eachFamily(t, backend, oneOfEach, func(t *testing.T, f *family) {
			m, a := f.load(t, Options{Backend: backend, DType: Float32})
			reference.CheckClose(t, "logits", f.logits(t, m, a), f.tensor(t, "logits"), 3e-5)
			for prefix, b := range map[string]familyBatch{"grad.": f.Padded, "packed.grad.": f.Packed} {
				loss, grads := f.gradients(t, m, f.adapters(t, m), b)
				reference.CheckCurve(t, prefix+" loss", []float64{loss}, []float64{b.Loss}, 3e-5)
				if want := 2 * (len(m.Linears()) - 1); len(grads) != want {
					t.Errorf("%d gradients, want %d: two of each linear that PEFT finds", len(grads), want)
				}
				f.check(t, prefix, grads, 1e-4)
			}
			got, err := m.GenerateIDs(context.Background(), nil, f.Prompt, GenerationConfig{MaxNewTokens: len(f.Greedy)})
			if err != nil || !slices.Equal(got, f.Greedy) {
				t.Errorf("generated %v (%v), want %v", got, err, f.Greedy)
			}
		})
	})
}

func TestFamiliesTrainWhole(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		eachFamily(t, backend, farApart, func(t *testing.T, f *family) {
			var base []string // of all others the gradients need no more than linears do
			for name := range tensorShapes(mustConfig(t, f.dir)) {
				if strings.Contains(name, "norm") || strings.Contains(name, "embed") || strings.HasSuffix(name, ".bias") {
					base = append(base, name)
				}
			}
			m, a := f.load(t, Options{Backend: backend, DType: Float32, Trainable: true})
			_, grads := f.gradients(t, m, a, f.Padded, base...)
			f.check(t, "grad.", grads, 1e-4)
		})
	})
}

func mustConfig(t *testing.T, dir string) Architecture {
	t.Helper()
	c, err := ReadConfig(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFamiliesInBFloat16AreAsCloseAsTransformers(t *testing.T) {
	test := func(t *testing.T, backend string, form nn.Form) {
		eachFamily(t, backend, farApart, func(t *testing.T, f *family) {
			m, a := f.load(t, Options{Backend: backend, DType: BFloat16})
			m.run.Shape.Form = form
			within := func(what string, got, want []float32, theirs float64) {
				e := reference.RelativeError(got, want)
				t.Logf("%s: off by %.2g, %.2f times transformers' error", what, e, e/theirs)
				if !(e <= 1.3*theirs) {
					t.Errorf("%s are off by %.3g, transformers' by %.3g", what, e, theirs)
				}
			}
			within("logits", f.logits(t, m, a), f.tensor(t, "logits"), f.BF16.Logits)
			var got, want []float32
			for prefix, b := range map[string]familyBatch{"grad.": f.Padded, "packed.grad.": f.Packed} {
				_, grads := f.gradients(t, m, f.adapters(t, m), b)
				for name, g := range grads {
					got, want = append(got, g...), append(want, f.tensor(t, prefix+name)...)
				}
			}
			within("gradients", got, want, f.BF16.Gradients)
		})
	}
	reference.OnBackends(t, func(t *testing.T, backend string) { test(t, backend, nn.FormAuto) })
	t.Run("plain", func(t *testing.T) { test(t, "", nn.FormPlain) })
}

// Either layout of a saved config alone says all, and the saved weights are the same.
func TestFamiliesAreSavedForEveryTransformers(t *testing.T) {
	eachFamily(t, "", nil, func(t *testing.T, f *family) {
		dir := t.TempDir()
		if err := mustLoad(t, f.dir, Options{DType: Float32}).SavePretrained(dir); err != nil {
			t.Fatal(err)
		}
		want := mustConfig(t, f.dir).dims()
		for _, drop := range [][]string{{"none"}, {"rope_parameters"}, {"rope_scaling", "rope_theta", "rope_local_base_freq"}} {
			for _, key := range drop {
				edit(key, nil)(t, dir)
			}
			got := mustConfig(t, dir).dims()
			for _, length := range []int{1, 30, 31, 33, 100} {
				c, s := got.rope.Table([]int32{1, 2, 77}, length)
				wantC, wantS := want.rope.Table([]int32{1, 2, 77}, length)
				if !slices.Equal(c, wantC) || !slices.Equal(s, wantS) || got.rope.Switch != want.rope.Switch {
					t.Errorf("without %v RoPE is another at length %d", drop, length)
				}
			}
			if !slices.Equal(got.types, want.types) || got.shape != want.shape || got.logit != want.logit || got.embed != want.embed || got.tied != want.tied {
				t.Errorf("without %v the config reads %+v, want %+v", drop, got, want)
			}
			if drop[0] == "rope_parameters" { // back for the other layout
				if err := mustLoad(t, f.dir, Options{DType: Float32}).SavePretrained(dir); err != nil {
					t.Fatal(err)
				}
			}
		}
		a, err := mustLoad(t, dir, Options{DType: Float32}).Logits(context.Background(), [][]int{f.Prompt}, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := mustLoad(t, f.dir, Options{DType: Float32}).Logits(context.Background(), [][]int{f.Prompt}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range a[0] {
			if !slices.Equal(a[0][i], b[0][i]) {
				t.Fatalf("position %d has other logits", i)
			}
		}
	})
}

// transformers 5 refuses a config whose floats look like integers.
func TestSavedConfigsWriteFloatsAsFloats(t *testing.T) {
	for fixture, wants := range map[string][]string{
		"gemma3_types":  {`"final_logit_softcapping": 3.0`, `"rope_theta": 300000.0`, `"query_pre_attn_scalar": 12,`, `"sliding_window": 6,`},
		"gemma2_plain":  {`"final_logit_softcapping": null`},
		"phi3_longrope": {`"original_max_position_embeddings": 36,`, `"partial_rotary_factor": 0.75`},
	} {
		dir := t.TempDir()
		if err := mustLoad(t, filepath.Join("testdata/families", fixture), Options{}).SavePretrained(dir); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range wants {
			if !strings.Contains(string(text), w) {
				t.Errorf("%s is saved as %s, want %s in it", fixture, text, w)
			}
		}
	}
}

// The form that CUDA's kernels run in, and hosts by their twins: what has no kernel is computed in plain operations there.
func TestFusedFormServesEveryFamily(t *testing.T) {
	nf4 := &quant.BitsAndBytesConfig{LoadIn4Bit: true, BNB4BitQuantType: quant.NF4, BNB4BitUseDoubleQuant: true}
	reference.OnBackends(t, func(t *testing.T, backend string) {
		eachFamily(t, backend, farApart, func(t *testing.T, f *family) {
			m, a := f.load(t, Options{Backend: backend, DType: Float32})
			m.run.Shape.Form = nn.FormFused
			loss, grads := f.gradients(t, m, a, f.Padded)
			reference.CheckCurve(t, "loss", []float64{loss}, []float64{f.Padded.Loss}, 3e-5)
			f.check(t, "grad.", grads, 1e-4)

			var losses []float64
			var all []map[string][]float32
			for _, form := range []nn.Form{nn.FormPlain, nn.FormFused} {
				m, a := f.load(t, Options{Backend: backend, DType: Float32, Quantization: nf4, KeepPacked: true})
				m.run.Shape.Form = form
				loss, grads := f.gradients(t, m, a, f.Packed)
				losses, all = append(losses, loss), append(all, grads)
			}
			reference.CheckCurve(t, "loss on NF4", losses[1:], losses[:1], 3e-5)
			for name, g := range all[1] {
				reference.CheckClose(t, name+" on NF4", g, all[0][name], 1e-4)
			}
		})
	})
}

// Texts are generated in a form of their own: weights decoded within products, adapters stacked once.
func TestFusedFormGeneratesWhatThePlainOneDoes(t *testing.T) {
	nf4 := &quant.BitsAndBytesConfig{LoadIn4Bit: true, BNB4BitQuantType: quant.NF4, BNB4BitUseDoubleQuant: true}
	reference.OnBackends(t, func(t *testing.T, backend string) {
		eachFamily(t, backend, farApart, func(t *testing.T, f *family) {
			var all [2][][]int
			for i, form := range []nn.Form{nn.FormPlain, nn.FormFused} {
				m, a := f.load(t, Options{Backend: backend, DType: Float32, Quantization: nf4, KeepPacked: true})
				m.run.Shape.Form = form
				out, err := m.GenerateBatchIDs(context.Background(), a, [][]int{f.Prompt, f.Prompt[:3]}, GenerationConfig{MaxNewTokens: 8})
				if err != nil {
					t.Fatal(err)
				}
				all[i] = out
			}
			for i := range all[0] {
				if !slices.Equal(all[0][i], all[1][i]) {
					t.Errorf("prompt %d: fused %v, plain %v", i, all[1][i], all[0][i])
				}
			}
		})
	})
}
