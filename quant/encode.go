package quant

import "math"

// absmaxPlain is absmaxBits without vector instructions.
func absmaxPlain(x []float32) uint32 {
	const abs = 1<<31 - 1
	var m0, m1, m2, m3 uint32
	for ; len(x) >= 4; x = x[4:] {
		m0 = max(m0, math.Float32bits(x[0])&abs)
		m1 = max(m1, math.Float32bits(x[1])&abs)
		m2 = max(m2, math.Float32bits(x[2])&abs)
		m3 = max(m3, math.Float32bits(x[3])&abs)
	}
	for _, v := range x {
		m0 = max(m0, math.Float32bits(v)&abs)
	}
	return max(m0, m1, m2, m3)
}

// tiny is the least divisor that bitsandbytes uses; blocks below it do not fill the range of the codes.
const tiny = float32(1e-38)

// encodeBlock writes the codes of x to dst, [(len(x)+1)/2], and returns the block's absmax; finite is false, and dst
// unspecified, if some value is not. short marks a last block of less than the blocksize, which bitsandbytes divides by
// absmax instead of multiplying by its reciprocal, and whose absmax it stores as at least tiny.
func (c *codebook) encodeBlock(dst []byte, x []float32, short bool) (absmax float32, finite bool) {
	bits := absmaxBits(x)
	if bits >= infBits {
		return 0, false
	}
	absmax = math.Float32frombits(bits)
	if short {
		absmax = max(absmax, tiny)
		scaled := make([]float32, len(x)+len(x)%2) // with the 0 that fills up an odd count
		for i, v := range x {
			scaled[i] = v / absmax
		}
		c.encodeScaled(dst, scaled, 1)
		return absmax, true
	}
	c.encodeScaled(dst, x, 1/max(absmax, tiny))
	return absmax, true
}

// encodePlain is encodeScaled without vector instructions.
func (c *codebook) encodePlain(dst []byte, x []float32, inverse float32) {
	for i := range dst {
		two := (*[2]float32)(x[2*i:])
		high := c.nearest(two[0] * inverse)
		low := c.nearest(two[1] * inverse)
		dst[i] = c.pair[high<<4|low]
	}
}

// nearest returns how many boundaries lie below s, 0 to 15.
func (c *codebook) nearest(s float32) uint8 {
	rank := c.rank[cellOf(s)]
	above := uint8(0)
	if s > c.bounds[rank&15] {
		above = 1
	}
	return rank + above
}
