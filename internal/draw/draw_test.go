package draw_test

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/draw"
)

func TestMixIsMurmurHash3sFinalizer(t *testing.T) {
	d, err := backend.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	out, err := CallOnce(d.Backend, draw.Mix, []uint32{0, 1, 2, 0xffffffff})
	if err != nil {
		t.Fatal(err)
	}
	want := make([]uint32, 4)
	for i, x := range []uint32{0, 1, 2, 0xffffffff} {
		x ^= x >> 16
		x *= 0x85ebca6b
		x ^= x >> 13
		x *= 0xc2b2ae35
		want[i] = x ^ x>>16
	}
	if want[1] != 0x514e28b7 { // as published
		t.Fatalf("the test's own hash of 1 is %#x", want[1])
	}
	if !reflect.DeepEqual(out.Value(), want) {
		t.Errorf("got %#x, want %#x", out.Value(), want)
	}
}

func TestKeepRefusesWhatIsNoRate(t *testing.T) {
	d, err := backend.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, p := range []float64{-0.1, 1, 2} {
		_, err := CallOnce(d.Backend, func(bits *Node) *Node { return draw.Keep(bits, p) }, []uint32{1})
		if err == nil || !strings.Contains(err.Error(), "rate") {
			t.Errorf("rate %g: error %v, want one about the rate", p, err)
		}
	}
}

func ExampleKeep() {
	d, err := backend.Open("")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer d.Close()
	out, err := CallOnce(d.Backend, func(element *Node) *Node { return draw.Keep(draw.Mix(element), 0.5) }, []uint32{1, 2, 3, 4, 5, 6})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(out.Value())
	// Output: [false false true false true false]
}

// Of four columns that share a hash, each is dropped at the rate, and any two together at its square.
func TestColumnsAreDroppedIndependently(t *testing.T) {
	d, err := backend.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const rows, columns = 1 << 14, 16
	keys := make([]uint32, rows)
	for i := range keys {
		keys[i] = uint32(i)
	}
	for _, p := range []float64{0.05, 0.1, 0.5} {
		out, err := CallOnce(d.Backend, func(keys *Node) *Node { return draw.Keep(draw.Columns(draw.Mix(keys), columns), p) }, keys)
		if err != nil {
			t.Fatal(err)
		}
		kept := out.Value().([][]bool)
		for a := range columns {
			for b := a; b < columns; b++ {
				both, want := 0, p*p
				for _, row := range kept {
					if !row[a] && !row[b] {
						both++
					}
				}
				if a == b {
					want = p
				}
				if got, spread := float64(both)/rows, math.Sqrt(want*(1-want)/rows); math.Abs(got-want) > 4.5*spread {
					t.Errorf("rate %g: columns %d and %d are dropped together in %.5f of the rows, want %.5f ± %.5f", p, a, b, got, want, spread)
				}
			}
		}
	}
}
