package reference

// Inputs that the scripts behind fixtures generate too, bit for bit (generate in quant/testdata/make_fixtures.py): every
// step is exact or one float64 rounding.

// Draw returns the four random numbers of value i of a sequence: r are outputs 4i to 4i+3 of splitmix64 from seed, u the
// same as fractions of [0, 1).
func Draw(seed uint64, i int) (r [4]uint64, u [4]float64) {
	for k := range r {
		z := seed + uint64(4*i+k+1)*0x9E3779B97F4A7C15
		z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		r[k] = z ^ z>>31
		u[k] = float64(r[k]>>11) * 0x1p-53
	}
	return r, u
}

// Bell is close to normally distributed around 0, between -2 and 2.
func Bell(u [4]float64) float64 { return u[0] + u[1] + u[2] + u[3] - 2 }

// Normal returns n values of which each is Bell times scale.
func Normal(seed uint64, n int, scale float64) []float32 {
	x := make([]float32, n)
	for i := range x {
		_, u := Draw(seed, i)
		x[i] = float32(Bell(u) * scale)
	}
	return x
}
