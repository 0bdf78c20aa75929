package models

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMergeIsRefusedWhereItsLogitsAreOthers(t *testing.T) {
	eachFamily(t, "x", []string{"qwen3_yarn"}, func(t *testing.T, f *family) {
		m, loras := mustLoad(t, f.dir, Options{DType: Float32}), f.loras(t)
		for i := range loras {
			loras[i].Scaling = 1.5
		}
		s, err := m.newSaver(SaveOptions{Merge: loras})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.checkLogits(loras); err != nil {
			t.Errorf("the merge is right, but: %v", err)
		}
		wrong := s.merge[loras[3].Path]
		wrong.Scaling *= 1.2
		s.merge[loras[3].Path] = wrong
		var refused *MergeError
		if err := s.checkLogits(loras); !errors.As(err, &refused) || !(refused.Difference > 1e-3 && refused.Difference < 1) {
			t.Errorf("a merge with another scaling: error %v", err)
		}

		loras[0].A[1] = float32(math.NaN())
		to := filepath.Join(t.TempDir(), "merged")
		for name, save := range map[string]func() error{
			"folder": func() error { return m.SaveWith(to, SaveOptions{Merge: loras}) },
			"GGUF":   func() error { return m.SaveGGUF(to, GGUFOptions{Merge: loras}) },
		} {
			if err := save(); !errors.As(err, &refused) || !strings.Contains(err.Error(), "NaN") {
				t.Errorf("%s with NaN in an adapter: error %v", name, err)
			}
			if _, err := os.Stat(to); err == nil {
				t.Errorf("%s: something was written", name)
			}
		}
	})
}

func TestMergesOfEveryFormatPassTheCheckAndKeepTheFormat(t *testing.T) {
	eachFamily(t, "x", farApart, func(t *testing.T, f *family) {
		for _, format := range []DType{Float32, Float16, BFloat16} {
			m, loras, dir := mustLoad(t, f.dir, Options{DType: format}), f.loras(t), t.TempDir()
			if err := m.SaveWith(dir, SaveOptions{Merge: loras}); err != nil {
				t.Errorf("%s: %v", format, err)
				continue
			}
			raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
			if err != nil || !strings.Contains(string(raw), `"torch_dtype": "`+string(format)+`"`) {
				t.Errorf("%s was saved in another format (%v): %s", format, err, raw)
			}
		}
	})
}
