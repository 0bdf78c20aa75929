package quant

// HalfPlanes rearranges bitsandbytes' bytes for device memory. h bytes hold 2h codes: n, or n+1 with the one that fills
// up an odd n. Byte j of the result holds code j in its low nibble and code j+h in its high one, so the low nibbles are
// the first half of the flattened weight and the high nibbles the second. [FromHalfPlanes] is the inverse.
func HalfPlanes(packed []byte) []byte {
	planes := make([]byte, len(packed))
	toHalfPlanes(planes, packed)
	return planes
}

// FromHalfPlanes returns the bytes of which [HalfPlanes] made planes.
func FromHalfPlanes(planes []byte) []byte {
	packed := make([]byte, len(planes))
	fromHalfPlanes(packed, planes)
	return packed
}

// grainBytes is the least work worth a goroutine.
const grainBytes = 1 << 16

func toHalfPlanes(planes, packed []byte) {
	h := len(packed)
	if h%2 == 1 { // code h, the first of the high plane, is the low nibble of a byte
		for j := range planes {
			planes[j] = nibble(packed, j) | nibble(packed, j+h)<<4
		}
		return
	}
	parallel(h/2, grainBytes, func(begin, end int) {
		first, second := packed[begin:end], packed[h/2+begin:h/2+end]
		out := planes[2*begin : 2*end]
		for i, a := range first {
			b := second[i]
			out[2*i] = a>>4 | b&0xf0
			out[2*i+1] = a&0x0f | b<<4
		}
	})
}

func fromHalfPlanes(packed, planes []byte) {
	h := len(planes)
	if h%2 == 1 {
		for j, b := range planes {
			setNibble(packed, j, b&15)
			setNibble(packed, j+h, b>>4)
		}
		return
	}
	parallel(h/2, grainBytes, func(begin, end int) {
		first, second := packed[begin:end], packed[h/2+begin:h/2+end]
		in := planes[2*begin : 2*end]
		for i := range first {
			a, b := in[2*i], in[2*i+1]
			first[i] = a<<4 | b&0x0f
			second[i] = a&0xf0 | b>>4
		}
	})
}

// nibble returns code i of packed; even codes are high nibbles.
func nibble(packed []byte, i int) byte { return packed[i/2] >> (4 * (1 - i%2)) & 15 }

func setNibble(packed []byte, i int, code byte) { packed[i/2] |= code << (4 * (1 - i%2)) }
