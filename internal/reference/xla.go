package reference

import (
	"os"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/seam"
)

// OnXLA runs the test on each XLA backend that LORIS_TEST_BACKENDS lists, with up to depth executions in flight, and
// skips it where there is none.
func OnXLA(t *testing.T, depth int, test func(t *testing.T, backend string, p *seam.Plugin)) {
	tested := false
	for _, b := range strings.Fields(os.Getenv("LORIS_TEST_BACKENDS")) {
		name, isXLA := strings.CutPrefix(b, "xla:")
		name, _, _ = strings.Cut(name, ",")
		if !isXLA || strings.Contains(name, "/") { // a path: nobody but the backend knows the plugin's name
			continue
		}
		tested = true
		t.Run(b, func(t *testing.T) {
			p, err := seam.Open(name, "")
			if err != nil {
				t.Fatal(err)
			}
			AtDepth(t, p, depth)
			test(t, b, p)
		})
	}
	if !tested {
		t.Skip("LORIS_TEST_BACKENDS lists no XLA backend by name")
	}
}

// AtDepth lets executions of a plugin's backends, those to come too, be in flight for the time of a test. Backends that are still open
// behind it have the depth of those to come.
func AtDepth(t *testing.T, p *seam.Plugin, depth int) {
	t.Helper()
	before := p.Depth()
	if err := p.SetDepth(depth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.SetDepth(before); err != nil {
			t.Errorf("left behind: %v", err)
		}
	})
}
