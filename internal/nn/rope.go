package nn

import "math"

// InverseFrequencies returns 1/theta^(2i/headDim) for i < headDim/2, rounded to float32 as transformers does.
func InverseFrequencies(theta float64, headDim int) []float32 {
	inv := make([]float32, headDim/2)
	for i := range inv {
		inv[i] = 1 / float32(math.Pow(theta, float64(float32(2*i)/float32(headDim))))
	}
	return inv
}

// RoPETable returns the cosines and sines [len(positions), len(inverse)] of position times frequency. Angles are
// rounded to float32 before the cosine, as everywhere in the field: at long positions that is what a model was
// trained with.
func RoPETable(inverse []float32, positions []int32) (cos, sin []float32) {
	n := len(inverse)
	cos, sin = make([]float32, len(positions)*n), make([]float32, len(positions)*n)
	for i, p := range positions {
		for j, f := range inverse {
			s, c := math.Sincos(float64(float32(p) * f))
			cos[i*n+j], sin[i*n+j] = float32(c), float32(s)
		}
	}
	return cos, sin
}
