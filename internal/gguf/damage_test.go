package gguf

import (
	"errors"
	"math"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/loris-ml/loris/internal/fileerror"
)

func TestDamagedFilesAreErrorsThatSayWhere(t *testing.T) {
	const gib = 1 << 30
	counts := func(tensors, pairs uint64) []byte {
		b := newBuilder()
		b.tensorCount, b.pairCount = tensors, pairs
		return b.bytes()
	}
	version := func(v uint32) []byte {
		b := newBuilder()
		b.version = v
		return b.bytes()
	}
	deep := newBuilder().pair("k", typeArray)
	for range maxDepth {
		deep.pairs = le(deep.pairs, typeArray, uint64(1))
	}
	cases := []struct {
		name  string
		bytes []byte
		says  []string
	}{
		{"empty file", nil, []string{`starts with ""`, "GGUF"}},
		{"other format", []byte("PK\x03\x04 something else"), []string{`"PK\x03\x04"`, "convert_hf_to_gguf.py"}},
		{"Git LFS pointer", []byte("version https://git-lfs.github.com/spec/v1\noid"), []string{"Git LFS pointer", "git lfs pull"}},
		{"cut in the version", []byte("GGUF\x03"), []string{"version", "4 bytes", "file's 5 bytes", "truncated"}},
		{"version 1", version(1), []string{"version 1 is not supported"}},
		{"version 4", version(4), []string{"version 4 is not supported, 2 and 3 are"}},
		{"big endian", version(3 << 24), []string{"big endian", "gguf-convert-endian"}},
		{"cut in the counts", newBuilder().bytes()[:12], []string{"tensor count", "file's 12 bytes"}},
		{"absurd metadata count", counts(0, math.MaxUint64), []string{"metadata count 18446744073709551615", "file's 24 bytes"}},
		{"absurd tensor count", counts(1<<40, 0), []string{"tensor count 1099511627776", "file's 24 bytes"}},
		{"absurd key length", newBuilder().pair("k", typeBool, uint8(1)).withPairs(uint64(1<<60), "x"), []string{"pair 1 of 1", "key of 1152921504606846976 bytes", "offset 32"}},
		{"cut in a value", newBuilder().pair("answer", typeUint64, uint32(1)).bytes(), []string{`"answer" (pair 1 of 1)`, "8 bytes"}},
		{"absurd string", newBuilder().pair("k", typeString, uint64(5), uint32(0)).bytes(), []string{`"k"`, "string of 5 bytes"}},
		{"unknown value type", newBuilder().pair("k", 13, uint64(0)).bytes(), []string{`"k"`, "type 13", "0 to 12"}},
		{"unknown element type", newBuilder().pair("k", typeArray, uint32(77), uint64(0)).bytes(), []string{`"k"`, "type 77"}},
		{"absurd array length", newBuilder().pair("k", typeArray, typeInt32, uint64(gib)).bytes(), []string{`"k"`, "array elements 1073741824"}},
		{"absurd count of strings", newBuilder().pair("k", typeArray, typeString, uint64(gib)).bytes(), []string{`"k"`, "strings 1073741824"}},
		{"absurd count of arrays", newBuilder().pair("k", typeArray, typeArray, uint64(gib)).bytes(), []string{`"k"`, "arrays 1073741824"}},
		{"cut in a string of an array", newBuilder().pair("k", typeArray, typeString, uint64(2), "ab", uint64(9)).bytes(), []string{`"k"`, "element 1 of 2", "9 bytes"}},
		{"arrays nested deeply", deep.bytes(), []string{`"k"`, "nested too deeply"}},
		{"bool of 2", newBuilder().pair("k", typeBool, uint8(2)).bytes(), []string{`"k"`, "byte 2"}},
		{"key twice", newBuilder().pair("k", typeBool, uint8(1)).pair("k", typeBool, uint8(1)).bytes(), []string{`"k" appears twice`}},
		{"part of a model", newBuilder().pair("split.count", typeUint16, uint16(3)).bytes(), []string{"3 files", "llama-gguf-split --merge"}},
		{"alignment of 0", newBuilder().pair("general.alignment", typeUint32, uint32(0)).bytes(), []string{"general.alignment", "is 0", "power of two"}},
		{"alignment of 24", newBuilder().pair("general.alignment", typeUint32, uint32(24)).bytes(), []string{"is 24", "power of two"}},
		{"alignment as text", newBuilder().pair("general.alignment", typeString, "32").bytes(), []string{"is 32", "power of two"}},
		{"tensor twice", newBuilder().tensor("w", F32, 0, 1).tensor("w", F32, 32, 1).payload(64).bytes(), []string{`"w" appears twice`}},
		{"five dimensions", newBuilder().tensor("w", F32, 0, 1, 1, 1, 1, 1).payload(4).bytes(), []string{`"w"`, "5 dimensions"}},
		{"absurd number of dimensions", newBuilder().tensor("w", F32, 0, make([]uint64, 70000)...).bytes(), []string{`"w"`, "70000 dimensions"}},
		{"absurd shape", newBuilder().tensor("w", F32, 0, 1<<32, 1<<32).payload(4).bytes(), []string{`"w"`, "[4294967296 4294967296]", "too many elements"}},
		{"absurd size", newBuilder().tensor("w", F32, 0, 1<<31, 1<<31).payload(4).bytes(), []string{`"w"`, "type F32 has too many bytes"}},
		{"absurd dimension beside 0", newBuilder().tensor("w", F32, 0, 0, 1<<63).payload(4).bytes(), []string{`"w"`, "too many elements"}},
		{"row of half a block", newBuilder().tensor("w", Q4_0, 0, 48, 2).payload(54).bytes(), []string{`"w"`, "rows of 48", "32", "Q4_0"}},
		{"cut in a description", newBuilder().tensor("w", F32, 0, 1).bytes()[:50], []string{`tensor 1 of 1: "w"`, "file's 50 bytes"}},
		{"unaligned tensor", newBuilder().tensor("w", F32, 4, 1).payload(64).bytes(), []string{`"w"`, "offset 4", "alignment 32"}},
		{"cut in the data", newBuilder().tensor("w", F32, 0, 8).payload(31).bytes(), []string{`"w"`, "32 bytes at offset 64", "file's 95 bytes", "truncated"}},
		{"no data", newBuilder().tensor("w", F32, 0, 8).bytes(), []string{`"w"`, "beyond"}},
		{"absurd offset", newBuilder().tensor("w", F32, math.MaxUint64-31, 1).payload(4).bytes(), []string{`"w"`, "offset 18446744073709551584"}},
		{"offset near the end of int64", newBuilder().tensor("w", F32, math.MaxInt64-31, 1).payload(4).bytes(), []string{`"w"`, "beyond"}},
		{"overlap", newBuilder().tensor("v", F32, 32, 9).tensor("w", F32, 0, 9).payload(96).bytes(), []string{`"w" (36 bytes at offset 96)`, `"v" (offset 128)`, "overlap"}},
		{"unknown type beyond the file", newBuilder().tensor("w", 99, 1<<20, 9).payload(96).bytes(), []string{`"w"`, "beyond"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := openBytes(c.bytes)
			if err == nil {
				t.Fatal("no error")
			}
			for _, s := range append(c.says, "x.gguf") {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("error %q does not say %q", err, s)
				}
			}
		})
	}
}

// withPairs replaces the metadata by raw values and returns the file.
func (b *builder) withPairs(values ...any) []byte {
	b.pairs = le(nil, values...)
	return b.bytes()
}

// A length that fits a large file is still refused when no header can mean it.
func TestAbsurdLengthInALargeFile(t *testing.T) {
	path := t.TempDir() + "/x.gguf"
	for name, head := range map[string][]byte{
		"string":  newBuilder().pair("k", typeString, uint64(maxValue+1)).bytes(),
		"numbers": newBuilder().pair("k", typeArray, typeInt64, uint64(maxValue/8+1)).bytes(),
	} {
		if err := os.WriteFile(path, head, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 4<<30); err != nil { // sparse: it takes no room
			t.Skip(err)
		}
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "absurd") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	content, err := os.ReadFile("testdata/types.gguf")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content)
	f.Add(newBuilder().pair("general.alignment", typeUint32, uint32(8)).tensor("a", Q4_1, 0, 32, 2).tensor("b", BF16, 64, 3).payload(96).bytes())
	f.Add(newBuilder().pair("k", typeArray, typeArray, uint64(2), typeInt32, uint64(1), int32(1), typeString, uint64(1), "x").bytes())
	blocks, at := newBuilder(), 0
	for t := range decoders { // one block of each
		l := layouts[t]
		blocks.tensor(t.String(), t, uint64(at), uint64(l.elements))
		at += (l.bytes + 31) / 32 * 32
	}
	f.Add(blocks.payload(at).bytes())
	f.Fuzz(func(t *testing.T, content []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		file, err := openBytes(content)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > uint64(100*len(content))+4<<20 {
			t.Errorf("reading the header of a file of %d bytes took %d bytes of memory", len(content), took)
		}
		if err != nil {
			if e, ok := errors.AsType[*fileerror.Error](err); !ok || e.Path != "x.gguf" || !strings.Contains(err.Error(), "x.gguf") {
				t.Errorf("error %q is not of its type or does not name the file", err)
			}
			return
		}
		for _, key := range file.Metadata().Keys() {
			if _, ok := file.Metadata().Value(key); !ok {
				t.Fatalf("key %q has no value", key)
			}
		}
		total := 0
		for _, info := range file.Tensors() {
			raw, err := file.Read(info.Name)
			if (err == nil) != (info.Size >= 0) || err == nil && int64(len(raw)) != info.Size {
				t.Fatalf("%q passed the checks but cannot be read: %d bytes, %v", info.Name, len(raw), err)
			}
			total += len(raw)
			values, err := file.Float32(info.Name)
			if (err == nil) != info.Type.decodable() || err == nil && len(values) != info.elements() {
				t.Fatalf("%q of %v %s has %d values (%v)", info.Name, info.Shape, info.Type, len(values), err)
			}
		}
		if total > len(content) {
			t.Fatalf("%d bytes of tensors in a file of %d", total, len(content))
		}
	})
}
