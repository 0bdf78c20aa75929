package layerwise

import . "github.com/gomlx/gomlx/core/graph"

// Logit is what becomes of the head's product before the softmax; the zero value leaves it alone.
type Logit struct {
	Divisor float64 // logits are divided by it; 0: 1
	SoftCap float64 // if not 0, logits become SoftCap·tanh(logit/SoftCap)
}

// apply returns the logits of the head's product x, which is float32 unless l is the zero value, and the function that takes the
// gradient at the logits to that at x.
func (l Logit) apply(x *Node) (logits *Node, slope func(d *Node) *Node) {
	logits, slope = x, func(d *Node) *Node { return d }
	if l.Divisor != 0 {
		logits = DivScalar(x, l.Divisor)
		slope = func(d *Node) *Node { return DivScalar(d, l.Divisor) }
	}
	if l.SoftCap != 0 {
		t, before := Tanh(DivScalar(logits, l.SoftCap)), slope
		logits = MulScalar(t, l.SoftCap)
		slope = func(d *Node) *Node { return before(Mul(d, OneMinus(Mul(t, t)))) }
	}
	return logits, slope
}
