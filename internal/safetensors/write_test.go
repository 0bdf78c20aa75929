package safetensors

import (
	"bytes"
	"encoding/json/v2"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// contents reads all tensors of a file, in random order.
func contents(t *testing.T, f *File) []Tensor {
	t.Helper()
	var tensors []Tensor
	for _, name := range f.Names() {
		info, _ := f.Info(name)
		raw, err := f.Read(name)
		if err != nil {
			t.Fatal(err)
		}
		tensors = append(tensors, Tensor{name, info.DType, info.Shape, raw})
	}
	rng := rand.New(rand.NewPCG(3, 4))
	rng.Shuffle(len(tensors), func(i, j int) { tensors[i], tensors[j] = tensors[j], tensors[i] })
	return tensors
}

func TestWriteGivesThePythonLibrarysBytes(t *testing.T) {
	for _, name := range []string{"dtypes.safetensors", "no_metadata.safetensors", "no_tensors.safetensors", "roundings.safetensors", "sharded/model-00001-of-00003.safetensors"} {
		f := openFixture(t, name)
		path := filepath.Join(t.TempDir(), "m.safetensors")
		if err := Write(path, contents(t, f), f.Metadata()); err != nil {
			t.Fatal(err)
		}
		sameFiles(t, path, f.Path())
	}
}

func TestWriteShardedGivesTransformersBytes(t *testing.T) {
	s, err := OpenDir("testdata/sharded")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	dir := filepath.Join(t.TempDir(), "new", "model")
	if err := WriteSharded(dir, sources(t, s), 8000, map[string]string{"format": "pt"}); err != nil {
		t.Fatal(err)
	}
	wantFiles(t, dir, "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors", IndexName)
	for _, e := range list(t, dir) {
		sameFiles(t, filepath.Join(dir, e), filepath.Join("testdata/sharded", e))
	}
}

// sources streams all tensors of the sharded fixture in the order of the model's state dict.
func sources(t *testing.T, s *Set) []Source {
	t.Helper()
	text, err := os.ReadFile("testdata/sharded/order.json")
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	if err := json.Unmarshal(text, &order); err != nil {
		t.Fatal(err)
	}
	var tensors []Source
	for _, name := range order {
		info, ok := s.Info(name)
		if !ok {
			t.Fatalf("the fixture lacks %s", name)
		}
		tensors = append(tensors, Source{name, info.DType, info.Shape, func() ([]byte, error) { return s.Read(name) }})
	}
	return tensors
}

func TestSplitFollowsTheHubLibrary(t *testing.T) {
	// Sizes and limit of its doc string, and a tensor above the limit, which comes before the shard that is being filled.
	cases := []struct {
		sizes []int64
		want  [][]int64
	}{
		{[]int64{6, 6, 2, 6, 2, 2}, [][]int64{{6}, {6, 2}, {6, 2, 2}}},
		{[]int64{3, 11, 4}, [][]int64{{11}, {3, 4}}},
		{[]int64{10, 10}, [][]int64{{10}, {10}}},
		{[]int64{0, 10, 0}, [][]int64{{0, 10, 0}}},
		{nil, nil},
	}
	for _, c := range cases {
		var parts []part
		for _, size := range c.sizes {
			parts = append(parts, part{size: size})
		}
		var got [][]int64
		for _, shard := range splitShards(parts, 10) {
			var sizes []int64
			for _, p := range shard {
				sizes = append(sizes, p.size)
			}
			got = append(got, sizes)
		}
		if !equalNested(got, c.want) {
			t.Errorf("%v was split into %v, want %v", c.sizes, got, c.want)
		}
	}
}

func equalNested(a, b [][]int64) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}

func TestASecondSaveReplacesTheFirst(t *testing.T) {
	dir := t.TempDir()
	tensor := func(value byte) []Source {
		data := func() ([]byte, error) { return []byte{value, value}, nil }
		return []Source{{"a", "U8", []int{2}, data}, {"b", "U8", []int{2}, data}, {"c", "U8", []int{2}, data}}
	}
	putText(t, dir, "config.json", "{}")
	putText(t, dir, "model-extra.safetensors", "not a shard")
	others := []string{"config.json", "model-extra.safetensors"}
	steps := []struct {
		limit int64
		files []string
	}{
		{2, []string{"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors", IndexName}},
		{4, []string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", IndexName}},
		{4, []string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", IndexName}},
		{0, []string{SingleName}},
		{6, []string{SingleName}},
		{5, []string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", IndexName}},
	}
	for i, step := range steps {
		if err := WriteSharded(dir, tensor(byte(i)), step.limit, nil); err != nil {
			t.Fatal(err)
		}
		wantFiles(t, dir, append(step.files, others...)...)
		s, err := OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "b", "c"} {
			if raw, err := s.Read(name); err != nil || raw[0] != byte(i) {
				t.Errorf("save %d: %s is %v (%v)", i, name, raw, err)
			}
		}
		s.Close()
	}
}

func TestAFailedSaveLeavesTheFirst(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, SingleName, u8("a", 7))
	broken := errors.New("device lost")
	good := func() ([]byte, error) { return []byte{1}, nil }
	bad := func() ([]byte, error) { return nil, broken }
	for _, limit := range []int64{1, 0} {
		err := WriteSharded(dir, []Source{{"a", "U8", []int{1}, good}, {"b", "U8", []int{1}, bad}}, limit, nil)
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), `tensor "b"`) || !strings.Contains(err.Error(), dir) {
			t.Errorf("limit %d: error %v", limit, err)
		}
		wantFiles(t, dir, SingleName)
		f, err := Open(filepath.Join(dir, SingleName))
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := f.Read("a"); err != nil || raw[0] != 7 {
			t.Errorf("a is %v (%v)", raw, err)
		}
		f.Close()
	}
}

func TestWrongTensorsAreNotWritten(t *testing.T) {
	cases := []struct {
		name    string
		tensors []Tensor
		meta    map[string]string
		says    string
	}{
		{"too little data", []Tensor{{"w", "F32", []int{2, 2}, make([]byte, 15)}}, nil, `"w": 15 bytes of data, but shape [2 2] of F32 takes 16`},
		{"unknown dtype", []Tensor{{"w", "FP32", []int{1}, make([]byte, 4)}}, nil, `"w": dtype "FP32" is unknown`},
		{"negative dimension", []Tensor{{"w", "U8", []int{-1}, nil}}, nil, `"w": shape [-1]`},
		{"name twice", []Tensor{u8("w", 1), u8("w", 2)}, nil, `"w" is there twice`},
		{"reserved name", []Tensor{u8("__metadata__", 1)}, nil, `"__metadata__" is reserved`},
		{"name not UTF-8", []Tensor{u8("\xff", 1)}, nil, `UTF-8`},
		{"metadata not UTF-8", nil, map[string]string{"k": "\xff"}, `metadata value of "k"`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "m.safetensors")
			err := Write(path, c.tensors, c.meta)
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, want %q and the path in it", err, c.says)
			}
			wantFiles(t, dir)
		})
	}
	if err := WriteSharded(t.TempDir(), nil, -1, nil); err == nil {
		t.Error("shards of -1 bytes were written")
	}
	if err := WriteSharded(t.TempDir(), []Source{{Name: "w", DType: "X"}}, 0, nil); err == nil {
		t.Error("an unknown dtype was written")
	}
	if err := WriteSharded("testdata/no_metadata.safetensors", nil, 0, nil); err == nil || !strings.Contains(err.Error(), "testdata/no_metadata.safetensors") {
		t.Errorf("error %v", err)
	}
}

func sameFiles(t *testing.T, got, want string) {
	t.Helper()
	a, err := os.ReadFile(got)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Errorf("%d bytes differ from the %d of %s; the files start with\n%q\n%q", len(a), len(b), want, a[:min(len(a), 300)], b[:min(len(b), 300)])
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func wantFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	got := map[string]bool{}
	for _, name := range list(t, dir) {
		got[name] = true
	}
	for _, name := range want {
		if !got[name] {
			t.Errorf("%s is missing", name)
		}
		delete(got, name)
	}
	for name := range got {
		t.Errorf("%s is left over", name)
	}
}
