package kernels

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"
)

// On all backends the graph rounds as torch does, and beyond the largest number it saturates.
func TestRoundFloat8RoundsAsTorch(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "float8.json"))
	if err != nil {
		t.Fatal(err)
	}
	var fixture struct {
		Bits  []uint32
		Bytes []int
	}
	if err := json.Unmarshal(text, &fixture); err != nil {
		t.Fatal(err)
	}
	var x, want []float32
	for i, b := range fixture.Bits {
		x, want = append(x, math.Float32frombits(b)), append(want, float8FromBits(byte(fixture.Bytes[i])))
	}
	if len(x) < 1000 {
		t.Fatalf("%d numbers", len(x))
	}
	x, want = append(x, 464, 1e30, -1e4, float32(math.Inf(1)), 1e-30), append(want, 448, 448, -448, 448, 0)
	for i, v := range x {
		if got := float32(float8Of(float64(v))); got != want[i] {
			t.Errorf("the tests' own rounding of %v is %v, want %v", v, got, want[i])
		}
	}
	for _, spec := range append([]string{"go"}, strings.Fields(os.Getenv("LORIS_TEST_BACKENDS"))...) {
		d := open(t, spec)
		out, err := CallOnce(d.Backend, RoundFloat8, x)
		if err != nil {
			t.Fatal(err)
		}
		for i, got := range out.Value().([]float32) {
			if got != want[i] {
				t.Errorf("%s: %v is rounded to %v, want %v", spec, x[i], got, want[i])
			}
		}
	}
}

func TestFloat8ScalesArePowersOfTwoThatFit(t *testing.T) {
	d := open(t, "go")
	most := []float32{0, 1e-30, 0x1p-100, 1, 1.75, 1.7500001, 447, 448, 448.0001, 1e30, math.MaxFloat32}
	out, err := CallOnce(d.Backend, powerFor, most)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range out.Value().([]float32) {
		fraction, _ := math.Frexp(float64(s))
		m := max(float64(most[i]), 0x1p-100)
		if fraction != 0.5 || m/float64(s) > Float8Max || m/float64(s) <= Float8Max/2 {
			t.Errorf("numbers up to %v are divided by %v", most[i], s)
		}
	}
}
