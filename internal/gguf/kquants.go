package gguf

// superblock is the number of values in a block of the K types; each has parts of 16 or 32 values with scales of their own.
const superblock = 256

// decodeQ2_K: 16 bytes, scale in the lower and minimum in the upper half, one for each 16 values; 64 bytes of 2-bit codes;
// F16 d and dmin. value = d·scale·code - dmin·minimum.
func decodeQ2_K(dst []float32, block []byte) {
	scales, codes, d, dmin := block[:16], block[16:80], half(block[80:]), half(block[82:])
	for part := range superblock / 16 {
		scale, minimum := d*float32(scales[part]&15), dmin*float32(scales[part]>>4)
		shift := 2 * (part / 2 % 4)
		from := codes[part/8*32+part%2*16:][:16]
		out := dst[part*16:][:16]
		for j, c := range from {
			out[j] = float32(scale*float32(c>>shift&3)) - minimum
		}
	}
}

// decodeQ3_K: 32 bytes with the upper bits of the codes, 64 with the two lower ones, 12 with 16 scales of 6 bits, F16 d.
// value = d·(scale-32)·(code-4).
func decodeQ3_K(dst []float32, block []byte) {
	upper, codes, scales, d := block[:32], block[32:96], block[96:108], half(block[108:])
	for part := range superblock / 16 {
		scale := scales[part%8] >> (part / 8 * 4) & 15
		scale |= scales[8+part%4] >> (part / 4 * 2) & 3 << 4
		factor := d * float32(int(scale)-32)
		shift, bit := 2*(part/2%4), part/2
		from, high := codes[part/8*32+part%2*16:][:16], upper[part%2*16:][:16]
		out := dst[part*16:][:16]
		for j, c := range from {
			out[j] = factor * float32(int(c>>shift&3)-4+int(high[j]>>bit&1)<<2)
		}
	}
}

// scaleAndMinimum are those of part k of a Q4_K or Q5_K block: 8 of each, of 6 bits, in 12 bytes.
func scaleAndMinimum(packed []byte, k int) (scale, minimum float32) {
	if k < 4 {
		return float32(packed[k] & 63), float32(packed[k+4] & 63)
	}
	return float32(packed[k+4]&15 | packed[k-4]>>6<<4), float32(packed[k+4]>>4 | packed[k]>>6<<4)
}

// pairScales are the factors and minimums of the two parts, of 32 values each, that share codes in a Q4_K or Q5_K block.
func pairScales(block []byte, pair int) (s0, m0, s1, m1 float32) {
	d, dmin, packed := half(block), half(block[2:]), block[4:16]
	s0, m0 = scaleAndMinimum(packed, 2*pair)
	s1, m1 = scaleAndMinimum(packed, 2*pair+1)
	return d * s0, dmin * m0, d * s1, dmin * m1
}

// decodeQ4_K: F16 d and dmin, 12 bytes of scales and minimums, 128 of 4-bit codes. value = d·scale·code - dmin·minimum.
func decodeQ4_K(dst []float32, block []byte) {
	codes := block[16:144]
	for pair := range superblock / 64 {
		s0, m0, s1, m1 := pairScales(block, pair)
		lower, upper := dst[pair*64:][:32], dst[pair*64+32:][:32]
		for j, c := range codes[pair*32:][:32] {
			lower[j] = float32(s0*float32(c&15)) - m0
			upper[j] = float32(s1*float32(c>>4)) - m1
		}
	}
}

// decodeQ5_K: as Q4_K, with 32 bytes of fifth bits before the codes.
func decodeQ5_K(dst []float32, block []byte) {
	fifth, codes := block[16:48], block[48:176]
	for pair := range superblock / 64 {
		s0, m0, s1, m1 := pairScales(block, pair)
		lower, upper := dst[pair*64:][:32], dst[pair*64+32:][:32]
		for j, c := range codes[pair*32:][:32] {
			bits := fifth[j] >> (2 * pair)
			lower[j] = float32(s0*float32(c&15|bits&1<<4)) - m0
			upper[j] = float32(s1*float32(c>>4|bits>>1&1<<4)) - m1
		}
	}
}

// decodeQ6_K: 128 bytes with the four lower bits of the codes, 64 with the two upper ones, 16 signed scales, F16 d.
// value = d·scale·(code-32).
func decodeQ6_K(dst []float32, block []byte) {
	low, high, scales, d := block[:128], block[128:192], block[192:208], half(block[208:])
	for part := range superblock / 16 {
		factor := d * float32(int8(scales[part]))
		at := part % 8 * 16 // in the half of 128 values
		from, shift := low[part/8*64+at%64:][:16], at/64*4
		top, topShift := high[part/8*32+at%32:][:16], at/32*2
		out := dst[part*16:][:16]
		for j, c := range from {
			out[j] = factor * float32(int(c>>shift&15|top[j]>>topShift&3<<4)-32)
		}
	}
}
