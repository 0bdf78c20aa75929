package peft

import (
	"fmt"
	"math"
)

// Pattern gives values to modules by name: the first entry whose key matches a module's path wins. It is an ordered
// dictionary, as Python's are. A key is a name or a regular expression of Python that must match the end of a path, whole
// segments of it or from "^" on: "q_proj", "layers.0.self_attn.q_proj", `^model\.layers\.[0-3]\..*`.
type Pattern[V int | float64] []PatternEntry[V]

// PatternEntry is a key of a [Pattern] and its value.
type PatternEntry[V int | float64] struct {
	Key   string
	Value V
}

// Ranks is the type of rank_pattern: peft.Ranks{{Key: "down_proj", Value: 32}}.
type Ranks = Pattern[int]

// Alphas is the type of alpha_pattern: peft.Alphas{{Key: "down_proj", Value: 64}}.
type Alphas = Pattern[float64]

// compiledPattern is a Pattern ready to be asked for many modules.
type compiledPattern[V int | float64] struct {
	entries Pattern[V]
	keys    []*pythonRegexp
}

// compile is get_pattern_key of peft/utils/other.py.
func (p Pattern[V]) compile(field string) (compiledPattern[V], error) {
	c := compiledPattern[V]{entries: p}
	seen := map[string]bool{}
	for _, e := range p {
		if seen[e.Key] {
			return c, fmt.Errorf("%s has the key %q twice", field, e.Key)
		}
		seen[e.Key] = true
		re, err := compileWithin(`(.*\.)?(`, e.Key, `)$`)
		if err != nil {
			return c, fmt.Errorf("%s key %q: %w", field, e.Key, err)
		}
		c.keys = append(c.keys, re)
	}
	return c, nil
}

// at returns the index of the entry for a module, -1 where none matches.
func (c compiledPattern[V]) at(path string) (int, error) {
	for i, re := range c.keys {
		if ok, _, err := re.match(path); err != nil || ok {
			return i, err
		}
	}
	return -1, nil
}

// scaler gives every module its rank, alpha and scaling.
type scaler struct {
	r      int
	alpha  float64
	rslora bool
	ranks  compiledPattern[int]
	alphas compiledPattern[float64]
}

// scaler expects defaults to be filled in.
func (c targeting) scaler() (*scaler, error) {
	s := &scaler{r: c.R, alpha: c.Alpha, rslora: c.UseRSLora}
	var err error
	if s.ranks, err = c.RankPattern.compile("rank_pattern"); err != nil {
		return nil, err
	}
	if s.alphas, err = c.AlphaPattern.compile("alpha_pattern"); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *scaler) at(path string) (r int, alpha float64, err error) {
	r, alpha = s.r, s.alpha
	i, err := s.ranks.at(path)
	if err != nil {
		return 0, 0, err
	}
	if i >= 0 {
		r = s.ranks.entries[i].Value
	}
	if i, err = s.alphas.at(path); err != nil {
		return 0, 0, err
	}
	if i >= 0 {
		alpha = s.alphas.entries[i].Value
	}
	return r, alpha, nil
}

// scaling is alpha/r (arXiv:2106.09685), or alpha/√r with rank stabilization (arXiv:2312.03732).
func (s *scaler) scaling(r int, alpha float64) float64 {
	if s.rslora {
		return alpha / math.Sqrt(float64(r))
	}
	return alpha / float64(r)
}
