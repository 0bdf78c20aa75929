//go:build !goexperiment.simd || !amd64

package quant

// What encode_simd.go has vector forms of, where there are none.

func absmaxBits(x []float32) uint32 { return absmaxPlain(x) }

func (c *codebook) encodeScaled(dst []byte, x []float32, inverse float32) {
	c.encodePlain(dst, x, inverse)
}

func widenF32(dst []float32, raw []byte)  { widenF32Plain(dst, raw) }
func widenBF16(dst []float32, raw []byte) { widenBF16Plain(dst, raw) }
func widenF16(dst []float32, raw []byte)  { widenF16Plain(dst, raw) }

func roundHalves(dst, x []float32)                      { roundHalvesPlain(dst, x) }
func encodeInt8(dst []int8, x []float32, scale float32) { encodeInt8Plain(dst, x, scale) }
