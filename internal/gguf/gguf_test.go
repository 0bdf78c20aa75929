package gguf

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/loris-ml/loris/internal/safetensors"
)

func openFixture(t *testing.T) *File {
	t.Helper()
	f, err := Open("testdata/types.gguf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestFloat32EqualsGGUFPythonBitForBit(t *testing.T) {
	f := openFixture(t)
	want, err := safetensors.Open("testdata/types.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	if len(want.Names()) != 21 {
		t.Fatalf("the fixture has %d tensors", len(want.Names()))
	}
	for _, name := range want.Names() {
		info, ok := f.Tensor(name)
		wantInfo, _ := want.Info(name)
		if !ok || !slices.Equal(info.Shape, wantInfo.Shape) {
			t.Errorf("%s: shape %v, want %v", name, info.Shape, wantInfo.Shape)
		}
		got, err := f.Float32(name)
		if err != nil {
			t.Error(err)
			continue
		}
		values, err := want.Float32(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(values) {
			t.Errorf("%s: %d values, want %d", name, len(got), len(values))
			continue
		}
		for i := range got {
			if math.Float32bits(got[i]) != math.Float32bits(values[i]) {
				t.Errorf("%s (%s): value %d is %v, want %v", name, info.Type, i, got[i], values[i])
				break
			}
		}
	}
}

// Long enough for several processors, with an odd number of blocks.
func TestLongTensorsDecodeAsShortOnes(t *testing.T) {
	const blocks = 3*grain/32 + 5
	for typ, block := range decoders {
		l := layouts[typ]
		raw := make([]byte, blocks*l.bytes)
		for i := range raw {
			raw[i] = byte(i*7 + i>>9)
		}
		got, want := make([]float32, blocks*l.elements), make([]float32, blocks*l.elements)
		if err := decode(got, typ, raw); err != nil {
			t.Fatal(err)
		}
		for i := range blocks {
			block(want[i*l.elements:(i+1)*l.elements], raw[i*l.bytes:(i+1)*l.bytes])
		}
		for i := range got {
			if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
				t.Fatalf("%s: value %d is %v, want %v", typ, i, got[i], want[i])
			}
		}
	}
}

func TestUndecodableTypesAreNamed(t *testing.T) {
	f := openFixture(t)
	for name, says := range map[string]string{
		"iq3_s.weight": `types.gguf: tensor "iq3_s.weight": IQ3_S is not supported (F32, F16,`,
		"i32.weight":   `types.gguf: tensor "i32.weight": I32 is not supported`,
		"none":         `types.gguf has no tensor "none"`,
	} {
		if _, err := f.Float32(name); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want %q in it", err, says)
		}
	}
	if raw, err := f.Read("i32.weight"); err != nil || len(raw) != 24 || raw[4] != 1 {
		t.Errorf("i32.weight: % x (%v)", raw, err)
	}

	content := newBuilder().tensor("new", 99, 0, 7).tensor("removed", 31, 32, 32).payload(64).bytes()
	g, err := openBytes(content)
	if err != nil {
		t.Fatal(err)
	}
	for name, says := range map[string]string{"new": "unknown type 99", "removed": "Q4_0_4_4"} {
		for _, read := range []func(string) error{
			func(n string) error { _, err := g.Float32(n); return err },
			func(n string) error { _, err := g.Read(n); return err },
		} {
			if err := read(name); err == nil || !strings.Contains(err.Error(), `tensor "`+name+`"`) || !strings.Contains(err.Error(), says) {
				t.Errorf("error %v, want %q in it", err, says)
			}
		}
	}
}

func TestMetadataOfAllTypes(t *testing.T) {
	f := openFixture(t)
	m := f.Metadata()
	check := func(key string, got any, ok bool, want any) {
		t.Helper()
		if !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v (%v), want %v", key, got, ok, want)
		}
	}
	for key, want := range map[string]int64{
		"test.u8": 200, "test.i8": -100, "test.u16": 60000, "test.i16": -30000, "test.u32": 4_000_000_000,
		"test.i32": -2_000_000_000, "test.i64": -1 << 62,
	} {
		got, ok := m.Int(key)
		check(key, got, ok, want)
		u, ok := m.Uint(key)
		if ok != (want >= 0) || ok && u != uint64(want) {
			t.Errorf("%s as unsigned: %d (%v)", key, u, ok)
		}
	}
	u, ok := m.Uint("test.u64")
	check("test.u64", u, ok, uint64(math.MaxUint64))
	f32, ok := m.Float("test.f32")
	check("test.f32", f32, ok, float64(float32(1e-5)))
	f64, ok := m.Float("test.f64")
	check("test.f64", f64, ok, 1e-300)
	yes, ok := m.Bool("test.true")
	check("test.true", yes, ok, true)
	no, ok := m.Bool("test.false")
	check("test.false", no, ok, false)
	s, ok := m.String("test.string")
	check("test.string", s, ok, "héllo\n{{ x }}")
	list, ok := m.Strings("test.strings")
	check("test.strings", list, ok, []string{"<s>", "", "▁the"})
	ints, ok := m.Ints("test.ints")
	check("test.ints", ints, ok, []int64{1, -2, 3})
	ints, ok = m.Ints("test.bytes")
	check("test.bytes", ints, ok, []int64{0, 128, 255})
	fl, ok := m.Floats("test.floats")
	check("test.floats", fl, ok, []float64{0.5, -1.25})
	bools, ok := m.Bools("test.bools")
	check("test.bools", bools, ok, []bool{true, false, true})
	if keys := m.Keys(); len(keys) != 20 || keys[0] != "general.architecture" || keys[19] != "test.bytes" {
		t.Errorf("keys %q", keys)
	}
}

func TestGettersRefuseOtherKinds(t *testing.T) {
	content := newBuilder().
		pair("big", typeUint64, uint64(math.MaxUint64)).
		pair("bigs", typeArray, typeUint64, uint64(1), uint64(math.MaxUint64)).
		pair("text", typeString, "7").pair("number", typeInt32, int32(7)).bytes()
	f, err := openBytes(content)
	if err != nil {
		t.Fatal(err)
	}
	m := f.Metadata()
	for _, key := range []string{"text", "absent", "big", "bigs"} {
		if _, ok := m.Int(key); ok {
			t.Errorf("%s is an int64", key)
		}
		if _, ok := m.Ints(key); ok {
			t.Errorf("%s is an array of int64", key)
		}
	}
	for _, key := range []string{"number", "absent"} {
		_, isString := m.String(key)
		_, isStrings := m.Strings(key)
		_, isFloat := m.Float(key)
		_, isFloats := m.Floats(key)
		_, isBool := m.Bool(key)
		_, isBools := m.Bools(key)
		if isString || isStrings || isFloat || isFloats || isBool || isBools {
			t.Errorf("%s was converted", key)
		}
	}
}

func TestArraysOfEveryTypeAndNestedOnes(t *testing.T) {
	content := newBuilder().
		pair("u16", typeArray, typeUint16, uint64(2), uint16(1), uint16(65535)).
		pair("i8", typeArray, typeInt8, uint64(2), int8(-1), int8(1)).
		pair("i16", typeArray, typeInt16, uint64(1), int16(-300)).
		pair("u32", typeArray, typeUint32, uint64(1), uint32(1<<31)).
		pair("u64", typeArray, typeUint64, uint64(1), uint64(1<<40)).
		pair("i64", typeArray, typeInt64, uint64(1), int64(-1<<40)).
		pair("f64", typeArray, typeFloat64, uint64(1), 0.1).
		pair("none", typeArray, typeString, uint64(0)).
		pair("nested", typeArray, typeArray, uint64(2), typeInt32, uint64(2), int32(1), int32(2), typeString, uint64(1), "x").bytes()
	f, err := openBytes(content)
	if err != nil {
		t.Fatal(err)
	}
	m := f.Metadata()
	for key, want := range map[string][]int64{"u16": {1, 65535}, "i8": {-1, 1}, "i16": {-300}, "u32": {1 << 31}, "u64": {1 << 40}, "i64": {-1 << 40}} {
		if got, ok := m.Ints(key); !ok || !slices.Equal(got, want) {
			t.Errorf("%s: %v (%v), want %v", key, got, ok, want)
		}
	}
	if got, ok := m.Floats("f64"); !ok || !slices.Equal(got, []float64{0.1}) {
		t.Errorf("f64: %v (%v)", got, ok)
	}
	if got, ok := m.Strings("none"); !ok || len(got) != 0 {
		t.Errorf("none: %v (%v)", got, ok)
	}
	if got, _ := m.Value("nested"); !reflect.DeepEqual(got, []any{[]int32{1, 2}, []string{"x"}}) {
		t.Errorf("nested: %#v", got)
	}
}

func TestVersionTwoAndAlignment(t *testing.T) {
	b := newBuilder().pair("general.alignment", typeUint32, uint32(8)).tensor("a", F32, 0, 1).tensor("b", F32, 8, 3, 2)
	b.version, b.alignment = 2, 8
	f, err := openBytes(b.payload(32).bytes())
	if err != nil {
		t.Fatal(err)
	}
	if f.Version() != 2 || f.Path() != "x.gguf" {
		t.Errorf("version %d, path %s", f.Version(), f.Path())
	}
	infos := f.Tensors()
	if len(infos) != 2 || !slices.Equal(infos[1].Shape, []int{2, 3}) || infos[1].Offset%8 != 0 || infos[1].Offset-infos[0].Offset != 8 || infos[1].Size != 24 {
		t.Errorf("tensors %+v", infos)
	}
	infos[1].Shape[0] = 100
	if info, _ := f.Tensor("b"); info.Shape[0] != 2 {
		t.Error("a caller's change of a shape reached the file")
	}
}

func TestFilesWithoutTensorsOrElements(t *testing.T) {
	f, err := openBytes(newBuilder().pair("k", typeBool, uint8(1)).bytes())
	if err != nil || len(f.Tensors()) != 0 {
		t.Fatalf("a vocabulary without padding: %v", err)
	}
	f, err = openBytes(newBuilder().tensor("scalar", F32, 0).tensor("empty", Q4_0, 32, 0, 5).tensor("e2", F32, 32, 0).payload(32).bytes())
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range map[string]int{"scalar": 1, "empty": 0, "e2": 0} {
		if values, err := f.Float32(name); err != nil || len(values) != n {
			t.Errorf("%s: %v (%v), want %d values", name, values, err, n)
		}
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenOfMissingFileAndFolder(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{filepath.Join(dir, "no.gguf"), dir} {
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("error %v does not name %s", err, path)
		}
	}
}

func TestConcurrentReadsAgree(t *testing.T) {
	f := openFixture(t)
	want, err := f.Float32("q8_0.random")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 20 {
				if got, err := f.Float32("q8_0.random"); err != nil || !slices.Equal(got, want) {
					t.Error("a concurrent read differs", err)
				}
			}
		})
	}
	group.Wait()
}

func TestShrunkFileIsAReadError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.gguf")
	if err := os.WriteFile(path, newBuilder().tensor("w", F32, 0, 8).payload(32).bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, _ := f.Tensor("w")
	if err := os.Truncate(path, info.Offset+31); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Float32("w"); err == nil || !strings.Contains(err.Error(), path+`: tensor "w": read 31 of 32 bytes`) {
		t.Errorf("error %v", err)
	}
}

func TestPiecesDecodeToTheSameBitsAsTheWhole(t *testing.T) {
	f := openFixture(t)
	tried := 0
	for _, info := range f.Tensors() {
		if !info.Type.decodable() {
			continue
		}
		tried++
		want, err := f.Float32(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		block := layouts[info.Type].elements
		for at := 0; at < len(want); at += 3 * block {
			got := make([]float32, min(3*block, len(want)-at))
			if err := f.ReadFloat32(got, info.Name, at); err != nil {
				t.Fatal(err)
			}
			for i := range got {
				if math.Float32bits(got[i]) != math.Float32bits(want[at+i]) {
					t.Fatalf("%s: value %d is %v, want %v", info.Name, at+i, got[i], want[at+i])
				}
			}
		}
		raw, err := f.Read(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		part := make([]byte, len(raw)-1)
		if err := f.ReadInto(part, info.Name, 1); err != nil || !bytes.Equal(part, raw[1:]) {
			t.Errorf("%s: its bytes from 1 on are others (%v)", info.Name, err)
		}
		for _, err := range []error{
			f.ReadInto(part, info.Name, 2), f.ReadInto(nil, info.Name, -1),
			f.ReadFloat32(make([]float32, len(want)+block), info.Name, 0), f.ReadFloat32(nil, info.Name, -block),
		} {
			if err == nil || !strings.Contains(err.Error(), info.Name) {
				t.Errorf("%s: a piece beyond the tensor: error %v", info.Name, err)
			}
		}
	}
	if tried < 6 {
		t.Errorf("only %d tensors were read", tried)
	}
}
