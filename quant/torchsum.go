package quant

// mean32 is torch.mean of a contiguous float32 tensor on one thread of an x86 CPU. Its bits depend on the order of the
// additions, and so do bitsandbytes' nested codes, which are relative to it. torch sums eight interleaved lanes when
// there are at least eight values, lane by lane as four interleaved rows in cascades of at least 16
// (ATen/native/cpu/SumKernel.cpp), then the values left over, then the lanes; and divides by the count.
func mean32(x []float32) float32 {
	const lanes = 8
	var sum float32
	if len(x) < lanes {
		sum = rowSum[[1]float32](x)[0]
	} else {
		vectors := len(x) / lanes
		acc := rowSum[[lanes]float32](x[:vectors*lanes])
		for _, v := range x[vectors*lanes:] {
			sum += v
		}
		for _, v := range acc {
			sum += v
		}
	}
	return sum / float32(len(x))
}

// vector is as many float32 as torch adds with one instruction.
type vector interface{ [1]float32 | [8]float32 }

func addTo[V vector](acc *V, x []float32) {
	for i := range len(*acc) {
		(*acc)[i] += x[i]
	}
}

// rowSum sums x, whose length is a multiple of the vector's, into one vector: four rows that take turns, then the
// vectors left over, then the rows.
func rowSum[V vector](x []float32) V {
	const rows = 4
	var zero V
	width := len(zero)
	vectors := len(x) / width
	acc := cascade[V](x[:vectors/rows*rows*width])
	for i := vectors / rows * rows; i < vectors; i++ {
		addTo(&acc[0], x[i*width:])
	}
	for k := 1; k < rows; k++ {
		for i := range width {
			acc[0][i] += acc[k][i]
		}
	}
	return acc[0]
}

// cascade sums groups of four vectors into four, in four levels: after every 2^p groups a level's sum moves to the
// next level, so that only sums of like size are added. p is 4, or a quarter of log2 of the number of groups.
func cascade[V vector](x []float32) [4]V {
	const rows, levels = 4, 4
	var acc [levels][rows]V
	width := len(acc[0][0])
	groups := len(x) / (rows * width)
	power := max(4, ceilLog2(groups)/levels)
	step := 1 << power
	add := func(group int) {
		for k := range rows {
			addTo(&acc[0][k], x[(group*rows+k)*width:])
		}
	}
	i := 0
	for i+step <= groups {
		for range step {
			add(i)
			i++
		}
		for j := 1; j < levels; j++ {
			for k := range rows {
				addLanes(&acc[j][k], &acc[j-1][k])
				acc[j-1][k] = *new(V)
			}
			if i&((step-1)<<(j*power)) != 0 {
				break
			}
		}
	}
	for ; i < groups; i++ {
		add(i)
	}
	for j := 1; j < levels; j++ {
		for k := range rows {
			addLanes(&acc[0][k], &acc[j][k])
		}
	}
	return acc[0]
}

func addLanes[V vector](acc, x *V) {
	for i := range len(*acc) {
		(*acc)[i] += (*x)[i]
	}
}

func ceilLog2(n int) int {
	p := 0
	for 1<<p < n {
		p++
	}
	return p
}
