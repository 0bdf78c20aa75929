package quant

import "fmt"

// Dequantize4Bit decodes bitsandbytes' bytes to the n values of state.Shape: code·absmax in float32, rounded once to
// state.DType and widened again to float32. It uses all CPUs. Lengths that do not fit each other are errors.
func Dequantize4Bit(packed []byte, state *QuantState) ([]float32, error) {
	if err := state.check(packed); err != nil {
		return nil, fmt.Errorf("dequantize: %w", err)
	}
	n, err := size(state.Shape)
	if err != nil {
		return nil, fmt.Errorf("dequantize: %w", err)
	}
	book, err := state.QuantType.book()
	if err != nil {
		return nil, fmt.Errorf("dequantize: %w", err)
	}
	round := rounder(state.DType)
	values := make([]float32, n)
	parallel(n, 1<<14, func(begin, end int) {
		for ; begin < end; begin += state.Blocksize {
			var table [16]float32 // what the 16 codes are in this block
			for code, v := range book.decode {
				table[code] = round(v * state.Absmax[begin/state.Blocksize])
			}
			decodeBlock(values[begin:min(begin+state.Blocksize, end)], packed[begin/2:], &table)
		}
	})
	return values, nil
}

// decodeBlock looks the codes of dst, high nibble first, up in table.
func decodeBlock(dst []float32, packed []byte, table *[16]float32) {
	packed = packed[:(len(dst)+1)/2]
	if len(dst)%2 == 1 {
		last := len(dst) - 1
		dst[last] = table[packed[last/2]>>4]
		dst, packed = dst[:last], packed[:last/2]
	}
	dst = dst[:2*len(packed)]
	for i, b := range packed {
		dst[2*i] = table[b>>4]
		dst[2*i+1] = table[b&15]
	}
}
