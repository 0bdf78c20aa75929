package peft

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/safetensors"
	"github.com/loris-ml/loris/models"
)

// mixedFixture is what PEFT computes with adapter_names.
type mixedFixture struct {
	IDs       [][]int  `json:"ids"`
	Names     []string `json:"names"`
	Generated [][]int  `json:"generated"`
}

func readMixed(t *testing.T) (f mixedFixture, logits []float32) {
	t.Helper()
	raw, err := os.ReadFile(combinedDir("mixed.json"))
	if err == nil {
		err = json.Unmarshal(raw, &f)
	}
	if err != nil {
		t.Fatal(err)
	}
	file, err := safetensors.Open(combinedDir("mixed.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if logits, err = file.Float32("logits"); err != nil {
		t.Fatal(err)
	}
	return f, logits
}

func TestEachRowOfABatchSeesItsOwnAdapters(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, backend string) {
		ctx := context.Background()
		f, want := readMixed(t)
		m := llamaBase(t, backend)
		p := three(t, m)
		x, err := p.ForRows(f.Names...)
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		rows := func(x *Mixed) (all []float32) {
			t.Helper()
			logits, err := x.Logits(ctx, f.IDs, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range logits {
				all = append(all, flat(row)...)
			}
			return all
		}
		reference.CheckClose(t, "logits", rows(x), want, 2e-5)
		var prompts [][]int
		for _, row := range f.IDs {
			prompts = append(prompts, row[:4])
		}
		got, err := x.GenerateBatchIDs(ctx, prompts, models.GenerationConfig{MaxNewTokens: 6})
		if err != nil || fmt.Sprint(got) != fmt.Sprint(f.Generated) {
			t.Errorf("generated %v, %v; PEFT has %v", got, err, f.Generated)
		}
		compiled := m.CompiledPrograms()
		other := slices.Clone(f.Names)
		slices.Reverse(other)
		y, err := p.ForRows(other...)
		if err != nil {
			t.Fatal(err)
		}
		defer y.Close()
		if slices.Equal(rows(y), rows(x)) {
			t.Error("other names change nothing")
		}
		if n := m.CompiledPrograms() - compiled; n != 0 {
			t.Errorf("%d programs were compiled for other names", n)
		}
	})
}

func TestMixedBatchesFollowTheirAdapters(t *testing.T) {
	ctx := context.Background()
	p := three(t, llamaBase(t, ""))
	alone := func(name string) [][]float64 {
		t.Helper()
		if err := p.SetAdapter(name); err != nil {
			t.Fatal(err)
		}
		v, err := p.LogProbs(ctx, someIDs)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	mixed := func() [][]float64 {
		t.Helper()
		x, err := p.ForRows("b", "a")
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		v, err := x.LogProbs(ctx, someIDs)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	narrow := func(v []float64) (all []float32) {
		for _, x := range v {
			all = append(all, float32(x))
		}
		return all
	}
	check := func() {
		t.Helper()
		got := mixed()
		reference.CheckClose(t, "row 0", narrow(got[0]), narrow(alone("b")[0]), 1e-5)
		reference.CheckClose(t, "row 1", narrow(got[1]), narrow(alone("a")[1]), 1e-5)
	}
	check()
	if err := p.SetAdapter("a"); err != nil {
		t.Fatal(err)
	}
	c := readTuner(t, "orthogonal")
	gradients(t, p, c.batch()) // a step that changes a
	check()
	if err := p.DeleteAdapter("c"); err != nil {
		t.Fatal(err)
	}
	check()
	if err := p.PrepareHotswap(7); err != nil {
		t.Fatal(err)
	}
	check()
}

func TestWrongMixturesAreRefused(t *testing.T) {
	p := three(t, llamaBase(t, ""))
	wrong := func(want string, names ...string) {
		t.Helper()
		if _, err := p.ForRows(names...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	wrong("name the adapters of each row")
	wrong(`row 1: there are no adapters "z"`, "a", "z")
	x, err := p.ForRows("a")
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if _, err := x.Logits(context.Background(), someIDs, nil); err == nil || !strings.Contains(err.Error(), "has 2 rows, adapters were named for 1") {
		t.Errorf("error %v", err)
	}
	if err := p.AddAdapter("dora", LoraConfig{UseDora: true}); err != nil {
		t.Fatal(err)
	}
	wrong(`use_dora true: adapter "dora" cannot be one row's among others`, "a", "b")
	if err := p.DeleteAdapter("dora"); err != nil {
		t.Fatal(err)
	}
	if err := p.MergeAdapter(false); err != nil {
		t.Fatal(err)
	}
	wrong("are merged into the base", "a")
}

func ExamplePeftModel_ForRows() {
	run := func(model *models.CausalLM) error {
		p, err := FromPretrained(model, combinedDir("a"))
		if err != nil {
			return err
		}
		defer p.Close()
		if err := p.LoadAdapter("other", combinedDir("b")); err != nil {
			return err
		}
		rows, err := p.ForRows(DefaultAdapter, "other", BaseAdapter)
		if err != nil {
			return err
		}
		defer rows.Close()
		logits, err := rows.Logits(context.Background(), [][]int{{1, 2}, {1, 2}, {1, 2}}, nil)
		fmt.Println(len(logits))
		return err
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
	// Output: 3
}
