package safetensors

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestOpenDirReadsShardsOfTransformers(t *testing.T) {
	s, err := OpenDir("testdata/sharded")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n := len(s.Names()); n != 21 {
		t.Errorf("%d tensors, want 21", n)
	}
	if !maps.Equal(s.Metadata(), map[string]string{"format": "pt"}) {
		t.Errorf("metadata %v", s.Metadata())
	}
	elements := 0
	for _, name := range s.Names() {
		info, ok := s.Info(name)
		values, err := s.Float32(name)
		if !ok || err != nil || len(values) != info.Elements() {
			t.Errorf("%s: %d values of %v (%v)", name, len(values), info.Shape, err)
		}
		elements += len(values)
	}
	if elements != 5520 { // total_parameters in the index
		t.Errorf("%d elements, want 5520", elements)
	}
	first, _ := s.Info("model.embed_tokens.weight")
	last, _ := s.Info("lm_head.weight")
	if filepath.Base(first.Path) != "model-00001-of-00003.safetensors" || filepath.Base(last.Path) != "model-00003-of-00003.safetensors" {
		t.Errorf("embedding in %s, head in %s", first.Path, last.Path)
	}
	if _, err := s.Read("no"); err == nil || !strings.Contains(err.Error(), `testdata/sharded has no tensor "no"`) {
		t.Errorf("error %v", err)
	}
}

func u8(name string, data ...byte) Tensor { return Tensor{name, "U8", []int{len(data)}, data} }

func put(t *testing.T, dir, name string, tensors ...Tensor) {
	t.Helper()
	if err := Write(filepath.Join(dir, name), tensors, nil); err != nil {
		t.Fatal(err)
	}
}

func putText(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

func TestOpenDirPrefersTheSingleFile(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, SingleName, u8("a", 1))
	putText(t, dir, IndexName, `{"weight_map":{"b":"missing.safetensors"}}`)
	s, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !slices.Equal(s.Names(), []string{"a"}) {
		t.Errorf("names %q", s.Names())
	}
}

func TestTheIndexDecidesBetweenShards(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "1.safetensors", u8("a", 1), u8("both", 1))
	put(t, dir, "2.safetensors", u8("both", 2), u8("unlisted", 2))
	putText(t, dir, IndexName, `{"metadata":{"total_size":4},"weight_map":{"a":"1.safetensors","both":"2.safetensors"}}`)
	s, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !slices.Equal(s.Names(), []string{"a", "both", "unlisted"}) {
		t.Errorf("names %q", s.Names())
	}
	if raw, err := s.Read("both"); err != nil || raw[0] != 2 {
		t.Errorf("both is %v (%v), want that of 2.safetensors", raw, err)
	}
}

func TestIncompleteFoldersAreErrorsThatSayWhatIsMissing(t *testing.T) {
	cases := []struct {
		name string
		fill func(dir string)
		says []string
	}{
		{"empty folder", func(string) {}, []string{"neither model.safetensors nor model.safetensors.index.json", "download"}},
		{"PyTorch folder", func(dir string) { putText(t, dir, "pytorch_model-00001-of-00002.bin", "") }, []string{"pytorch_model-00001-of-00002.bin", "convert"}},
		{"shards missing", func(dir string) {
			put(t, dir, "1.safetensors", u8("a", 1))
			putText(t, dir, IndexName, `{"weight_map":{"a":"1.safetensors","b":"2.safetensors","c":"3.safetensors"}}`)
		}, []string{"2 of the 3 shards", "2.safetensors, 3.safetensors", "download"}},
		{"tensor missing", func(dir string) {
			put(t, dir, "1.safetensors", u8("a", 1))
			putText(t, dir, IndexName, `{"weight_map":{"a":"1.safetensors","b":"1.safetensors"}}`)
		}, []string{`"b"`, "1.safetensors", "different saves"}},
		{"tensor twice", func(dir string) {
			put(t, dir, "1.safetensors", u8("a", 1), u8("x", 1))
			put(t, dir, "2.safetensors", u8("b", 1), u8("x", 1))
			putText(t, dir, IndexName, `{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}`)
		}, []string{`"x" is in 1.safetensors and in 2.safetensors`}},
		{"damaged shard", func(dir string) {
			put(t, dir, "1.safetensors", u8("a", 1))
			putText(t, dir, "2.safetensors", "cut")
			putText(t, dir, IndexName, `{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}`)
		}, []string{"2.safetensors", "3 bytes"}},
		{"shard outside", func(dir string) { putText(t, dir, IndexName, `{"weight_map":{"a":"../1.safetensors"}}`) }, []string{`"../1.safetensors"`, "inside the folder"}},
		{"shard is the folder", func(dir string) { putText(t, dir, IndexName, `{"weight_map":{"a":"."}}`) }, []string{`"."`}},
		{"no weight_map", func(dir string) { putText(t, dir, IndexName, `{"metadata":{}}`) }, []string{"weight_map is missing"}},
		{"weight_map of lists", func(dir string) { putText(t, dir, IndexName, `{"weight_map":{"a":["1"]}}`) }, []string{"weight_map", "/a"}},
		{"name twice", func(dir string) { putText(t, dir, IndexName, `{"weight_map":{"a":"1","a":"2"}}`) }, []string{"duplicate", `"a"`}},
		{"no JSON", func(dir string) { putText(t, dir, IndexName, `weights`) }, []string{"JSON object"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.fill(dir)
			_, err := OpenDir(dir)
			if err == nil {
				t.Fatal("no error")
			}
			for _, s := range append(c.says, dir) {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("error %q does not say %q", err, s)
				}
			}
		})
	}
	missing := filepath.Join(t.TempDir(), "no")
	if _, err := OpenDir(missing); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("error %v does not name %s", err, missing)
	}
	if _, err := OpenDir("testdata/no_metadata.safetensors"); err == nil || !strings.Contains(err.Error(), "it is a file; give the folder") {
		t.Errorf("error %v", err)
	}
}
