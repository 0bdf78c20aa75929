package pyrandom

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// long is a permutation too long to be written down: its length and the hash of its numbers.
type long struct {
	n    int
	hash string
}

func (l *long) UnmarshalJSON(text []byte) error { return json.Unmarshal(text, &[]any{&l.n, &l.hash}) }

func digest(p []int) string {
	var texts []string
	for _, v := range p {
		texts = append(texts, fmt.Sprint(v))
	}
	sum := sha256.Sum256([]byte(strings.Join(texts, ",")))
	return hex.EncodeToString(sum[:])[:16]
}

func TestStreamsEqualNumPysAndTorchs(t *testing.T) {
	raw, err := os.ReadFile("testdata/streams.json")
	if err != nil {
		t.Fatal(err)
	}
	var fixture struct {
		Cases []struct {
			Seed         int64
			Random, Then []float64
			Permutations [][]int
			Long         []long
			Choice       []int
			RandPerm     []int
			RandPerms    []long
		}
	}
	if err := json.Unmarshal(raw, &fixture); err != nil {
		t.Fatal(err)
	}
	if len(fixture.Cases) == 0 {
		t.Fatal("no cases")
	}
	for _, c := range fixture.Cases {
		t.Run(fmt.Sprint("seed ", c.Seed), func(t *testing.T) {
			same := func(what string, got, want any) {
				t.Helper()
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("%s: %v, want %v", what, got, want)
				}
			}
			g := NewNumPy(c.Seed)
			for _, want := range c.Random {
				same("random", g.Float64(), want)
			}
			for _, want := range c.Permutations {
				same("permutation", g.Permutation(len(want)), want)
			}
			for _, l := range c.Long {
				same(fmt.Sprint("permutation of ", l.n), digest(g.Permutation(l.n)), l.hash)
			}
			same("choice", g.Choice(len(c.Choice), []float64{0.7, 0.2, 0.1}), c.Choice)
			for _, want := range c.Then {
				same("random behind", g.Float64(), want)
			}
			same("randperm", RandPerm(c.Seed, len(c.RandPerm)), c.RandPerm)
			for _, l := range c.RandPerms {
				same(fmt.Sprint("randperm of ", l.n), digest(RandPerm(c.Seed, l.n)), l.hash)
			}
		})
	}
}

func TestUpToReachesBothEndsAndNoFurther(t *testing.T) {
	g := NewNumPy(3)
	for _, max := range []uint64{0, 1, 2, 5, 1<<32 - 1, 1 << 32, 1 << 63} {
		seen := map[uint64]bool{}
		for range 200 {
			v := g.upTo(max)
			if v > max {
				t.Fatalf("%d drawn up to %d", v, max)
			}
			seen[v] = true
		}
		if max < 10 && len(seen) != int(max)+1 {
			t.Errorf("up to %d: only %v", max, seen)
		}
	}
}
