package layerwise_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/seam"
)

// TestMain lets the tests share compiled programs, which on XLA take most of the time.
func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "loris-programs-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	for _, b := range strings.Fields(os.Getenv("LORIS_TEST_BACKENDS")) {
		name, isXLA := strings.CutPrefix(b, "xla:")
		if !isXLA {
			continue
		}
		if p, err := seam.Open(name, ""); err == nil { // else the tests say what is wrong
			p.SetCacheDir(dir)
		}
	}
	return m.Run()
}
