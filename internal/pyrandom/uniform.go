package pyrandom

// Uniform draws float32 numbers from [from, to) as torch's Tensor.uniform_ does on the CPU, with a generator of its own.
type Uniform struct{ g *mt19937 }

// NewUniform is torch.Generator().manual_seed(seed).
func NewUniform(seed int64) *Uniform { return &Uniform{newMT19937(uint32(seed))} }

// Fill is dst.uniform_(from, to): 24 bits for each number, scaled in float64 by bounds that were rounded to float32.
func (u *Uniform) Fill(dst []float32, from, to float64) {
	low := float32(from)
	width := float64(float32(to) - low)
	for i := range dst {
		dst[i] = float32(float64(u.g.next()&(1<<24-1))*0x1p-24*width + float64(low))
	}
}
