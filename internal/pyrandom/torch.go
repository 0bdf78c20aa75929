package pyrandom

// RandPerm returns the numbers below n in random order: torch.randperm(n) on the CPU with a torch.Generator that
// manual_seed(seed) has set. It is how torch's and accelerate's random samplers order an epoch.
func RandPerm(seed int64, n int) []int { return NewTorch(seed).RandPerm(n) }

// Torch is torch's generator on the CPU. It is for one goroutine.
type Torch struct{ *mt19937 }

// NewTorch returns the generator as manual_seed(seed) leaves it.
func NewTorch(seed int64) Torch { return Torch{newMT19937(uint32(seed))} }

// RandPerm is torch.randperm(n).
func (t Torch) RandPerm(n int) []int {
	p := identity(n)
	for i := range n - 1 {
		j := i + int(t.next()%uint32(n-i))
		p[i], p[j] = p[j], p[i]
	}
	return p
}

// Int63 is torch.empty((), dtype=torch.int64).random_(): what a DataLoader draws before it goes through its rows.
func (t Torch) Int63() int64 {
	high := uint64(t.next()) << 32
	return int64((high | uint64(t.next())) &^ (1 << 63))
}

// mt19937 is the Mersenne twister of Matsumoto and Nishimura, 32 bits.
type mt19937 struct {
	state [624]uint32
	used  int
}

func newMT19937(seed uint32) *mt19937 {
	g := &mt19937{used: 624}
	g.state[0] = seed
	for i := 1; i < len(g.state); i++ {
		last := g.state[i-1]
		g.state[i] = 1812433253*(last^last>>30) + uint32(i)
	}
	return g
}

func (g *mt19937) next() uint32 {
	n := len(g.state)
	if g.used == n {
		for i := range g.state {
			y := g.state[i]&0x80000000 | g.state[(i+1)%n]&0x7fffffff
			v := g.state[(i+397)%n] ^ y>>1
			if y&1 != 0 {
				v ^= 0x9908b0df
			}
			g.state[i] = v
		}
		g.used = 0
	}
	y := g.state[g.used]
	g.used++
	y ^= y >> 11
	y ^= y << 7 & 0x9d2c5680
	y ^= y << 15 & 0xefc60000
	return y ^ y>>18
}
