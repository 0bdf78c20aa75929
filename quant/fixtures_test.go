package quant

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/gomlx/compute/dtypes"

	"github.com/loris-ml/loris/internal/reference"
)

// fixtures is testdata/bitsandbytes.json, written by make_fixtures.py.
type fixtures struct {
	Versions   map[string]string `json:"versions"`
	DynamicMap map[string][]byte `json:"dynamic_map"`
	QuantMap   map[string][]byte `json:"quant_map"`
	Means      struct {
		Lengths []int  `json:"lengths"`
		Bits    []byte `json:"bits"`
	} `json:"means"`
	Cases      []fixtureCase `json:"cases"`
	StateDicts []struct {
		fixtureCase
		Storage string                   `json:"storage"`
		Tensors map[string]fixtureTensor `json:"tensors"`
	} `json:"state_dicts"`
	Blockwise []struct {
		fixtureCase
		Signed bool `json:"signed"`
	} `json:"blockwise"`
	Int8 []struct {
		fixtureCase
		ValuesSHA map[string]string        `json:"values_sha256"`
		Tensors   map[string]fixtureTensor `json:"tensors"`
	} `json:"int8"`
	Skips []struct {
		Patterns []string        `json:"patterns"`
		Convert  map[string]bool `json:"convert"`
	} `json:"skips"`
	Config map[string]json.RawMessage `json:"config"`
}

type fixtureCase struct {
	Kind        string    `json:"kind"`
	Seed        uint64    `json:"seed"`
	Shape       []int     `json:"shape"`
	Scale       float64   `json:"scale"`
	DType       string    `json:"dtype"`
	QuantType   QuantType `json:"quant_type"`
	Blocksize   int       `json:"blocksize"`
	DoubleQuant bool      `json:"double_quant"`

	InputSHA   string `json:"input_sha256"`
	PackedSHA  string `json:"packed_sha256"`
	AbsmaxSHA  string `json:"absmax_sha256"` // of the codes, with double quantization
	DecodedSHA string `json:"decoded_sha256"`
	ValuesSHA  string `json:"values_sha256"`

	Packed       []byte `json:"packed"`
	Absmax       []byte `json:"absmax"`
	NestedAbsmax []byte `json:"nested_absmax"`
	Offset       uint32 `json:"offset"`
}

type fixtureTensor struct {
	DType string `json:"dtype"`
	Shape []int  `json:"shape"`
	Data  []byte `json:"data"`
}

var loadFixtures = sync.OnceValues(func() (*fixtures, error) {
	data, err := os.ReadFile("testdata/bitsandbytes.json")
	if err != nil {
		return nil, err
	}
	f := new(fixtures)
	return f, json.Unmarshal(data, f)
})

func readFixtures(t testing.TB) *fixtures {
	t.Helper()
	f, err := loadFixtures()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (c *fixtureCase) dtype() dtypes.DType {
	return map[string]dtypes.DType{"float32": dtypes.Float32, "float16": dtypes.Float16, "bfloat16": dtypes.BFloat16}[c.DType]
}

// generate repeats generate of make_fixtures.py.
func generate(kind string, seed uint64, n int, scale float64) []float32 {
	out := make([]float32, n)
	for i := range out {
		r, u := reference.Draw(seed, i)
		x := reference.Bell(u) * scale
		switch kind {
		case "uniform":
			x = (u[0] - 0.5) * scale
		case "outliers":
			if u[1] < 1./256 {
				x *= 50
			}
		case "zeroblocks":
			if i/64%3 == 1 {
				x = 0
			}
		case "zeros":
			x *= 0
		case "positive":
			x = math.Abs(x)
		case "signs":
			x = scale
			if u[0] < 0.5 {
				x = -scale
			}
		case "boundaries":
			book := fp4Book()
			if seed%2 == 0 {
				book = nf4Book()
			}
			m := book.bounds[r[0]%15]
			switch r[1] % 3 {
			case 1:
				m = math.Nextafter32(m, -2)
			case 2:
				m = math.Nextafter32(m, 2)
			}
			if i%32 == 0 {
				m = 1
			}
			x = float64(m) * scale
		case "grid":
			x = math.Floor(u[0]*16-8) * scale
		}
		out[i] = float32(x)
	}
	return out
}

// input returns the bytes of the case's tensor.
func (c *fixtureCase) input(t testing.TB) []byte {
	n, err := size(c.Shape)
	if err != nil {
		t.Fatal(err)
	}
	raw := narrow(generate(c.Kind, c.Seed, n, c.Scale), c.dtype())
	if c.InputSHA != "" && sum(raw) != c.InputSHA {
		t.Fatalf("the generated input is not the one that make_fixtures.py used")
	}
	return raw
}

// narrow rounds x to dtype and returns its bytes.
func narrow(x []float32, dtype dtypes.DType) (raw []byte) {
	round := rounder(dtype)
	for _, v := range x {
		v = round(v)
		switch dtype {
		case dtypes.Float32:
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
		case dtypes.BFloat16:
			raw = binary.LittleEndian.AppendUint16(raw, uint16(math.Float32bits(v)>>16))
		case dtypes.Float16:
			raw = binary.LittleEndian.AppendUint16(raw, f16Bits(v))
		}
	}
	return raw
}

// f16Bits returns the bits of v, which is a float16 value.
func f16Bits(v float32) uint16 {
	bits := math.Float32bits(v)
	sign := uint16(bits >> 16 & 0x8000)
	magnitude := math.Float32frombits(bits &^ (1 << 31))
	switch {
	case magnitude >= 65536:
		return sign | 0x7c00
	case magnitude < 0x1p-14:
		return sign | uint16(magnitude*0x1p24)
	}
	return sign | uint16((math.Float32bits(magnitude)-(112<<23))>>13)
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func floatBytes(x []float32) []byte { return narrow(x, dtypes.Float32) }

func floats(t testing.TB, raw []byte) []float32 {
	t.Helper()
	if len(raw)%4 != 0 {
		t.Fatalf("%d bytes are no float32s: %s", len(raw), base64.StdEncoding.EncodeToString(raw))
	}
	out := make([]float32, len(raw)/4)
	widenF32(out, raw)
	return out
}

func TestBytesEqualBitsandbytes(t *testing.T) {
	f := readFixtures(t)
	whole := 0
	for _, c := range f.Cases {
		packed, state, err := Quantize4BitRaw(c.input(t), c.dtype(), c.Shape, c.QuantType, c.Blocksize, c.DoubleQuant)
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		absmax := floatBytes(state.Absmax)
		if c.DoubleQuant {
			absmax = state.Nested.Codes
			if got := math.Float32bits(state.Nested.Offset); got != c.Offset {
				t.Errorf("%s %v %s/%d: offset has bits %08x, want %08x", c.Kind, c.Shape, c.QuantType, c.Blocksize, got, c.Offset)
			}
			if !slices.Equal(floatBytes(state.Nested.Absmax), c.NestedAbsmax) {
				t.Errorf("%s %v %s/%d: nested absmax differ", c.Kind, c.Shape, c.QuantType, c.Blocksize)
			}
			if sum(floatBytes(state.Absmax)) != c.DecodedSHA {
				t.Errorf("%s %v %s/%d: decoded absmax differ", c.Kind, c.Shape, c.QuantType, c.Blocksize)
			}
		}
		if len(c.Packed) > 0 {
			whole++
			if d := differing(packed, c.Packed); d != 0 {
				t.Errorf("%s %v %s/%d: %d of %d packed bytes differ", c.Kind, c.Shape, c.QuantType, c.Blocksize, d, len(packed))
			}
			if d := differing(absmax, c.Absmax); d != 0 {
				t.Errorf("%s %v %s/%d: %d of %d absmax bytes differ", c.Kind, c.Shape, c.QuantType, c.Blocksize, d, len(absmax))
			}
		}
		if sum(packed) != c.PackedSHA || sum(absmax) != c.AbsmaxSHA {
			t.Errorf("%s %v %s/%d %s: packed equal: %v, absmax equal: %v", c.Kind, c.Shape, c.QuantType, c.Blocksize, c.DType,
				sum(packed) == c.PackedSHA, sum(absmax) == c.AbsmaxSHA)
		}
		values, err := Dequantize4Bit(packed, state)
		if err != nil {
			t.Errorf("%s %v: %v", c.Kind, c.Shape, err)
			continue
		}
		if c.QuantType == FP4 && c.Shape[len(c.Shape)-1]%2 == 1 {
			for i := range values { // where rows are odd, bitsandbytes decodes by quant_map: code 8 is +0
				if nibble(packed, i) == 8 {
					values[i] = -values[i]
				}
			}
		}
		if sum(narrow(values, c.dtype())) != c.ValuesSHA {
			t.Errorf("%s %v %s/%d %s: decoded values differ", c.Kind, c.Shape, c.QuantType, c.Blocksize, c.DType)
		}
	}
	if len(f.Cases) < 200 || whole < 20 {
		t.Errorf("only %d cases, %d of them whole", len(f.Cases), whole)
	}
}

func differing(a, b []byte) int {
	if len(a) != len(b) {
		return max(len(a), len(b))
	}
	d := 0
	for i := range a {
		if a[i] != b[i] {
			d++
		}
	}
	return d
}

func TestTablesEqualBitsandbytes(t *testing.T) {
	f := readFixtures(t)
	for name, m := range map[string][256]float32{"signed": DynamicMap(true), "unsigned": DynamicMap(false)} {
		if !slices.Equal(floatBytes(m[:]), f.DynamicMap[name]) {
			t.Errorf("the %s dynamic map differs in %d bytes", name, differing(floatBytes(m[:]), f.DynamicMap[name]))
		}
	}
	for _, q := range []QuantType{NF4, FP4} {
		v, err := q.Values()
		if err != nil || !slices.Equal(floatBytes(v[:]), f.QuantMap[string(q)]) {
			t.Errorf("%s: values %v, error %v, want %v", q, v, err, floats(t, f.QuantMap[string(q)]))
		}
	}
	if v, err := QuantType("int4").Values(); err == nil {
		t.Errorf("int4 has values %v", v)
	}
}

func TestMeanSumsInTorchsOrder(t *testing.T) {
	f := readFixtures(t)
	want := floats(t, f.Means.Bits)
	for i, n := range f.Means.Lengths {
		if got := mean32(generate("positive", uint64(n), n, 0.1)); got != want[i] {
			t.Errorf("mean of %d values is %v, want %v", n, got, want[i])
		}
	}
}
