package seam

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/gobackend"
)

// cpu opens the XLA CPU plugin through the seam, and makes a backend of it.
func cpu(t testing.TB) (*Client, compute.Backend) {
	t.Helper()
	if os.Getenv(pluginPaths) == "" {
		dir, err := filepath.Abs("../../.cache/xla")
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv(pluginPaths, dir)
	}
	if _, err := Find("cpu"); err != nil {
		t.Skipf("no XLA CPU plugin; scripts/fetch-xla-cpu.sh fetches one: %v", err)
	}
	p, err := Open("cpu", "")
	if err != nil {
		if strings.Contains(err.Error(), "without cgo") {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	b, err := p.NewBackend("")
	if err != nil {
		t.Fatal(err)
	}
	c, ok := Of(b)
	if !ok {
		t.Fatal("the backend has no client")
	}
	t.Cleanup(func() {
		if err := c.SetDepth(0); err != nil {
			t.Errorf("left behind: %v", err)
		}
		p.SetCacheDir("")
		b.Finalize()
	})
	return c, b
}

func TestSelfTestPassesOnXLA(t *testing.T) {
	p, b := cpu(t)
	for _, depth := range []int{0, 7} {
		if err := p.SetDepth(depth); err != nil {
			t.Fatal(err)
		}
		if err := SelfTest(b); err != nil {
			t.Fatal(err)
		}
		if p.Depth() != depth {
			t.Errorf("depth is %d after the self-test, want %d", p.Depth(), depth)
		}
	}
}

func TestBackendsOpenedOtherwiseHaveNoSeam(t *testing.T) {
	b, err := gobackend.New("ops_sequential")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Finalize()
	if Available(b) {
		t.Error("the Go backend has a seam")
	}
	if err := SelfTest(b); err == nil || !strings.Contains(err.Error(), "not opened through the seam") {
		t.Errorf("got error %v", err)
	}
}
