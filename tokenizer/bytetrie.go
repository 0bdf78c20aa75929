package tokenizer

// byteTrie finds the tokens that a text begins with. All its edges lie in one hash table, so that it takes about 20 bytes for
// each and a step costs one look.
type byteTrie struct {
	edges []trieEdge // a power of two, at most half of them used
	used  int
	ids   []int32 // by node: the token that ends there, -1 for none; node 0 is the root
}

// trieEdge leads from a node by a byte to another. The zero edge is an empty slot: no edge leads to the root.
type trieEdge struct{ from, to uint32 }

func newByteTrie(ids map[string]int32) *byteTrie {
	t := &byteTrie{edges: make([]trieEdge, 1024), ids: []int32{-1}}
	for s, id := range ids {
		node := uint32(0)
		for i := range len(s) {
			node = t.child(node, s[i])
		}
		if node != 0 {
			t.ids[node] = id
		}
	}
	return t
}

// slot returns where the edge is, or would be put.
func (t *byteTrie) slot(from uint32) *trieEdge {
	mask := uint32(len(t.edges) - 1)
	for i := from * 0x9e3779b1 >> 7; ; i++ {
		e := &t.edges[i&mask]
		if e.to == 0 || e.from == from {
			return e
		}
	}
}

// next returns the node that a byte leads to, 0 if none.
func (t *byteTrie) next(node uint32, b byte) uint32 { return t.slot(node<<8 | uint32(b)).to }

// child is next, made if there is none. Vocabularies are too small for nodes beyond 24 bits: see maxTrieBytes.
func (t *byteTrie) child(node uint32, b byte) uint32 {
	key := node<<8 | uint32(b)
	e := t.slot(key)
	if e.to != 0 {
		return e.to
	}
	to := uint32(len(t.ids))
	*e = trieEdge{key, to}
	t.ids = append(t.ids, -1)
	if t.used++; 2*t.used > len(t.edges) {
		old := t.edges
		t.edges = make([]trieEdge, 2*len(old))
		for _, e := range old {
			if e.to != 0 {
				*t.slot(e.from) = e
			}
		}
	}
	return to
}

// maxTrieBytes is how long all tokens of a trie may be together, so that nodes have 24 bits.
const maxTrieBytes = 1<<24 - 1
