package atomicfile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLeftoversAreRemovedOrMovedBack(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{
		"checkpoint-2", ".checkpoint-2.tmp-0123456789abcdef", ".checkpoint-2.old-0123456789abcdef", // killed after the new one came
		".checkpoint-4.old-0123456789abcdef", ".checkpoint-4.tmp-0123456789abcdef", // killed between the two renames
		".model.tmp-0123456789abcdef", ".checkpoint-2.tmp-1", ".checkpoint-2", "notes", // not mine, or not ours
	} {
		if err := os.MkdirAll(filepath.Join(dir, name, "sub"), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "name"), []byte(name), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := RemoveLeftovers(dir, func(base string) bool { return strings.HasPrefix(base, "checkpoint-") }); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{".checkpoint-2", ".checkpoint-2.tmp-1", ".model.tmp-0123456789abcdef", "checkpoint-2", "checkpoint-4", "notes"}; !slices.Equal(names, want) {
		t.Errorf("left are %q, want %q", names, want)
	}
	if from, err := os.ReadFile(filepath.Join(dir, "checkpoint-4", "name")); err != nil || string(from) != ".checkpoint-4.old-0123456789abcdef" {
		t.Errorf("checkpoint-4 is %q, error %v", from, err)
	}
	if err := RemoveLeftovers(filepath.Join(dir, "nowhere"), nil); err == nil {
		t.Error("a folder that is not there has leftovers")
	}
}
