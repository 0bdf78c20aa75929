package nn

import (
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/attention"
	"github.com/loris-ml/loris/internal/kernels"
)

// Cache holds the keys and values of earlier tokens while generating.
type Cache struct {
	K, V     *Node // [B, capacity, KVHeads, HeadDim], nil while there are none; Attend replaces them by the extended ones
	Position *Node // int32 scalar: where in the cache the first token of this call goes
	Start    *Node // [B] int32: where in the cache each row begins; what lies before is padding
	Capacity int   // of a cache that there is not yet
}

// attend writes k and v [B, S, KVHeads, HeadDim] at the cache's position and lets every query of q [B, S, Heads, HeadDim] see
// what lies at or before its own place and not before its row's start. Without a cache it makes one, in which they are the
// first.
func (c *Cache) attend(q, k, v *Node, o attention.Options) (out *Node) {
	if c.K != nil {
		out, c.K, c.V = kernels.CacheAttention(q, k, v, c.K, c.V, c.Position, c.Start, cacheOptions(o))
		return out
	}
	c.K, c.V = pad(k, 1, c.Capacity), pad(v, 1, c.Capacity)
	// Padding is a document of its own.
	places := shapes.Make(dtypes.Int32, q.Shape().Dim(0), q.Shape().Dim(1))
	text := GreaterOrEqual(Iota(q.Graph(), places, 1), BroadcastToShape(ExpandAxes(c.Start, -1), places))
	o.Causal, o.SegmentIDs, o.MaxSegments = true, ConvertDType(text, dtypes.Int32), 2
	return attention.Attend(q, k, v, o)
}

// attendRotary is attend of one token of each row, whose queries, keys and values lie side by side, to be rotated.
func (c *Cache) attendRotary(qkv, cos, sin *Node, heads int, o attention.Options) (out *Node) {
	out, c.K, c.V = kernels.RotaryCacheAttention(qkv, cos, sin, c.K, c.V, c.Position, c.Start, heads, cacheOptions(o))
	return out
}

func cacheOptions(o attention.Options) kernels.CacheOptions {
	return kernels.CacheOptions{Scale: o.Scale, SoftCap: o.SoftCap, Window: o.Window}
}
