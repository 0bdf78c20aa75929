package attention

import "math"

// tile is a rectangle of the score matrix: the queries of its band against keys [k0, k1).
type tile struct {
	k0, k1 int
	masked bool // positions hide some of its scores, not all
}

// band is a block of queries [q0, q1) with the blocks of keys that some of them see; none may be left.
type band struct {
	q0, q1 int
	tiles  []tile
}

// bands cuts the score matrix into tiles and leaves out those that positions hide.
func (c *call) bands() (bands []band) {
	blockQ, blockKV := c.blocks()
	for q0 := 0; q0 < c.queries; q0 += blockQ {
		b := band{q0: q0, q1: min(q0+blockQ, c.queries)}
		first, last := b.q0+c.QueryOffset, b.q1-1+c.QueryOffset // positions of the band's queries among the keys
		for k0 := 0; k0 < c.keys; k0 += blockKV {
			t := tile{k0: k0, k1: min(k0+blockKV, c.keys)}
			if c.Causal {
				if t.k0 > last || c.Window > 0 && t.k1-1 <= first-c.Window {
					continue
				}
				t.masked = t.k1-1 > first || c.Window > 0 && t.k0 <= last-c.Window
			}
			b.tiles = append(b.tiles, t)
		}
		bands = append(bands, b)
	}
	return bands
}

// blocks returns the size of the tiles in queries and keys.
func (c *call) blocks() (queries, keys int) {
	size := func(given, length int) int {
		if given == 0 {
			given = blockSize(length, c.Window)
		}
		return min(given, length)
	}
	return size(c.BlockQ, c.queries), size(c.BlockKV, c.keys)
}

// blockSize is the default side of a tile for a sequence. An eighth of the sequence leaves out 7/16 of a causal score
// matrix with few operations to compile; beyond 4096 the side grows with the square root of the length only, so that a
// tile of scores stays as large as a query of head_dim 64: memory, and the number of tiles, then grow linearly.
func blockSize(length, window int) int {
	side := min(length/8, int(math.Sqrt(float64(64*length))))
	if window > 0 { // larger tiles would lie mostly outside of it
		side = min(side, max(window, length/64))
	}
	return (max(side, minBlock) + 63) / 64 * 64
}

const minBlock = 128
