package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/loris-ml/loris/internal/fileerror"
	"github.com/loris-ml/loris/internal/safetensors/floats"
)

// file returns the bytes of a file with this header text and n bytes of data.
func file(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, n)...)
}

func openBytes(b []byte) (*File, error) {
	return parse("x.safetensors", bytes.NewReader(b), int64(len(b)))
}

func TestOpenReadsEveryDTypeOfTorch(t *testing.T) {
	f := openFixture(t, "dtypes.safetensors")
	if got := f.Metadata(); len(got) != 1 || got["format"] != "pt" {
		t.Errorf("metadata %v", got)
	}
	want := map[string]struct {
		dtype string
		shape []int
		size  int64
	}{
		"z.weight": {"F32", []int{3, 5}, 60}, "model.layers.2.w": {"BF16", []int{3, 1, 1}, 6}, "half": {"F16", []int{5}, 10},
		"double": {"F64", []int{2}, 16}, "complex": {"C64", []int{2}, 16}, "i64": {"I64", []int{3}, 24}, "u16": {"U16", []int{3}, 6},
		"u8": {"U8", []int{5, 1}, 5}, "bool": {"BOOL", []int{3}, 3}, "f8_e4m3": {"F8_E4M3", []int{3}, 3}, "f8_e8m0": {"F8_E8M0", []int{3}, 3},
		"scalar": {"F32", []int{}, 4}, "empty.a": {"F32", []int{3, 0}, 0}, "": {"F32", []int{1}, 4},
		"control\x01\x1f\b\f\n\r\t\x7f": {"F32", []int{1}, 4}, "ünïcode ▁😀 \u2028 <&>": {"F32", []int{1}, 4},
	}
	for name, w := range want {
		info, ok := f.Info(name)
		if !ok || info.DType != w.dtype || !slices.Equal(info.Shape, w.shape) || info.Size != w.size || info.Name != name || info.Path != f.Path() {
			t.Errorf("%q: %+v (%v), want %+v", name, info, ok, w)
		}
		raw, err := f.Read(name)
		if err != nil || int64(len(raw)) != w.size {
			t.Errorf("%q: %d bytes (%v), want %d", name, len(raw), err, w.size)
		}
	}
	if len(f.Names()) != 28 {
		t.Errorf("%d tensors, want 28", len(f.Names()))
	}
	values, err := f.Float32("scalar")
	if err != nil || len(values) != 1 || values[0] != 1.5 {
		t.Errorf("scalar is %v (%v), want 1.5", values, err)
	}
}

func TestConversionsEqualTorch(t *testing.T) {
	f := openFixture(t, "roundings.safetensors")
	x := float32s(t, f, "f32")
	for name, dtype := range map[string]string{"f32": "F32", "f16": "F16", "bf16": "BF16", "f64": "F64"} {
		want, err := f.Read(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := floats.Encode(dtype, x)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("float32 to %s differs from torch (%v)", dtype, err)
		}
		back, err := Float32s(dtype, want)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range float32s(t, f, name) {
			if math.Float32bits(v) != math.Float32bits(back[i]) {
				t.Fatalf("%s: Float32 and Float32s differ at %d", name, i)
			}
		}
	}
	if _, err := Float32s("I8", []byte{1}); err == nil {
		t.Error("I8 was converted")
	}
	if _, err := openFixture(t, "dtypes.safetensors").Float32("u8"); err == nil || !strings.Contains(err.Error(), `"u8" has dtype U8`) {
		t.Errorf("error %v", err)
	}
}

func TestFloat32OfLargeTensorIsReadInPieces(t *testing.T) {
	n := convertBuffer + 12345 // elements of two bytes: three pieces
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(i % 251)
	}
	raw, err := floats.Encode("BF16", values)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "large.safetensors")
	if err := Write(path, []Tensor{{"w", "BF16", []int{n}, raw}}, nil); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !slices.Equal(float32s(t, f, "w"), values) {
		t.Error("values differ")
	}
}

func TestRangesAreChecked(t *testing.T) {
	f := openFixture(t, "dtypes.safetensors")
	whole, err := f.Read("z.weight")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]int64{{0, 60}, {0, 0}, {60, 0}, {20, 20}, {59, 1}} {
		got, err := f.ReadRange("z.weight", r[0], r[1])
		into := make([]byte, r[1])
		if err != nil || !bytes.Equal(got, whole[r[0]:r[0]+r[1]]) {
			t.Errorf("range %v: % x (%v)", r, got, err)
		}
		if err := f.ReadInto(into, "z.weight", r[0]); err != nil || !bytes.Equal(into, got) {
			t.Errorf("range %v into a buffer: % x (%v)", r, into, err)
		}
	}
	for _, r := range [][2]int64{{-1, 2}, {0, 61}, {61, 0}, {60, 1}, {1, math.MaxInt64}, {0, -1}} {
		if _, err := f.ReadRange("z.weight", r[0], r[1]); err == nil || !strings.Contains(err.Error(), `"z.weight" has 60 bytes`) {
			t.Errorf("range %v: error %v", r, err)
		}
	}
	if err := f.ReadInto(make([]byte, 5), "z.weight", 56); err == nil {
		t.Error("a buffer was filled from beyond the tensor")
	}
	for _, err := range []error{second(f.Read("no")), second(f.ReadRange("no", 0, 0)), second(f.Float32("no")), f.ReadInto(nil, "no", 0)} {
		if err == nil || !strings.Contains(err.Error(), `no tensor "no"`) {
			t.Errorf("error %v", err)
		}
	}
}

func TestConcurrentReadsAgree(t *testing.T) {
	s, err := OpenDir("testdata/sharded")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for _, name := range s.Names() {
				raw, err := s.Read(name)
				values, err2 := s.Float32(name)
				if err != nil || err2 != nil || len(raw) != 4*len(values) {
					t.Error(name, err, err2)
				}
			}
		})
	}
	group.Wait()
}

func TestDamagedFilesAreErrorsThatSayWhere(t *testing.T) {
	const a = `"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}`
	cases := []struct {
		name  string
		bytes []byte
		says  []string
	}{
		{"empty file", nil, []string{"0 bytes"}},
		{"cut in the length", []byte{1, 2, 3}, []string{"3 bytes"}},
		{"cut in the header", file(`{`+a+`}`, 8)[:20], []string{"header of 54 bytes", "file's 20 bytes", "truncated"}},
		{"cut in the data", file(`{`+a+`}`, 7), []string{`"a"`, "[0, 8]", "7 bytes of data", "truncated"}},
		{"absurd header length", append([]byte{0, 0, 0, 0, 0, 0, 0, 0x80}, make([]byte, 8)...), []string{"9223372036854775808", "limit"}},
		{"trailing bytes", file(`{`+a+`}`, 9), []string{"1 bytes follow the last tensor"}},
		{"hole", file(`{`+a+`,"b":{"dtype":"U8","shape":[2],"data_offsets":[9,11]}}`, 11), []string{`"b" begins at 9`, `"a" ends at 8`, "hole of 1"}},
		{"hole at the start", file(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3), []string{`"a" begins at 1`, "the header ends at 0"}},
		{"overlap", file(`{`+a+`,"b":{"dtype":"U8","shape":[2],"data_offsets":[7,9]}}`, 9), []string{`"a"`, `"b"`, "overlap", "ends at 8", "begins at 7"}},
		{"same place twice", file(`{`+a+`,"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8), []string{`"a"`, `"b"`, "overlap"}},
		{"size and shape differ", file(`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`, 8), []string{`"a"`, "[0, 8]", "8 bytes", "[3] of F32", "12"}},
		{"offsets reversed", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}`, 8), []string{`"a"`, "[8, 0]"}},
		{"offset beyond int64", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[9223372036854775807,9223372036854775808]}}`, 8), []string{`"a"`, "9223372036854775808"}},
		{"offset at the end of int64", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[9223372036854775806,9223372036854775807]}}`, 8), []string{`"a"`, "beyond the 8 bytes"}},
		{"negative offset", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}`, 8), []string{`"a"`, "-8", "/data_offsets/0"}},
		{"fractional offset", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8.0]}}`, 8), []string{`"a"`, "8.0"}},
		{"three offsets", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}}`, 8), []string{`"a"`, "data_offsets"}},
		{"negative dimension", file(`{"a":{"dtype":"F32","shape":[-2,-1],"data_offsets":[0,8]}}`, 8), []string{`"a"`, "-2", "/shape/0"}},
		{"null dimension", file(`{"a":{"dtype":"F32","shape":[2,null],"data_offsets":[0,8]}}`, 8), []string{`"a"`, "null"}},
		{"overflowing shape", file(`{"a":{"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,8]}}`, 8), []string{`"a"`, "too many elements"}},
		{"half a byte", file(`{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}`, 1), []string{`"a"`, "12 bits"}},
		{"unknown dtype", file(`{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}`, 8), []string{`"a"`, `"F33" is unknown`}},
		{"no dtype", file(`{"a":{"shape":[2],"data_offsets":[0,8]}}`, 8), []string{`"a"`, "dtype is missing"}},
		{"no shape", file(`{"a":{"dtype":"F32","data_offsets":[0,8]}}`, 8), []string{`"a"`, "shape is missing"}},
		{"no offsets", file(`{"a":{"dtype":"F32","shape":[2]}}`, 8), []string{`"a"`, "data_offsets is missing"}},
		{"tensor that is no object", file(`{"a":3}`, 0), []string{`"a"`}},
		{"name twice", file(`{`+a+`,`+a+`}`, 8), []string{"duplicate", `"a"`}},
		{"metadata twice", file(`{"__metadata__":{},"__metadata__":{},`+a+`}`, 8), []string{"duplicate", "__metadata__"}},
		{"metadata of numbers", file(`{"__metadata__":{"k":1},`+a+`}`, 8), []string{"__metadata__", "strings", "/k"}},
		{"no JSON", file(`hello`, 0), []string{"JSON"}},
		{"array", file(`[]`, 0), []string{"JSON object"}},
		{"unfinished JSON", file(`{"a":`, 0), []string{"header"}},
		{"missing comma", file(`{`+a+` "b":1}`, 8), []string{"header"}},
		{"text after the object", file(`{`+a+`}}`, 8), []string{"follows the JSON object"}},
		{"invalid UTF-8", file("{\"\xff\":1}", 0), []string{"UTF-8"}},
		{"Git LFS pointer", []byte("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"), []string{"Git LFS pointer", "git lfs pull"}},
		{"PyTorch pickle", append([]byte("\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."), make([]byte, 100)...), []string{"PyTorch", "save_file"}},
		{"PyTorch zip", append([]byte("PK\x03\x04"), make([]byte, 100)...), []string{"PyTorch", "save_file"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := openBytes(c.bytes)
			if err == nil {
				t.Fatal("no error")
			}
			for _, s := range append(c.says, "x.safetensors") {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("error %q does not say %q", err, s)
				}
			}
		})
	}
}

// What the library reads although it does not write it.
func TestUnusualFilesAreRead(t *testing.T) {
	for name, b := range map[string][]byte{
		"no padding":          file(`{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}`, 3),
		"spaces around":       file("  {\"a\" : {\"dtype\":\"U8\", \"shape\":[3],\n\"data_offsets\":[0,3]} }  \n", 3),
		"unknown field":       file(`{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3],"stride":[1]}}`, 3),
		"null metadata":       file(`{"__metadata__":null,"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}`, 3),
		"unsorted":            file(`{"b":{"dtype":"F32","shape":[1],"data_offsets":[3,7]},"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}`, 7),
		"empty tensor inside": file(`{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`, 3),
		"escaped name":        file(`{"\u0061":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}`, 3),
	} {
		f, err := openBytes(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if raw, err := f.Read("a"); err != nil || len(raw) != 3 {
			t.Errorf("%s: a has %d bytes (%v)", name, len(raw), err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The first byte of a header's length may be that of a pickle, a zip or any other file.
func TestHeadersOfEveryLengthAreRead(t *testing.T) {
	const entry = `{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}`
	for n := len(entry); n < 1100; n++ {
		content := file(entry+strings.Repeat(" ", n-len(entry)), 3)
		if _, err := openBytes(content); err != nil {
			t.Fatalf("header of %d bytes: %v", n, err)
		}
		if _, err := openBytes(content[:n]); err == nil || !strings.Contains(err.Error(), "truncated") {
			t.Fatalf("header of %d bytes, truncated: %v", n, err)
		}
	}
}

func TestShrunkFileIsAReadError(t *testing.T) {
	content, err := os.ReadFile("testdata/no_metadata.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "m.safetensors")
	if err := os.WriteFile(path, content, 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Truncate(path, int64(len(content))-1); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`%s: tensor "w": read 15 of 16 bytes at offset %d`, path, len(content)-16)
	for _, err := range []error{second(f.Read("w")), second(f.Float32("w"))} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
}

func TestOpenOfMissingFileAndFolder(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{filepath.Join(dir, "no.safetensors"), dir} {
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("error %v does not name %s", err, path)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"dtypes", "no_metadata", "no_tensors", "sharded/model-00003-of-00003"} {
		content, err := os.ReadFile("testdata/" + name + ".safetensors")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Add(file(`{"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]},"b":{"dtype":"F64","shape":[0,9],"data_offsets":[2,2]}}`, 2))
	f.Fuzz(func(t *testing.T, content []byte) { checkParse(t, content) })
}

// FuzzHeader reaches the checks behind the header's length more often than FuzzParse.
func FuzzHeader(f *testing.F) {
	f.Add(`{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[2],"data_offsets":[8,10]}}`, uint16(10))
	f.Add(`{"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]},"b":{"dtype":"F64","shape":[0,9],"data_offsets":[2,2]}}`, uint16(2))
	f.Fuzz(func(t *testing.T, header string, n uint16) { checkParse(t, file(header, int(n))) })
}

// checkParse checks that a file is refused with its name, or can be read as its header says.
func checkParse(t *testing.T, content []byte) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f, err := openBytes(content)
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > uint64(100*len(content))+4<<20 {
		t.Errorf("reading the header of a file of %d bytes took %d bytes of memory", len(content), took)
	}
	if err != nil {
		if e, ok := errors.AsType[*fileerror.Error](err); !ok || e.Path != "x.safetensors" || !strings.Contains(err.Error(), "x.safetensors") {
			t.Errorf("error %q is not of its type or does not name the file", err)
		}
		return
	}
	total := 0
	for _, name := range f.Names() {
		info, ok := f.Info(name)
		raw, err := f.Read(name)
		if !ok || err != nil || int64(len(raw)) != info.Size {
			t.Fatalf("%q passed the checks but cannot be read: %d bytes, %v", name, len(raw), err)
		}
		total += len(raw)
		values, err := f.Float32(name)
		if err == nil && len(values) != info.Elements() {
			t.Fatalf("%q has %d values, want %d", name, len(values), info.Elements())
		}
	}
	if total > len(content) {
		t.Fatalf("%d bytes of tensors in a file of %d", total, len(content))
	}
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{"total_size":12},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"a":"../x.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"a":1}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		index, err := parseIndex(text)
		if err == nil && len(index) == 0 {
			t.Error("an index without tensors was accepted")
		}
		for tensor, shard := range index {
			if err == nil && !filepath.IsLocal(shard) {
				t.Errorf("tensor %q is in %q, outside the folder", tensor, shard)
			}
		}
	})
}

func openFixture(t *testing.T, name string) *File {
	t.Helper()
	f, err := Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func float32s(t *testing.T, f *File, name string) []float32 {
	t.Helper()
	values, err := f.Float32(name)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

func second[T any](_ T, err error) error { return err }
