package peft

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

var quiet = Logger(slog.New(slog.NewTextHandler(io.Discard, nil)))

func combinedDir(name string) string { return filepath.Join("testdata", "combined", name) }

// three loads the adapters a, b and c that PEFT made.
func three(t *testing.T, m *models.CausalLM) *PeftModel {
	t.Helper()
	p := newPeftModel(m, []Option{quiet})
	for _, name := range []string{"a", "b", "c"} {
		if err := p.LoadAdapter(name, combinedDir(name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { p.Close() })
	return p
}

var someIDs = [][]int{{5, 9, 3, 11, 7, 23, 6}, {4, 8, 30, 2, 40, 12, 9}}

func logitsOf(t *testing.T, m logitser) (all []float32) {
	t.Helper()
	logits, err := m.Logits(context.Background(), someIDs, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range logits {
		all = append(all, flat(row)...)
	}
	return all
}

func llamaBase(t *testing.T, backend string) *models.CausalLM {
	t.Helper()
	return loadTiny(t, filepath.Join("..", "models", "testdata", "bnb_none"), models.Options{Backend: backend, DType: models.Float32})
}

func TestCombinedAdaptersArePEFTs(t *testing.T) {
	var cases map[string]struct {
		Names           []string    `json:"names"`
		Weights         []float64   `json:"weights"`
		CombinationType Combination `json:"combination_type"`
		SVDRank         int         `json:"svd_rank"`
		SVDClamp        float64     `json:"svd_clamp"`
		Density         float64     `json:"density"`
		Method          string      `json:"majority_sign_method"`
	}
	raw, err := os.ReadFile(combinedDir("combined.json"))
	if err == nil {
		err = json.Unmarshal(raw, &cases)
	}
	if err != nil {
		t.Fatal(err)
	}
	p := three(t, llamaBase(t, ""))
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			o := WeightedOptions{CombinationType: c.CombinationType, SVDRank: c.SVDRank, SVDClamp: c.SVDClamp, Density: c.Density, MajoritySignMethod: c.Method}
			o.SVDClamp = 0 // below, when signs are PEFT's
			if err := p.AddWeightedAdapter("w_"+name, c.Names, c.Weights, o); err != nil {
				t.Fatal(err)
			}
			cfg, want, _, err := LoadAdapter(combinedDir("w_" + name))
			if err != nil {
				t.Fatal(err)
			}
			got, err := p.sets["w_"+name].loraWeights()
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(want) {
				t.Fatalf("%d modules, PEFT has %d", len(got), len(want))
			}
			found, _ := p.AdapterConfig("w_" + name)
			if ours := found.(LoraConfig); ours.R != cfg.R || ours.LoraAlpha != cfg.LoraAlpha || ours.TargetModules.String() != cfg.TargetModules.String() {
				t.Errorf("config %+v, PEFT's %+v", ours, cfg)
			}
			for _, w := range want {
				i := slices.IndexFunc(got, func(g AdapterWeight) bool { return g.Path == w.Path })
				if c.SVDClamp > 0 {
					flipLike(got[i], w)
					clamp(got[i].A, got[i].B, c.SVDClamp)
				}
				reference.CheckClose(t, w.Path, product(got[i].A, got[i].B, got[i].R), product(w.A, w.B, w.R), 1e-5)
				if !o.svd() { // singular vectors have any sign
					reference.CheckClose(t, w.Path+" A", got[i].A, w.A, 1e-6)
					reference.CheckClose(t, w.Path+" B", got[i].B, w.B, 1e-6)
				}
			}
		})
	}
}

// flipLike gives the singular vectors of w the signs of want's.
func flipLike(w, want AdapterWeight) {
	for k := range w.R {
		dot := float32(0)
		for i := range w.In {
			dot += w.A[k*w.In+i] * want.A[k*w.In+i]
		}
		if dot >= 0 {
			continue
		}
		for i := range w.In {
			w.A[k*w.In+i] *= -1
		}
		for o := range w.Out {
			w.B[o*w.R+k] *= -1
		}
	}
}

// DARE keeps the share of values that it is to keep, and their sum on average.
func TestDAREDropsAtRandomAndScalesUp(t *testing.T) {
	x := make([]float32, 20000)
	for i := range x {
		x[i] = 1
	}
	keepAtRandom(x, 0.3, newStream(4, "x"))
	kept, sum := 0, 0.0
	for _, v := range x {
		if v != 0 {
			kept++
		}
		sum += float64(v)
	}
	if share := float64(kept) / 20000; share < 0.28 || share > 0.32 || sum < 18800 || sum > 21200 {
		t.Errorf("%v of the values are kept, their sum went from 20000 to %v", share, sum)
	}
	p := three(t, llamaBase(t, ""))
	add := func(name string, seed int64) []AdapterWeight {
		t.Helper()
		o := WeightedOptions{CombinationType: CombineDARETIES, Density: 0.5, Seed: seed}
		if err := p.AddWeightedAdapter(name, []string{"a", "b"}, []float64{1, 1}, o); err != nil {
			t.Fatal(err)
		}
		v, err := p.sets[name].loraWeights()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	first, again, other := add("one", 1), add("two", 1), add("three", 2)
	if !slices.Equal(first[0].A, again[0].A) || slices.Equal(first[0].A, other[0].A) {
		t.Error("what is dropped does not follow from the seed")
	}
}

func TestWrongCombinationsAreRefused(t *testing.T) {
	p := three(t, llamaBase(t, ""))
	for want, err := range map[string]error{
		`adapter name "a" is taken`:          p.AddWeightedAdapter("a", []string{"b"}, []float64{1}, WeightedOptions{}),
		`no adapters "z"; there are ["a"`:    p.AddWeightedAdapter("n", []string{"z"}, []float64{1}, WeightedOptions{}),
		`2 adapters and 1 weights`:           p.AddWeightedAdapter("n", []string{"a", "b"}, []float64{1}, WeightedOptions{}),
		`needs adapters of one rank`:         p.AddWeightedAdapter("n", []string{"a", "c"}, []float64{1, 1}, WeightedOptions{CombinationType: CombineLinear}),
		`density 0: combination_type "ties"`: p.AddWeightedAdapter("n", []string{"a", "b"}, []float64{1, 1}, WeightedOptions{CombinationType: CombineTIES}),
		`combination_type "mean" is unknown`: p.AddWeightedAdapter("n", []string{"a", "b"}, []float64{1, 1}, WeightedOptions{CombinationType: "mean"}),
		`svd_clamp 2: must be a quantile`:    p.AddWeightedAdapter("n", []string{"a", "b"}, []float64{1, 1}, WeightedOptions{SVDClamp: 2}),
		`majority_sign_method "most"`:        p.AddWeightedAdapter("n", []string{"a", "b"}, []float64{1, 1}, WeightedOptions{MajoritySignMethod: "most"}),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	if !slices.Equal(p.AdapterNames(), []string{"a", "b", "c"}) {
		t.Errorf("refused combinations left %q", p.AdapterNames())
	}
}

// Active adapters compute what they do alone, several what their sum does, none what the base does.
func TestAdaptersAreChosenByName(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		m := llamaBase(t, backend)
		base := logitsOf(t, m)
		p := three(t, m)
		alone := map[string][]float32{}
		for _, name := range []string{"a", "b", "c"} {
			one, err := FromPretrained(m, combinedDir(name), quiet)
			if err != nil {
				t.Fatal(err)
			}
			alone[name] = logitsOf(t, one)
			if err := one.Close(); err != nil {
				t.Fatal(err)
			}
			if err := p.SetAdapter(name); err != nil {
				t.Fatal(err)
			}
			if got := logitsOf(t, p); !slices.Equal(got, alone[name]) {
				t.Errorf("%s among others: %v off", name, reference.RelativeError(got, alone[name]))
			}
		}
		err := p.DisableAdapters(func() error {
			if got := logitsOf(t, p); !slices.Equal(got, base) {
				t.Errorf("disabled: %v off", reference.RelativeError(got, base))
			}
			return errors.New("passed on")
		})
		if err == nil || err.Error() != "passed on" || !slices.Equal(logitsOf(t, p), alone["c"]) {
			t.Errorf("after DisableAdapters: error %v, or the adapters are not back", err)
		}
		if err := p.SetAdapter("c", "a"); err != nil {
			t.Fatal(err)
		}
		got := logitsOf(t, p)
		if err := p.AddWeightedAdapter("sum", []string{"c", "a"}, []float64{1, 1}, WeightedOptions{CombinationType: CombineCat}); err != nil {
			t.Fatal(err)
		}
		if _, err := p.NewSession(training.SessionOptions{}); err == nil || !strings.Contains(err.Error(), "active together") {
			t.Errorf("training several: error %v", err)
		}
		if err := p.SetAdapter("sum"); err != nil {
			t.Fatal(err)
		}
		reference.CheckClose(t, "several", got, logitsOf(t, p), 1e-6)
		if err := p.DeleteAdapter("sum"); err != nil {
			t.Fatal(err)
		}
		if got := p.ActiveAdapters(); !slices.Equal(got, []string{"a"}) || !slices.Equal(logitsOf(t, p), alone["a"]) {
			t.Errorf("after the active adapters were deleted, %q are active", got)
		}
	})
}

func TestWrongNamesAreRefused(t *testing.T) {
	p := three(t, llamaBase(t, ""))
	for want, err := range map[string]error{
		`there are no adapters "d"; there are ["a" "b" "c"]`: p.SetAdapter("d"),
		`is named twice`:                     p.SetAdapter("a", "a"),
		`DisableAdapters is to use none`:     p.SetAdapter(),
		`adapter name "a" is taken`:          p.AddAdapter("a", LoraConfig{}),
		`adapter name "x/y"`:                 p.AddAdapter("x/y", LoraConfig{}),
		`adapter name "__base__"`:            p.AddAdapter("__base__", LoraConfig{}),
		`DeleteAdapter: there are no`:        p.DeleteAdapter("d"),
		`LoraConfig: r -1`:                   p.AddAdapter("d", LoraConfig{R: -1}),
		`testdata/nothing: no such folder`:   p.LoadAdapter("d", filepath.Join("testdata", "nothing")),
		`no adapters are merged`:             p.UnmergeAdapter(),
		`hotswap "d" by x: there are no`:     p.Hotswap("d", "x"),
		`call PrepareHotswap first`:          p.Hotswap("a", combinedDir("c")),
		`PrepareHotswap: adapter "c": modul`: p.PrepareHotswap(2),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	for _, name := range []string{"a", "b"} {
		if err := p.DeleteAdapter(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.DeleteAdapter("c"); err == nil || !strings.Contains(err.Error(), "only adapters") {
		t.Errorf("error %v", err)
	}
}

// Each set is saved into a folder of its name, "default" into the folder itself, as PEFT lays them out.
func TestAllAdaptersAreSaved(t *testing.T) {
	p := three(t, llamaBase(t, ""))
	if err := p.AddAdapter(DefaultAdapter, LoraConfig{R: 2}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := p.PrepareHotswap(0); err != nil { // padding does not show
		t.Fatal(err)
	}
	if err := p.SavePretrained(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c"} {
		checkFolder(t, filepath.Join(dir, name), combinedDir(name), 0)
	}
	if cfg, _, err := ReadConfig(dir); err != nil || cfg.(LoraConfig).R != 2 {
		t.Errorf("%+v, %v", cfg, err)
	}
}

// After PrepareHotswap, adapters of any rank, scaling and targets take turns without a program being compiled, in less than
// 5 ms, and compute what they did.
func TestHotSwappingCompilesNothing(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		m := llamaBase(t, backend)
		p := three(t, m)
		want := map[string][]float32{}
		for _, name := range p.AdapterNames() {
			if err := p.SetAdapter(name); err != nil {
				t.Fatal(err)
			}
			want[name] = logitsOf(t, p)
		}
		if err := p.PrepareHotswap(4); err != nil {
			t.Fatal(err)
		}
		logitsOf(t, p)
		compiled := m.CompiledPrograms()
		for _, name := range []string{"b", "c", "a", "c", "b"} {
			began := time.Now()
			if err := p.SetAdapter(name); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > 5*time.Millisecond {
				t.Errorf("choosing %s took %v", name, took)
			}
			reference.CheckClose(t, name, logitsOf(t, p), want[name], 1e-5)
		}
		if err := p.SetAdapter("a"); err != nil {
			t.Fatal(err)
		}
		if err := p.Hotswap("a", combinedDir("c")); err != nil {
			t.Fatal(err)
		}
		reference.CheckClose(t, "a swapped for c", logitsOf(t, p), want["c"], 1e-5)
		if err := p.LoadAdapter("d", combinedDir("b")); err != nil {
			t.Fatal(err)
		}
		if err := p.SetAdapter("d"); err != nil {
			t.Fatal(err)
		}
		reference.CheckClose(t, "b loaded again", logitsOf(t, p), want["b"], 1e-5)
		if n := m.CompiledPrograms() - compiled; n != 0 || compiled == 0 {
			t.Errorf("%d programs were compiled, %d before", n, compiled)
		}
		if _, err := p.NewSession(training.SessionOptions{}); err == nil || !strings.Contains(err.Error(), "not for training") {
			t.Errorf("training after PrepareHotswap: error %v", err)
		}
	})
}

// Sets of one form share programs without any preparation.
func TestAdaptersOfOneFormSharePrograms(t *testing.T) {
	m := llamaBase(t, "")
	p, err := GetPeftModel(m, LoraConfig{R: 2, InitLoraWeights: InitFalse}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	logitsOf(t, p)
	compiled := m.CompiledPrograms()
	if err := p.AddAdapter("other", LoraConfig{R: 2, InitLoraWeights: InitFalse}); err != nil {
		t.Fatal(err)
	}
	if err := p.SetAdapter("other"); err != nil {
		t.Fatal(err)
	}
	logitsOf(t, p)
	if n := m.CompiledPrograms(); n != compiled {
		t.Errorf("%d programs were compiled", n-compiled)
	}
}

func ExamplePeftModel_SetAdapter() {
	run := func(model *models.CausalLM) error {
		p, err := FromPretrained(model, combinedDir("a"))
		if err != nil {
			return err
		}
		defer p.Close()
		if err := p.LoadAdapter("other", combinedDir("b")); err != nil {
			return err
		}
		if err := p.SetAdapter("other"); err != nil {
			return err
		}
		fmt.Println(p.AdapterNames(), p.ActiveAdapters())
		return p.DisableAdapters(func() error {
			_, err := p.Logits(context.Background(), [][]int{{1, 2, 3}}, nil) // the base's
			return err
		})
	}
	model, err := models.FromPretrained(context.Background(), filepath.Join("..", "models", "testdata", "bnb_none"), models.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer model.Close()
	if err := run(model); err != nil {
		fmt.Println(err)
	}
	// Output: [default other] [other]
}
