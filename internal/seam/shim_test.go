package seam

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The hooks are C and are called from any thread; testdata/shim_test.c drives them against a plugin that counts.
func TestHooksUnderSanitizers(t *testing.T) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler")
	}
	for _, sanitizer := range []string{"address,undefined", "thread"} {
		t.Run(sanitizer, func(t *testing.T) {
			dir := t.TempDir()
			build := func(flags ...string) ([]byte, error) {
				args := append([]string{"-std=gnu17", "-g", "-O1", "-I.", "-Itestdata/stub", "-o", filepath.Join(dir, "shim")}, flags...)
				return exec.Command(cc, append(args, "testdata/shim_test.c", "-ldl", "-lpthread")...).CombinedOutput()
			}
			if _, err := build("-fsanitize=" + sanitizer); err != nil {
				t.Logf("the compiler has no such sanitizer: %v", err)
				if out, err := build(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			run := exec.Command(filepath.Join(dir, "shim"))
			run.Env = append(os.Environ(), "TSAN_OPTIONS=halt_on_error=1", "UBSAN_OPTIONS=halt_on_error=1")
			out, err := run.CombinedOutput()
			if err != nil && strings.Contains(string(out), "FATAL: ThreadSanitizer") {
				t.Skipf("ThreadSanitizer does not run here: %s", out)
			}
			if err != nil || string(out) != "ok\n" {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
