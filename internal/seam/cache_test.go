//go:build cgo

package seam

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gomlx/compute"
	"github.com/gomlx/gomlx/core/graph"
)

// cachedProgram compiles a program that takes a while, runs it, and returns its result.
func cachedProgram(t testing.TB, b compute.Backend) float32 {
	return call(t, b, func(in []*Node) []*Node {
		Configure(in[0].Graph(), &Program{Donate: []int{0}, Options: map[string]string{"xla_backend_optimization_level": "2", "xla_cpu_enable_fast_math": "false"}})
		x := in[0]
		for range 30 {
			x = graph.Sin(axpb("", x, graph.MatMul(x, graph.Cos(x))))
		}
		return []*Node{graph.ReduceAllSum(x)}
	}, [][]float32{{1, 2}, {3, 4}})[0].Value().(float32)
}

// TestCacheInAProcess is what TestCompiledProgramsAreReused runs in processes of its own.
func TestCacheInAProcess(t *testing.T) {
	dir := os.Getenv("LORIS_TEST_CACHE")
	if dir == "" {
		t.Skip("runs in a process of its own")
	}
	p, b := cpu(t)
	p.SetCacheDir(dir)
	start := time.Now()
	value := cachedProgram(t, b)
	s := p.CacheStats()
	fmt.Printf("result %x, %d loaded, %d compiled, error: %v\ntook %v\n", value, s.Loaded, s.Compiled, s.Err, time.Since(start))
}

func TestCompiledProgramsAreReused(t *testing.T) {
	p, b := cpu(t)
	want := fmt.Sprintf("result %x, ", cachedProgram(t, b))
	dir := filepath.Join(t.TempDir(), "made/when/needed")
	process := func() string {
		t.Helper()
		test := exec.Command(os.Args[0], "-test.run=^TestCacheInAProcess$")
		test.Env = append(os.Environ(), "LORIS_TEST_CACHE="+dir, pluginPaths+"="+filepath.Dir(p.Path()))
		out, err := test.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", regexp.MustCompile("(?m)^took.*").Find(out))
		line, _, _ := strings.Cut(string(out), "\n")
		rest, ok := strings.CutPrefix(line, want)
		if !ok {
			t.Fatalf("got %s, want it to begin with %s", out, want)
		}
		return rest
	}
	const compiled, loaded = "0 loaded, 1 compiled, error: <nil>", "1 loaded, 0 compiled, error: <nil>"
	for i, want := range []string{compiled, loaded, loaded} {
		if got := process(); got != want {
			t.Fatalf("process %d: %s, want %s", i, got, want)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files %v, error %v", files, err)
	}
	good, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	flipped := slices.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, bad := range map[string][]byte{"truncated": good[:len(good)/2], "empty": {}, "flipped": flipped, "other version": append([]byte("X"), good[1:]...)} {
		if err := os.WriteFile(files[0], bad, 0o666); err != nil {
			t.Fatal(err)
		}
		if got := process(); !strings.HasPrefix(got, "0 loaded, 1 compiled, error: "+files[0]+": ") {
			t.Errorf("%s file: %s", name, got)
		}
		if now, err := os.ReadFile(files[0]); err != nil || slices.Equal(now, bad) || process() != loaded {
			t.Errorf("%s file: not rewritten (error %v)", name, err)
		}
	}
	stale := &cache{dir: dir} // a valid file with something else in it
	stale.write(strings.TrimSuffix(filepath.Base(files[0]), ".pjrt"), []byte("no executable"))
	if got := process(); !strings.HasPrefix(got, "0 loaded, 1 compiled, error: ") || strings.Contains(got, "<nil>") {
		t.Errorf("stale executable: %s", got)
	}
	if got := process(); got != loaded {
		t.Errorf("after a stale executable: %s", got)
	}
}

func TestCacheThatCannotBeWrittenOnlySaysSo(t *testing.T) {
	p, b := cpu(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	p.SetCacheDir(file)
	before := p.CacheStats()
	cachedProgram(t, b)
	if s := p.CacheStats(); s.Err == nil || !strings.Contains(s.Err.Error(), file) || s.Compiled != before.Compiled {
		t.Errorf("got %+v", s)
	}
}

func TestFlagsAreThoseOfTheFileThatIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "flags")
	if err := os.WriteFile(file, []byte("--xla_cpu_enable_fast_math=false"), 0o666); err != nil {
		t.Fatal(err)
	}
	for set, want := range map[string]string{"": "", "--xla_dump_to=/nowhere": "--xla_dump_to=/nowhere", "/nowhere/flags": "/nowhere/flags", file: file + "\n--xla_cpu_enable_fast_math=false"} {
		t.Setenv("XLA_FLAGS", set)
		if got := flags(); got != want {
			t.Errorf("XLA_FLAGS=%q: %q, want %q", set, got, want)
		}
	}
}
