package backend

import (
	"os"
	"path/filepath"
	"testing"
)

func TestContainersLimitIsWhatIsLeftOfIt(t *testing.T) {
	for name, c := range map[string]struct {
		files   map[string]string
		want    int64
		limited bool
	}{
		"version 2": {map[string]string{
			"memory.max": "1000\n", "memory.current": "700\n", "memory.stat": "anon 500\ninactive_file 150\nactive_file 20\n",
		}, 450, true},
		"version 2, no limit": {map[string]string{"memory.max": "max\n", "memory.current": "700\n"}, 0, false},
		"version 1": {map[string]string{
			"memory/memory.limit_in_bytes": "1000\n", "memory/memory.usage_in_bytes": "900\n", "memory/memory.stat": "total_inactive_file 25\n",
		}, 125, true},
		"more in use than allowed": {map[string]string{"memory.max": "1000\n", "memory.current": "1100\n"}, 0, true},
		"no control groups":        {nil, 0, false},
	} {
		root := t.TempDir()
		for path, text := range c.files {
			path = filepath.Join(root, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, limited := groupMemory(root); got != c.want || limited != c.limited {
			t.Errorf("%s: %d bytes, limited %v; want %d, %v", name, got, limited, c.want, c.limited)
		}
	}
}
