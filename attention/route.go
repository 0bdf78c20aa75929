package attention

import (
	"fmt"

	. "github.com/gomlx/gomlx/core/graph"
)

// denseScores is up to how many scores per head the dense route is taken for.
const denseScores = 128 * 128

// settle decides the route of a call that leaves it open, and says why; it panics where a forced one does not apply.
func (c *call) settle() (why string) {
	not := c.whyNotCuDNN(c.q.Graph().Backend())
	switch {
	case c.Route == RouteCuDNN && not != "":
		panic(fmt.Errorf("attention: RouteCuDNN does not apply: %s", not))
	case c.Route != RouteAuto:
		return "as asked for"
	case not == "":
		c.Route = RouteCuDNN
		return "cuDNN takes it"
	case c.queries*c.keys <= denseScores:
		c.Route = RouteDense
		return "the score matrix is small; cuDNN: " + not
	}
	c.Route = RouteTiled
	return "cuDNN: " + not
}

// Explain says which route [Attend] takes for these inputs and why: "cudnn: cuDNN takes it".
func Explain(q, k, v *Node, o Options) string {
	c := newCall(q, k, v, o)
	why := c.settle()
	return c.Route.String() + ": " + why
}
