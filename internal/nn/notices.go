package nn

import (
	"strings"
	"sync"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/attention"
)

// Notices says where a model's programs leave the fastest way, each thing once.
type Notices struct {
	Say func(text string)

	said sync.Map // texts
}

// attention tells which route a call takes, and why, if it is not cuDNN's and was not asked for.
func (n *Notices) attention(q, k, v *Node, o attention.Options) {
	if n == nil || o.Route != attention.RouteAuto {
		return
	}
	text := attention.Explain(q, k, v, o)
	if strings.HasPrefix(text, attention.RouteCuDNN.String()) {
		return
	}
	if _, again := n.said.LoadOrStore(text, true); !again {
		n.Say(text)
	}
}
