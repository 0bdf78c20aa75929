package models

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/reference"
)

func TestCompiledProgramsComeFromTheirFolder(t *testing.T) {
	ref := reference.LoadLlama(t, "llama_a")
	reference.OnBackends(t, func(t *testing.T, spec string) {
		dir := filepath.Join(t.TempDir(), "programs")
		count := func() int {
			files, _ := filepath.Glob(filepath.Join(dir, "*"))
			return len(files)
		}
		run := func() (loaded, compiled, files int) {
			m := mustLoad(t, ref.Dir, Options{Backend: spec, DType: Float32, ProgramCache: dir})
			loaded0, compiled0, _ := m.run.Device.CachedPrograms()
			files0 := count() // opening a device tries its kernels, which are programs too
			logits, err := m.Logits(context.Background(), ref.InputIDs[0], ref.AttentionMask[0])
			if err != nil {
				t.Fatal(err)
			}
			ref.CheckLogits(t, "base.logits", logits, 1e-5)
			loaded, compiled, err = m.run.Device.CachedPrograms()
			if err != nil {
				t.Error(err)
			}
			return loaded - loaded0, compiled - compiled0, count() - files0
		}
		_, first, files := run()
		loaded, second, more := run()
		if spec == "" {
			if count() != 0 || first+second+loaded != 0 {
				t.Errorf("the Go backend compiled %d programs, %d files are there", first+second, count())
			}
			return
		}
		if first == 0 || files != first || loaded != first || second != 0 || more != 0 {
			t.Errorf("compiled %d programs to %d files, then %d to %d with %d loaded", first, files, second, more, loaded)
		}
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		if _, err := FromPretrained(context.Background(), ref.Dir, Options{Backend: spec, ProgramCache: dir}); err == nil || !strings.Contains(err.Error(), "Options.ProgramCache") {
			t.Errorf("a folder that everyone can write to: error %v", err)
		}
		d, err := backend.Open(spec)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := d.CachePrograms(file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("a file in place of a folder: error %v", err)
		}
	})
}

func TestMaxDeviceMemoryBoundsWhatIsCountedAsFree(t *testing.T) {
	dir := reference.Dir("llama_a")
	all, ok := mustLoad(t, dir, Options{}).run.Device.FreeMemory()
	if !ok {
		t.Skip("this system does not tell")
	}
	for limit, most := range map[int64]int64{1: 0, 1 << 50: all + all/2} {
		got, ok := mustLoad(t, dir, Options{MaxDeviceMemory: limit}).run.Device.FreeMemory()
		if !ok || got > most || limit > 1 && got == 0 {
			t.Errorf("with a limit of %d bytes, %d are free (%v), want at most %d", limit, got, ok, most)
		}
	}
	if _, err := FromPretrained(context.Background(), dir, Options{MaxDeviceMemory: -1}); err == nil || !strings.Contains(err.Error(), "MaxDeviceMemory") {
		t.Errorf("a negative limit: error %v", err)
	}
}

func TestTheLogTellsWhereKernelsAreNotUsed(t *testing.T) {
	reference.OnBackends(t, func(t *testing.T, spec string) {
		var log bytes.Buffer
		mustLoad(t, reference.Dir("llama_a"), Options{Backend: spec, DType: Float32, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if n := strings.Count(log.String(), "without Loris's kernels"); n != 1 {
			t.Errorf("said %d times:\n%s", n, &log)
		}
	})
}

func TestEveryRouteOfAttentionGivesTheReferencesLogits(t *testing.T) {
	ref := reference.LoadLlama(t, "llama_a")
	reference.OnBackends(t, func(t *testing.T, spec string) {
		for _, route := range []attention.Route{attention.RouteTiled, attention.RouteDense} {
			m := mustLoad(t, ref.Dir, Options{Backend: spec, DType: Float32, Attention: route})
			logits, err := m.Logits(context.Background(), ref.InputIDs[0], ref.AttentionMask[0])
			if err != nil {
				t.Fatal(err)
			}
			ref.CheckLogits(t, "base.logits", logits, 1e-5)
		}
	})
}
