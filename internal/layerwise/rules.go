package layerwise

import (
	"math"

	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/training"
)

// stepScalars are what changes from step to step, float32 scalars: the learning rate and two numbers of the rule's.
type stepScalars struct{ lr, c1, c2 *Node }

// scalars are the values of stepScalars in step t, counted from 1:
//
//	AdamW, Muon   1/(1-β1ᵗ), 1/√(1-β2ᵗ)
//	SGD           what a gradient weighs in the momentum: 1 in the first step, then 1-dampening
//	Adafactor     β2ₜ = 1 - t^-0.8
func (o optimizer) scalars(t int, lr float64) []float32 {
	step := float64(t)
	out := []float32{float32(lr), 0, 0}
	switch o.Rule {
	case training.AdamW, training.Muon:
		out[1], out[2] = float32(1/(1-math.Pow(o.beta1, step))), float32(1/math.Sqrt(1-math.Pow(o.beta2, step)))
	case training.SGD:
		out[1] = float32(1 - o.Dampening)
		if t == 1 {
			out[1] = 1
		}
	case training.Adafactor:
		out[1] = float32(1 - math.Pow(step, -0.8))
	}
	return out
}

// step runs the rule on one parameter p, whose joined tensors have the given rows, with gradient g and moments; all float32
// and, but for Adafactor's moments, of one shape. wd is its weight decay, lr its learning rate. Each rule is torch's,
// bitsandbytes' or transformers' of that name.
func (o optimizer) step(f form, s stepScalars, p, g *Node, rows []int, moments []*Node) (*Node, []*Node) {
	if f.rate != 1 {
		s.lr = MulScalar(s.lr, f.rate)
	}
	switch f.rule {
	case training.Lion:
		return o.lion(f, s, p, g, moments)
	case training.SGD:
		return o.sgd(f, s, p, g, moments)
	case training.Adafactor:
		return o.adafactor(f, s, p, g, rows, moments)
	case training.Muon:
		return o.muon(f, s, p, g, rows, moments)
	}
	return o.adamW(f, s, p, g, moments)
}

// decayed is p (1 - lr·wd).
func decayed(f form, s stepScalars, p *Node) *Node {
	if f.decay == 0 {
		return p
	}
	return Mul(p, OneMinus(MulScalar(s.lr, f.decay)))
}

// average is β·old + (1-β)·x.
func average(old, x *Node, beta float64) *Node {
	return Add(MulScalar(old, beta), MulScalar(x, 1-beta))
}

// adamW is torch.optim.AdamW (arXiv:1711.05101):
//
//	p ← p (1 - lr·wd),  m ← β1 m + (1-β1) g,  v ← β2 v + (1-β2) g²
//	p ← p - lr/(1-β1ᵗ) · m / (√v / √(1-β2ᵗ) + ε)
//
// bitsandbytes has the same rule; where moments are kept in 8 bits, p moves by those before they are rounded. (Its CUDA
// kernel for 8-bit AdamW alone decays p after the step, which is a part lr·wd of the step away.)
func (o optimizer) adamW(f form, s stepScalars, p, g *Node, moments []*Node) (*Node, []*Node) {
	p = decayed(f, s, p)
	m := average(moments[0], g, o.beta1)
	v := Add(MulScalar(moments[1], o.beta2), Mul(MulScalar(g, 1-o.beta2), g)) // the products in torch's order
	step := Div(m, AddScalar(Mul(Sqrt(v), s.c2), o.epsilon))
	return Sub(p, Mul(Mul(s.lr, s.c1), step)), []*Node{m, v}
}

// lion is bitsandbytes.optim.Lion (arXiv:2302.06675):
//
//	p ← p (1 - lr·wd),  p ← p - lr sign(β1 m + (1-β1) g),  m ← β2 m + (1-β2) g
func (o optimizer) lion(f form, s stepScalars, p, g *Node, moments []*Node) (*Node, []*Node) {
	direction := Sign(average(moments[0], g, o.beta1))
	return Sub(decayed(f, s, p), Mul(s.lr, direction)), []*Node{average(moments[0], g, o.beta2)}
}

// sgd is torch.optim.SGD, whose weight decay is part of the gradient:
//
//	g ← g + wd p,  m ← μ m + (1-dampening) g,  p ← p - lr m, or lr (g + μ m) with Nesterov's momentum
func (o optimizer) sgd(f form, s stepScalars, p, g *Node, moments []*Node) (*Node, []*Node) {
	if f.decay != 0 {
		g = Add(g, MulScalar(p, f.decay))
	}
	if o.Momentum == 0 {
		return Sub(p, Mul(s.lr, g)), nil
	}
	m := Add(MulScalar(moments[0], o.Momentum), Mul(s.c1, g))
	if o.Nesterov {
		g = Add(g, MulScalar(m, o.Momentum))
	} else {
		g = m
	}
	return Sub(p, Mul(s.lr, g)), []*Node{m}
}

// Adafactor's constants in transformers: what is added to squares, and the most that the root mean square of an update may be.
const (
	adafactorEpsilon = 1e-30
	adafactorClip    = 1.0
)

// adafactor is transformers.Adafactor (arXiv:1804.04235) as its Trainer configures it, without relative steps, scaling by
// the parameter or a first moment. For a matrix, with the means over rows and columns in brackets:
//
//	r ← β2ₜ r + (1-β2ₜ) [g²+ε]row,  c ← β2ₜ c + (1-β2ₜ) [g²+ε]col,  u = g / √(r cᵀ / mean r)
//	u ← u / max(1, rms u),  p ← p (1 - lr·wd) - lr u
//
// and for a vector u = g/√v with v ← β2ₜ v + (1-β2ₜ) (g²+ε).
func (o optimizer) adafactor(f form, s stepScalars, p, g *Node, rows []int, moments []*Node) (*Node, []*Node) {
	mean := func(old, x *Node) *Node { return Add(Mul(old, s.c1), Mul(x, OneMinus(s.c1))) }
	squares := AddScalar(Mul(g, g), adafactorEpsilon)
	var updates, rs, cs []*Node
	at := 0
	for i, n := range rows {
		part := AxisRange(at, at+n)
		at += n
		gi, sq := SliceAxis(g, 0, part), SliceAxis(squares, 0, part)
		var u *Node
		if p.Rank() == 2 {
			r := mean(SliceAxis(moments[0], 0, part), ReduceMean(sq, 1))
			c := mean(SliceAxis(moments[1], 0, AxisRange(i, i+1)), ReduceAndKeep(sq, ReduceMean, 0))
			rs, cs = append(rs, r), append(cs, c)
			u = Mul(Mul(Rsqrt(ExpandAxes(Div(r, ReduceAndKeep(r, ReduceMean, 0)), 1)), Rsqrt(c)), gi)
		} else {
			v := mean(SliceAxis(moments[0], 0, part), sq)
			rs = append(rs, v)
			u = Mul(Rsqrt(v), gi)
		}
		rms := Sqrt(ReduceAllMean(Mul(u, u)))
		updates = append(updates, Div(u, MaxScalar(MulScalar(rms, 1/adafactorClip), 1)))
	}
	moments = []*Node{stacked(rs)}
	if cs != nil {
		moments = append(moments, stacked(cs))
	}
	return Sub(decayed(f, s, p), Mul(s.lr, stacked(updates))), moments
}

// muon is torch.optim.Muon, for matrices [out, in]:
//
//	m ← μ m + (1-μ) g,  u = orthogonal((1-μ) g + μ m), or of m without Nesterov's momentum
//	p ← p (1 - lr·wd) - a·lr u
//
// with a = 0.2 √max(out, in), which gives updates the size of AdamW's (arXiv:2502.16982), or a = √max(1, out/in).
func (o optimizer) muon(f form, s stepScalars, p, g *Node, rows []int, moments []*Node) (*Node, []*Node) {
	m := average(moments[0], g, o.Momentum)
	u := m
	if o.Nesterov {
		u = average(m, g, o.Momentum)
	}
	var updates []*Node
	at := 0
	for _, n := range rows {
		x := SliceAxis(u, 0, AxisRange(at, at+n))
		at += n
		out, in := float64(n), float64(x.Shape().Dim(1))
		adjust := math.Sqrt(max(1, out/in))
		if o.MatchRMS {
			adjust = 0.2 * math.Sqrt(max(out, in))
		}
		updates = append(updates, MulScalar(orthogonal(x, o.NSSteps), adjust))
	}
	return Sub(decayed(f, s, p), Mul(s.lr, stacked(updates))), []*Node{m}
}

// orthogonal is nearly U Vᵀ of x = U S Vᵀ [out, in], by Newton–Schulz iterations with Muon's coefficients, which leave
// singular values between about 0.5 and 1.5 (kellerjordan.github.io/posts/muon). In float32, where torch rounds to bfloat16.
func orthogonal(x *Node, steps int) *Node {
	const a, b, c = 3.4445, -4.7750, 2.0315
	tall := x.Shape().Dim(0) > x.Shape().Dim(1)
	if tall {
		x = Transpose(x, 0, 1)
	}
	x = Div(x, MaxScalar(Sqrt(ReduceAllSum(Mul(x, x))), 1e-7))
	for range steps {
		gram := MatMul(x, Transpose(x, 0, 1))
		x = Add(MulScalar(x, a), MatMul(Add(MulScalar(gram, b), MulScalar(MatMul(gram, gram), c)), x))
	}
	if tall {
		x = Transpose(x, 0, 1)
	}
	return x
}

// stacked puts the parts of a parameter one behind the other.
func stacked(parts []*Node) *Node {
	if len(parts) == 1 {
		return parts[0]
	}
	return Concatenate(parts, 0)
}
