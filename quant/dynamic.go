package quant

import (
	"math"
	"slices"
	"sync"
)

// DynamicMap returns the 256 ascending numbers of bitsandbytes' 8-bit dynamic data type (create_dynamic_map; arXiv:
// 1511.04561): for each of seven powers of ten the means of neighbouring points of a linear grid on [0.1, 1], and 0 and
// 1. The signed map codes nested absmax and first moments, the unsigned one second moments. The bits are those that
// torch computes on an x86 CPU: its linspace works from both ends towards the middle with fused multiply-adds.
func DynamicMap(signed bool) [256]float32 {
	if signed {
		return signedMap()
	}
	return unsignedMap()
}

var (
	signedMap   = sync.OnceValue(func() [256]float32 { return newDynamicMap(true) })
	unsignedMap = sync.OnceValue(func() [256]float32 { return newDynamicMap(false) })
)

func newDynamicMap(signed bool) (m [256]float32) {
	values := m[:0]
	for i := range 7 {
		n := 1 << i // intervals of the grid
		if !signed {
			n *= 2
		}
		scale := float32(math.Pow10(i - 6))
		grid := linspace(0.1, 1, n+1)
		for j := range n {
			mean := float32((grid[j]+grid[j+1])/2) * scale
			values = append(values, mean)
			if signed {
				values = append(values, -mean)
			}
		}
	}
	values = append(values, 0, 1)
	slices.Sort(values)
	return m
}

// linspace is torch.linspace in float32. The products and sums are exact in float64, so one conversion rounds them as
// a fused multiply-add does.
func linspace(start, end float32, steps int) []float32 {
	step := (end - start) / float32(steps-1)
	out := make([]float32, steps)
	for i := range out {
		if i < steps/2 {
			out[i] = float32(float64(step)*float64(i) + float64(start))
		} else {
			out[i] = float32(float64(end) - float64(step)*float64(steps-i-1))
		}
	}
	return out
}

// dynamicSteps is the resolution of the table through which bitsandbytes' CPU kernel looks up 8-bit codes.
const dynamicSteps = 65536

// stepCodes maps step i, which stands for 2i/65535 - 1, to the code of the nearest of the ascending numbers; a tie goes
// to the smaller number.
func stepCodes(numbers *[256]float32) *[dynamicSteps]uint8 {
	switch *numbers {
	case signedMap():
		return signedCodes()
	case unsignedMap():
		return unsignedCodes()
	}
	return newStepCodes(*numbers)
}

var (
	signedCodes   = sync.OnceValue(func() *[dynamicSteps]uint8 { return newStepCodes(signedMap()) })
	unsignedCodes = sync.OnceValue(func() *[dynamicSteps]uint8 { return newStepCodes(unsignedMap()) })
)

func newStepCodes(m [256]float32) *[dynamicSteps]uint8 {
	codes := new([dynamicSteps]uint8)
	code := 0
	for i := range codes {
		x := float32(float32(2*i)/(dynamicSteps-1)) - 1
		for code < 255 && (m[code]+m[code+1])*0.5 < x {
			code++
		}
		codes[i] = uint8(code)
	}
	return codes
}

// dynamicStep returns the step of x, a value scaled to [-1, 1]. bitsandbytes' compilers fuse the last multiply and add;
// in float64 both are exact, and one conversion rounds them likewise. NaN (0 times an infinite reciprocal) is step 0.
func dynamicStep(x float32) int {
	if x != x {
		return 0
	}
	x = min(max(x, -1), 1)
	half := float32(x+1) * 0.5
	return int(float32(float64(half)*(dynamicSteps-1) + 0.5))
}
