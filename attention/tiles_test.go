package attention

import (
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
)

// tileCases are options over 256 × 256 scores in tiles of 64 × 64, and how many of the 16 tiles they leave.
var tileCases = []struct {
	name string
	o    Options
	want int
}{
	{"full", Options{}, 16},
	{"causal", Options{Causal: true}, 10},
	{"window of one tile", Options{Window: 64}, 7},
	{"window of one tile and a key", Options{Window: 65}, 7},
	{"window of one tile and two keys", Options{Window: 66}, 9},
	{"causal from behind the keys", Options{Causal: true, QueryOffset: 256}, 16},
}

func TestTilesThatPositionsHideAreLeftOut(t *testing.T) {
	for _, x := range tileCases {
		x.o.BlockQ, x.o.BlockKV = 64, 64
		c := &call{Options: x.o, queries: 256, keys: 256}
		c.Causal = c.Causal || c.Window > 0
		n := 0
		for _, b := range c.bands() {
			n += len(b.tiles)
			for _, k := range b.tiles {
				seen, hidden := 0, 0
				for i := b.q0; i < b.q1; i++ {
					for j := k.k0; j < k.k1; j++ {
						if at := i + c.QueryOffset; c.Causal && j > at || c.Window > 0 && j <= at-c.Window {
							hidden++
						} else {
							seen++
						}
					}
				}
				if seen == 0 || (hidden > 0) != k.masked {
					t.Errorf("%s: tile %v of band %v has %d visible and %d hidden scores", x.name, k, b, seen, hidden)
				}
			}
		}
		if n != x.want {
			t.Errorf("%s: %d tiles, want %d", x.name, n, x.want)
		}
	}
}

// The graph has two matrix products per tile in the forward and five in the backward, and no more.
func TestGraphsHoldTheProductsOfTheirTilesOnly(t *testing.T) {
	d := open(t)
	for _, x := range tileCases {
		x.o.BlockQ, x.o.BlockKV, x.o.Route = 64, 64, RouteTiled
		g := NewGraph(d.Backend, x.name)
		s := shapes.Make(dtypes.Float32, 1, 256, 2, 16)
		q, k, v := Parameter(g, "q", s), Parameter(g, "k", s), Parameter(g, "v", s)
		out := Attend(q, k, v, x.o)
		if n := products(g); n != 2*x.want {
			t.Errorf("%s: the forward has %d products, want %d", x.name, n, 2*x.want)
		}
		Gradient(ReduceAllSum(out), q, k, v)
		if n := products(g); n != (2+5)*x.want {
			t.Errorf("%s: forward and backward have %d products, want %d", x.name, n, 7*x.want)
		}
	}
}

func products(g *Graph) (n int) {
	for _, node := range g.Nodes() {
		if strings.Contains(node.Type().String(), "DotGeneral") {
			n++
		}
	}
	return n
}

func TestTileCountAndTileSizeStayBounded(t *testing.T) {
	for length := 128; length <= 1<<20; length *= 2 {
		c := &call{Options: Options{Causal: true}, queries: length, keys: length}
		n := 0
		for _, b := range c.bands() {
			n += len(b.tiles)
		}
		q, k := c.blocks()
		if area := q * k; n > 40+length/64 || area > max(minBlock*minBlock, 80*length) {
			t.Errorf("length %d: %d tiles of %d × %d", length, n, q, k)
		}
	}
}
