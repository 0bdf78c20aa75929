package pyrandom

import "math/bits"

// NumPy is numpy.random.default_rng: a PCG64 generator (XSL-RR, 128 bits of state) seeded through SeedSequence. It is for
// one goroutine.
type NumPy struct {
	high, low       uint64 // state
	incHigh, incLow uint64
	half            uint32 // what the last Uint32 left over
	buffered        bool
}

// NewNumPy returns default_rng(seed). NumPy refuses negative seeds; here they count as their two's complement.
func NewNumPy(seed int64) *NumPy {
	words := seedSequence(uint64(seed))
	g := &NumPy{incHigh: words[2]<<1 | words[3]>>63, incLow: words[3]<<1 | 1}
	g.step()
	var carry uint64
	g.low, carry = bits.Add64(g.low, words[1], 0)
	g.high, _ = bits.Add64(g.high, words[0], carry)
	g.step()
	return g
}

// seedSequence is numpy.random.SeedSequence(entropy).generate_state(4, uint64).
func seedSequence(entropy uint64) (state [4]uint64) {
	const shift = 16
	hash := uint32(0x43b0d7e5)
	hashed := func(v uint32) uint32 {
		v ^= hash
		hash *= 0x931e8875
		v *= hash
		return v ^ v>>shift
	}
	pool := [4]uint32{uint32(entropy), uint32(entropy >> 32)}
	for i, v := range pool {
		pool[i] = hashed(v)
	}
	for from := range pool {
		for to := range pool {
			if from != to {
				v := 0xca01f9dd*pool[to] - 0x4973f715*hashed(pool[from])
				pool[to] = v ^ v>>shift
			}
		}
	}
	hash = 0x8b51f9dd
	for i := range 8 {
		v := pool[i%len(pool)] ^ hash
		hash *= 0x58f38ded
		v *= hash
		v ^= v >> shift
		state[i/2] |= uint64(v) << (32 * (i % 2))
	}
	return state
}

func (g *NumPy) step() {
	const multHigh, multLow = 0x2360ED051FC65DA4, 0x4385DF649FCCF645
	high, low := bits.Mul64(g.low, multLow)
	high += g.high*multLow + g.low*multHigh
	var carry uint64
	g.low, carry = bits.Add64(low, g.incLow, 0)
	g.high, _ = bits.Add64(high, g.incHigh, carry)
}

// Uint64 returns 64 random bits.
func (g *NumPy) Uint64() uint64 {
	g.step()
	return bits.RotateLeft64(g.high^g.low, -int(g.high>>58))
}

// Uint32 returns 32 random bits: the low half of a Uint64, then its high half.
func (g *NumPy) Uint32() uint32 {
	if g.buffered {
		g.buffered = false
		return g.half
	}
	v := g.Uint64()
	g.half, g.buffered = uint32(v>>32), true
	return uint32(v)
}

// Float64 returns a number in [0, 1): Generator.random.
func (g *NumPy) Float64() float64 { return float64(g.Uint64()>>11) / (1 << 53) }

// upTo returns a number in [0, max], unbiased: bits until they are no greater (random_interval of NumPy's legacy sampling,
// which its shuffling still uses).
func (g *NumPy) upTo(max uint64) uint64 {
	mask := uint64(1)<<bits.Len64(max) - 1
	for {
		v := uint64(0)
		switch {
		case max == 0:
		case max < 1<<32:
			v = uint64(g.Uint32()) & mask
		default:
			v = g.Uint64() & mask
		}
		if v <= max {
			return v
		}
	}
}

// Permutation returns the numbers below n in random order: Generator.permutation(n).
func (g *NumPy) Permutation(n int) []int {
	p := identity(n)
	for i := n - 1; i > 0; i-- {
		j := g.upTo(uint64(i))
		p[i], p[j] = p[j], p[i]
	}
	return p
}

// Choice draws numbers below len(p), each with its probability: Generator.choice(len(p), size, p=p). The probabilities
// need not be scaled.
func (g *NumPy) Choice(size int, p []float64) []int {
	cumulative := make([]float64, len(p))
	sum := 0.0
	for i, v := range p {
		sum += v
		cumulative[i] = sum
	}
	for i := range cumulative {
		cumulative[i] /= sum
	}
	drawn := make([]int, size)
	for i := range drawn {
		u := g.Float64()
		for drawn[i] < len(p)-1 && cumulative[drawn[i]] <= u {
			drawn[i]++
		}
	}
	return drawn
}

func identity(n int) []int {
	p := make([]int, n)
	for i := range p {
		p[i] = i
	}
	return p
}
