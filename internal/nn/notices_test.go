package nn

import (
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/backend"
)

func TestRoutesThatAreNotCuDNNsAreToldOnce(t *testing.T) {
	d, err := backend.Open("go")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var said []string
	n := &Notices{Say: func(text string) { said = append(said, text) }}
	g := NewGraph(d.Backend, "routes")
	defer g.Finalize()
	x := func(length int) *Node { return Zeros(g, shapes.Make(dtypes.Float32, 1, length, 2, 16)) }
	short, long := x(8), x(256)
	for range 2 {
		n.attention(short, short, short, attention.Options{Causal: true})
		n.attention(long, long, long, attention.Options{Causal: true})
		n.attention(long, long, long, attention.Options{Causal: true, Route: attention.RouteDense}) // was asked for
	}
	(*Notices)(nil).attention(short, short, short, attention.Options{})
	if begins := func(of string) bool {
		return slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, of) && strings.Contains(s, "cuDNN") })
	}; len(said) != 2 || !begins("dense: ") || !begins("tiled: ") {
		t.Errorf("said %q", said)
	}
}
