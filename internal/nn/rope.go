package nn

import "math"

// Frequencies are the frequencies of RoPE in radians per position [rotated features/2], and a factor on its cosines and
// sines. Some models' depend on the length of what they read: the most positions of a sequence in the batch, padding
// aside.
type Frequencies func(length int) (inverse []float32, scale float64)

// Rope is a model's rotary position embedding.
type Rope struct {
	Tables []Frequencies // one for each kind of layers that has its own, all of one width; see Layer.UseRope
	// Switch, if not 0, is a length at which the frequencies change at once: keys rotated in a sequence that long or shorter
	// are of no use in a longer one.
	Switch int
}

// Width is the number of columns of Table.
func (r Rope) Width() (n int) {
	for _, f := range r.Tables {
		inverse, _ := f(1)
		n += len(inverse)
	}
	return n
}

// Table returns the cosines and sines [len(positions), Width] of position times frequency, for sequences of length
// tokens; the tables lie side by side. Angles are rounded to float32 before the cosine, as everywhere in the field: at
// long positions that is what a model was trained with.
func (r Rope) Table(positions []int32, length int) (cos, sin []float32) {
	width, at := r.Width(), 0
	cos, sin = make([]float32, len(positions)*width), make([]float32, len(positions)*width)
	for _, f := range r.Tables {
		inverse, scale := f(length)
		for i, p := range positions {
			for j, f := range inverse {
				s, c := math.Sincos(float64(float32(p) * f))
				cos[i*width+at+j], sin[i*width+at+j] = float32(c*scale), float32(s*scale)
			}
		}
		at += len(inverse)
	}
	return cos, sin
}

// InverseFrequencies returns 1/theta^(2i/rotary) for i < rotary/2, rounded to float32 as transformers does.
func InverseFrequencies(theta float64, rotary int) []float32 {
	inv := make([]float32, rotary/2)
	for i := range inv {
		inv[i] = 1 / float32(math.Pow(theta, float64(float32(2*i)/float32(rotary))))
	}
	return inv
}

// Constant are frequencies that do not depend on the length.
func Constant(inverse []float32, scale float64) Frequencies {
	return func(int) ([]float32, float64) { return inverse, scale }
}
