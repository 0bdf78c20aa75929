package peft

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/gonum/mat"

	"github.com/loris-ml/loris/models"
)

// Combination says how AddWeightedAdapter makes one adapter of several: PEFT's combination_type.
type Combination string

// The combinations. Those that end in SVD combine the products s·B·A and take the largest singular values of the result; of
// the others but cat, As and Bs are combined by themselves, which for several adapters is not the sum of their products.
const (
	CombineLinear            Combination = "linear"              // weighted sums
	CombineCat               Combination = "cat"                 // side by side: exact, of the sum of the ranks
	CombineSVD               Combination = "svd"                 // weighted sums; also the zero value, as in PEFT
	CombineTIES              Combination = "ties"                // the largest values, of the sign that prevails (arXiv:2306.01708)
	CombineTIESSVD           Combination = "ties_svd"            //
	CombineDARELinear        Combination = "dare_linear"         // values dropped at random, the others scaled up (arXiv:2311.03099)
	CombineDARELinearSVD     Combination = "dare_linear_svd"     //
	CombineDARETIES          Combination = "dare_ties"           //
	CombineDARETIESSVD       Combination = "dare_ties_svd"       //
	CombineMagnitudePrune    Combination = "magnitude_prune"     // the largest values
	CombineMagnitudePruneSVD Combination = "magnitude_prune_svd" //
)

var combinations = []Combination{CombineLinear, CombineCat, CombineSVD, CombineTIES, CombineTIESSVD, CombineDARELinear,
	CombineDARELinearSVD, CombineDARETIES, CombineDARETIESSVD, CombineMagnitudePrune, CombineMagnitudePruneSVD}

// WeightedOptions configure [PeftModel.AddWeightedAdapter]. The zero value is PEFT's default.
type WeightedOptions struct {
	CombinationType Combination // "": CombineSVD
	SVDRank         int         // of SVD combinations; 0: the largest rank of the adapters
	SVDClamp        float64     // quantile of the factors' values at which they are cut off; 0: none
	Density         float64     // share of values to keep, in (0, 1]; what prunes needs it
	// MajoritySignMethod of TIES is "total" (of the sum of values), also for "", or "frequency" (of the number of values).
	MajoritySignMethod string
	Seed               int64 // of DARE
}

// AddWeightedAdapter adds adapters that combine others, weights[i] times those of names[i]: PEFT's add_weighted_adapter. Of one
// adapter alone, the combination is always linear. Their scaling is 1, whatever that of the others is, and ranks are the same
// on all modules.
func (p *PeftModel) AddWeightedAdapter(name string, names []string, weights []float64, o WeightedOptions) error {
	if err := p.addWeighted(name, names, weights, o); err != nil {
		return fmt.Errorf("AddWeightedAdapter: %w", err)
	}
	return nil
}

func (p *PeftModel) addWeighted(name string, names []string, weights []float64, o WeightedOptions) error {
	if err := p.checkName(name); err != nil {
		return err
	}
	o, err := o.withDefaults(len(names))
	if err != nil {
		return err
	}
	cfg, err := p.weightedConfig(names, weights, o)
	if err != nil {
		return err
	}
	s := &loraSet{cfg: cfg, embed: p.base.Embedding()}
	parts := map[string][]weightedPart{}
	for i, n := range names {
		loras, err := p.sets[n].loras()
		if err != nil {
			return err
		}
		for j, l := range loras {
			if parts[l.Path] == nil {
				t := p.sets[n].targeted()[j]
				s.targets = append(s.targets, Target{Path: t.Path, R: cfg.R, In: t.In, Out: t.Out, Alpha: cfg.LoraAlpha, Scaling: 1})
			}
			parts[l.Path] = append(parts[l.Path], weightedPart{l, weights[i]})
		}
	}
	var loras []models.LoRA
	for _, t := range s.targets {
		l := models.LoRA{Path: t.Path, R: t.R, Scaling: 1, Dropout: cfg.LoraDropout}
		if l.A, l.B, err = o.combine(t, parts[t.Path]); err != nil {
			return fmt.Errorf("module %q: %w", t.Path, err)
		}
		loras = append(loras, l)
	}
	return p.add(name, &adapterSet{tuner: s}, loras)
}

func (o WeightedOptions) withDefaults(adapters int) (WeightedOptions, error) {
	if o.CombinationType == "" {
		o.CombinationType = CombineSVD
	}
	if o.MajoritySignMethod == "" {
		o.MajoritySignMethod = "total"
	}
	switch {
	case !slices.Contains(combinations, o.CombinationType):
		return o, fmt.Errorf("combination_type %q is unknown; there are %q", string(o.CombinationType), combinations)
	case o.MajoritySignMethod != "total" && o.MajoritySignMethod != "frequency":
		return o, fmt.Errorf(`majority_sign_method %q is unknown; use "total" or "frequency"`, o.MajoritySignMethod)
	case o.SVDRank < 0:
		return o, fmt.Errorf("svd_rank %d: must be positive, or 0 for the largest of the adapters", o.SVDRank)
	case !(o.SVDClamp >= 0 && o.SVDClamp <= 1):
		return o, fmt.Errorf("svd_clamp %v: must be a quantile, 0 to 1", o.SVDClamp)
	}
	if adapters == 1 {
		o.CombinationType = CombineLinear
	}
	if o.pruning() != "" && !(o.Density > 0 && o.Density <= 1) {
		return o, fmt.Errorf("density %v: combination_type %q needs the share of values to keep, more than 0 and at most 1", o.Density, string(o.CombinationType))
	}
	return o, nil
}

func (o WeightedOptions) svd() bool { return strings.HasSuffix(string(o.CombinationType), "svd") }

// pruning is the method by which values are dropped, "" if none are.
func (o WeightedOptions) pruning() string {
	switch method := strings.TrimSuffix(string(o.CombinationType), "_svd"); method {
	case "ties", "magnitude_prune":
		return "magnitude"
	case "dare_linear", "dare_ties":
		return "random"
	}
	return ""
}

// weightedConfig is that of the first adapter with the rank and the targets of the combination.
func (p *PeftModel) weightedConfig(names []string, weights []float64, o WeightedOptions) (cfg LoraConfig, err error) {
	if len(names) == 0 || len(names) != len(weights) {
		return cfg, fmt.Errorf("%d adapters and %d weights; want a weight for each of at least one", len(names), len(weights))
	}
	var ranks []int
	for i, n := range names {
		if err := p.known(n); err != nil {
			return cfg, err
		}
		s, err := p.sets[n].lora(fmt.Sprintf("adapter %q cannot be combined with others", n))
		if err != nil {
			return cfg, err
		}
		if how := s.cfg.InitLoraWeights; how.changesBase() {
			return cfg, fmt.Errorf("adapter %q belongs to a base with other weights (init_lora_weights %q); convert it with SaveConverted", n, string(how))
		}
		if err := s.cfg.refuseBeyondLoRA(fmt.Sprintf("adapter %q cannot be combined with others", n)); err != nil {
			return cfg, err
		}
		if !finite(weights[i]) {
			return cfg, fmt.Errorf("weight %v of adapter %q: must be a finite number", weights[i], n)
		}
		most := s.cfg.R
		for _, e := range s.cfg.RankPattern {
			most = max(most, e.Value)
		}
		ranks = append(ranks, most)
	}
	cfg = p.sets[names[0]].config().(LoraConfig) // as all of them have been found to be
	switch most := slices.Max(ranks); {
	case o.CombinationType == CombineCat:
		cfg.R = 0
		for _, r := range ranks {
			cfg.R += r
		}
	case o.svd():
		if cfg.R = most; o.SVDRank > 0 {
			cfg.R = o.SVDRank
		}
	case slices.Min(ranks) != most:
		return cfg, fmt.Errorf("combination_type %q needs adapters of one rank, these have %v; use %q or %q", string(o.CombinationType), ranks, string(CombineCat), string(CombineSVD))
	default:
		cfg.R = most
	}
	cfg.LoraAlpha, cfg.UseRSLora, cfg.RankPattern, cfg.AlphaPattern = float64(cfg.R), false, nil, nil
	cfg.InitLoraWeights, cfg.EvaConfig = InitTrue, nil
	cfg.TargetModules, err = p.joinedTargets(names)
	return cfg, err
}

// joinedTargets targets what any of the adapters does. Layer filters of the others would be lost, so paths say it where there
// are any.
func (p *PeftModel) joinedTargets(names []string) (TargetModules, error) {
	var lists, expressions []string
	same := true
	first := p.sets[names[0]].config().(LoraConfig)
	for _, n := range names {
		c := p.sets[n].config().(LoraConfig)
		same = same && fmt.Sprint(c.LayersToTransform, c.LayersPattern, c.ExcludeModules) == fmt.Sprint(first.LayersToTransform, first.LayersPattern, first.ExcludeModules)
		switch t := c.TargetModules.(type) {
		case moduleNames:
			lists = append(lists, t...)
		case Regexp:
			expressions = append(expressions, "("+string(t)+")")
		}
	}
	switch {
	case len(lists) > 0 && len(expressions) > 0:
		return nil, fmt.Errorf("target_modules of some adapters are a list, of others a string: adapters of one kind can be combined")
	case !same:
		return nil, fmt.Errorf("layers_to_transform, layers_pattern or exclude_modules of the adapters differ: they cannot be combined")
	case len(expressions) > 0:
		return Regexp(strings.Join(expressions, "|")), nil
	}
	return Modules(lists...), nil
}

// weightedPart is what an adapter gives to a combination.
type weightedPart struct {
	models.LoRA
	weight float64
}

// combine returns A and B of the combination on a module, of rank t.R.
func (o WeightedOptions) combine(t Target, parts []weightedPart) (a, b []float32, err error) {
	switch {
	case o.CombinationType == CombineCat:
		return catenated(t, parts)
	case o.svd():
		return o.bySVD(t, parts)
	}
	var as, bs [][]float32
	var wa, wb []float64
	for _, p := range parts {
		root, sign := math.Sqrt(math.Abs(p.weight*p.Scaling)), 1.0
		if p.weight*p.Scaling < 0 {
			sign = -1
		}
		l := widened(p.LoRA, t)
		as, bs, wa, wb = append(as, l.A), append(bs, l.B), append(wa, sign*root), append(wb, root)
	}
	return o.mix(as, wa, t.Path+".lora_A"), o.mix(bs, wb, t.Path+".lora_B"), nil
}

// widened is l with the rank of t, with zeros in what it has not.
func widened(l models.LoRA, t Target) models.LoRA {
	if more := t.R - l.R; more > 0 {
		return beside(l, models.LoRA{R: more, A: make([]float32, more*t.In), B: make([]float32, t.Out*more)})
	}
	return l
}

func catenated(t Target, parts []weightedPart) (a, b []float32, err error) {
	var all models.LoRA
	for i, p := range parts {
		for j := range p.A {
			p.A[j] *= float32(p.weight * p.Scaling)
		}
		if i == 0 {
			all = p.LoRA
		} else {
			all = beside(all, p.LoRA)
		}
	}
	all = widened(all, t)
	return all.A, all.B, nil
}

// bySVD combines the products.
func (o WeightedOptions) bySVD(t Target, parts []weightedPart) (a, b []float32, err error) {
	var deltas [][]float32
	var weights []float64
	for _, p := range parts {
		delta := make([]float32, t.Out*t.In)
		subtract(delta, -p.Scaling, p.A, p.B, p.R)
		deltas, weights = append(deltas, delta), append(weights, p.weight)
	}
	if t.R > min(t.In, t.Out) {
		return nil, nil, fmt.Errorf("rank %d is more than a weight [%d, %d] has; use svd_rank %d at most", t.R, t.Out, t.In, min(t.In, t.Out))
	}
	s, err := topSingular(matrix(o.mix(deltas, weights, t.Path), t.Out, t.In), t.R)
	if err != nil {
		return nil, nil, err
	}
	var us mat.Dense
	us.Mul(s.U, mat.NewDiagDense(t.R, s.S))
	a, b = narrow(s.V.T()), narrow(&us)
	if o.SVDClamp > 0 {
		clamp(a, b, o.SVDClamp)
	}
	return a, b, nil
}

// clamp cuts the values of factors off at a quantile of them. The values have signs, so that what comes out depends on the
// arbitrary signs of singular vectors, as in PEFT.
func clamp(a, b []float32, q float64) {
	limit := quantile(slices.Concat(b, a), q)
	for _, values := range [][]float32{a, b} {
		for i, v := range values {
			values[i] = min(max(v, -limit), limit)
		}
	}
}

// quantile is torch.quantile's, which interpolates.
func quantile(values []float32, q float64) float32 {
	slices.Sort(values)
	at := q * float64(len(values)-1)
	i := int(at)
	if i+1 == len(values) {
		return values[i]
	}
	return values[i] + float32(at-float64(i))*(values[i+1]-values[i])
}

// mix combines tensors of one shape, which it may overwrite: merge_utils.py of PEFT. name keys DARE's random numbers.
func (o WeightedOptions) mix(tensors [][]float32, weights []float64, name string) []float32 {
	for i, x := range tensors {
		switch o.pruning() {
		case "magnitude":
			keepLargest(x, int(o.Density*float64(len(x))))
		case "random":
			if o.Density < 1 {
				keepAtRandom(x, o.Density, newStream(o.Seed, fmt.Sprintf("%s.dare.%d", name, i)))
			}
		}
	}
	out := make([]float32, len(tensors[0]))
	ties := strings.HasPrefix(string(o.CombinationType), "ties") || strings.HasPrefix(string(o.CombinationType), "dare_ties")
	for j := range out {
		var elected float64
		if ties {
			elected = o.elect(tensors, j)
		}
		sum, n := float32(0), 0
		for i, x := range tensors {
			if ties && float64(x[j])*elected <= 0 {
				continue
			}
			sum, n = sum+x[j]*float32(weights[i]), n+1
		}
		if ties && n > 1 {
			sum /= float32(n)
		}
		out[j] = sum
	}
	return out
}

// elect is the sign that prevails among values j: 1 or -1.
func (o WeightedOptions) elect(tensors [][]float32, j int) float64 {
	sum := float32(0)
	for _, x := range tensors {
		v := x[j]
		if o.MajoritySignMethod == "frequency" {
			v = float32(cmp.Compare(v, 0))
		}
		sum += v
	}
	if sum >= 0 {
		return 1
	}
	return -1
}

// keepLargest makes all values but the n largest by magnitude zero.
func keepLargest(x []float32, n int) {
	if n >= len(x) {
		return
	}
	order := make([]int, len(x))
	for i := range order {
		order[i] = i
	}
	abs := func(i int) float64 { return math.Abs(float64(x[i])) }
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(abs(j), abs(i)) })
	for _, i := range order[n:] {
		x[i] = 0
	}
}

// keepAtRandom makes values zero with probability 1-density and scales the others up.
func keepAtRandom(x []float32, density float64, from stream) {
	for i := range x {
		if unit := float64(from.at(i)>>11) * 0x1p-53; unit < density {
			x[i] /= float32(density)
		} else {
			x[i] = 0
		}
	}
}
