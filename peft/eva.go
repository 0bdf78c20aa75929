package peft

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/mat"

	"github.com/loris-ml/loris/models"
)

// EVABatch is a batch of tokens that [PeftModel.InitializeEVA] looks at, rows of one length.
type EVABatch struct {
	IDs    [][]int // [batch][seq]
	Mask   [][]int // 1: token, 0: padding; nil: no padding
	Labels [][]int // see EvaConfig.UseLabelMask; nil: all tokens count
}

// evaBatches is how many batches are tried before components that do not converge are an error.
const evaBatches = 10000

// InitializeEVA makes the As of the active adapters, which InitEVA has begun, the principal components of what goes into
// their linears, and gives more ranks to linears whose inputs they explain better, of as many as there were in all
// (arXiv:2410.07170): PEFT's initialize_lora_eva_weights. batches are taken in turn, again from the first after the last,
// until the components stand still. Linears that are left without a rank lose their adapter.
//
// The config then names the linears, with their ranks in RankPattern and AlphaPattern. Components are exact; PEFT approximates
// them (torch.svd_lowrank), so that its adapters differ slightly.
func (p *PeftModel) InitializeEVA(ctx context.Context, batches []EVABatch) error {
	set := p.first()
	s, err := set.lora("LoRA alone can start from components")
	if err != nil {
		return fmt.Errorf("EVA: %w", err)
	}
	if s.cfg.InitLoraWeights != InitEVA {
		return fmt.Errorf(`EVA: the active adapters start with init_lora_weights %q, want "eva"`, string(s.cfg.InitLoraWeights))
	}
	if len(p.active) > 1 || len(p.merged) > 0 || p.hot != nil || len(batches) == 0 {
		return errors.New("EVA: want one active set of adapters, neither merged nor prepared for hot swapping, and at least one batch")
	}
	e, err := newEVA(p.base, s)
	if err == nil {
		err = e.run(ctx, batches)
	}
	if err != nil {
		return fmt.Errorf("EVA: %w", err)
	}
	cfg, targets, loras := e.result(s)
	if len(targets) == 0 {
		return errors.New("EVA: no linear has got a rank")
	}
	cfg.TargetModules = shortened(cfg.TargetModules, p.modules())
	if cfg.UseDora {
		if err := p.addMagnitudes(loras); err != nil {
			return fmt.Errorf("EVA: %w", err)
		}
	}
	fresh := &loraSet{cfg: cfg, targets: targets, embed: s.embed}
	if loras, err = p.addShifts(fresh, loras, nil); err != nil {
		return fmt.Errorf("EVA: %w", err)
	}
	if loras, err = p.addEnds(fresh, loras, nil); err != nil {
		return fmt.Errorf("EVA: %w", err)
	}
	weights, err := p.base.NewAdapters(loras)
	if err != nil {
		return err
	}
	old := set.weights
	*set = adapterSet{fresh, weights}
	return old.Close()
}

// eva is the search for components. Linears of one input have one search, kept by the first of them.
type eva struct {
	base    *models.CausalLM
	cfg     EvaConfig
	targets []Target
	key     map[string]string // by path: the path of the first target of the same input
	input   map[string]string // by key: the path under which models gives the input
	most    map[string]int    // by path: components that are looked for
	budget  int               // ranks to distribute
	ranks   map[string]int    // by path: as distributed after the last batch
	search  map[string]*evaSearch
}

// evaSearch is one input's.
type evaSearch struct {
	pca       incrementalPCA
	converged []bool // of each component
	active    bool   // still looking
	done      bool
}

func newEVA(base *models.CausalLM, s *loraSet) (*eva, error) {
	e := &eva{base: base, cfg: s.cfg.EvaConfig.withDefaults(), targets: s.targets, key: map[string]string{}, input: map[string]string{},
		most: map[string]int{}, ranks: map[string]int{}, search: map[string]*evaSearch{}}
	first, keys := base.SharedInputs(), map[string]string{}
	for _, t := range s.targets {
		input, ok := first[t.Path]
		if !ok {
			return nil, fmt.Errorf("module %q is not in a layer of the model; exclude it", t.Path)
		}
		if keys[input] == "" {
			keys[input] = t.Path
		}
		key := keys[input]
		e.key[t.Path], e.input[key] = key, input
		e.most[key] = max(e.most[key], int(math.RoundToEven(float64(t.R)*e.cfg.Rho)))
		e.budget += t.R
	}
	for _, t := range s.targets {
		n := e.most[e.key[t.Path]]
		if n > t.In {
			return nil, fmt.Errorf("module %q: %d components, its rank times rho, are more than its %d inputs; use a smaller r or eva_config.rho", t.Path, n, t.In)
		}
		e.most[t.Path], e.ranks[t.Path] = n, n
		if e.key[t.Path] == t.Path {
			e.search[t.Path] = &evaSearch{pca: incrementalPCA{n: n}, converged: make([]bool, n), active: true}
		}
	}
	return e, nil
}

func (e *eva) run(ctx context.Context, batches []EVABatch) error {
	for i := range evaBatches {
		all := true
		for key, s := range e.search {
			s.judge(e.ranks[key])
			all = all && s.done
		}
		if all {
			return nil
		}
		if err := e.look(ctx, batches[i%len(batches)]); err != nil {
			return fmt.Errorf("batch %d: %w", i%len(batches), err)
		}
		if i == len(batches)-1 && e.waiting() != "" {
			return fmt.Errorf("no batch has as many tokens as the %d components that are looked for at %q; give larger batches", e.most[e.waiting()], e.waiting())
		}
		if e.waiting() == "" {
			e.distribute()
		}
	}
	return fmt.Errorf("components have not converged after %d batches; use a smaller eva_config.tau", evaBatches)
}

// judge decides whether the first rank components have converged, which the search may begin or end by.
func (s *evaSearch) judge(rank int) {
	converged := !slices.Contains(s.converged[:rank], false)
	switch {
	case !s.done && converged && s.active:
		s.active, s.done = false, true
	case s.done && !converged:
		s.active, s.done = true, false
	}
}

// waiting names a search that has seen no batch that was large enough, "" if there is none.
func (e *eva) waiting() string {
	for key, s := range e.search {
		if s.pca.components == nil {
			return key
		}
	}
	return ""
}

// look takes a batch through the model.
func (e *eva) look(ctx context.Context, b EVABatch) error {
	if err := b.check(); err != nil {
		return err
	}
	byInput := map[string]string{}
	for key, input := range e.input {
		byInput[input] = key
	}
	return e.base.LinearInputs(ctx, b.IDs, b.Mask, func(path string, values []float32) error {
		key, ok := byInput[path]
		if !ok || !e.search[key].active {
			return nil
		}
		return e.search[key].take(e.chosen(b, values), e.cfg.Tau)
	})
}

func (b EVABatch) check() error {
	if b.Labels == nil {
		return nil
	}
	if len(b.Labels) != len(b.IDs) {
		return fmt.Errorf("Labels has %d rows, IDs have %d", len(b.Labels), len(b.IDs))
	}
	for i, row := range b.Labels {
		if len(row) != len(b.IDs[i]) {
			return fmt.Errorf("row %d of Labels has %d values, IDs have %d", i, len(row), len(b.IDs[i]))
		}
	}
	return nil
}

// chosen are the inputs [n, In] of the tokens that count.
func (e *eva) chosen(b EVABatch, values []float32) *mat.Dense {
	in := len(values) / (len(b.IDs) * len(b.IDs[0]))
	var rows []float32
	at := 0
	for i, ids := range b.IDs {
		for j := range ids {
			padding := b.Mask != nil && b.Mask[i][j] == 0
			if masked := *e.cfg.UseLabelMask && b.Labels != nil && b.Labels[i][j] == e.cfg.LabelMaskValue; !padding && !masked {
				rows = append(rows, values[at:at+in]...)
			}
			at += in
		}
	}
	if len(rows) == 0 {
		return nil
	}
	return matrix(rows, len(rows)/in, in)
}

// take learns from inputs; too few are passed over.
func (s *evaSearch) take(x *mat.Dense, tau float64) error {
	if x == nil {
		return nil
	}
	if samples, _ := x.Dims(); samples < s.pca.n {
		return nil
	}
	before := s.pca.components
	if err := s.pca.fit(x); err != nil || before == nil {
		return err
	}
	for i, c := range cosines(s.pca.components, before) {
		s.converged[i] = c >= tau
	}
	return nil
}

// distribute gives the budget of ranks to the components that explain most.
func (e *eva) distribute() {
	type share struct {
		path  string
		ratio float64
	}
	var all []share
	place := func(t Target) {
		for _, r := range e.search[e.key[t.Path]].pca.ratio {
			all = append(all, share{t.Path, r})
		}
	}
	for _, t := range e.targets { // first those that have a search, as PEFT orders them
		if e.key[t.Path] == t.Path {
			place(t)
		}
	}
	for _, t := range e.targets {
		if e.key[t.Path] != t.Path {
			place(t)
		}
	}
	slices.SortStableFunc(all, func(a, b share) int {
		switch {
		case a.ratio > b.ratio:
			return -1
		case a.ratio < b.ratio:
			return 1
		}
		return 0
	})
	clear(e.ranks)
	for _, s := range all[:min(e.budget, len(all))] {
		e.ranks[s.path]++
	}
	for _, t := range e.targets { // the search stops by the rank of its own linear, which must be the highest
		if key := e.key[t.Path]; key != t.Path && e.ranks[key] < e.ranks[t.Path] {
			e.ranks[key], e.ranks[t.Path] = e.ranks[t.Path], e.ranks[key]
		}
	}
}

// result are the adapters with their new ranks.
func (e *eva) result(s *loraSet) (cfg LoraConfig, targets []Target, loras []models.LoRA) {
	cfg = s.cfg
	cfg.RankPattern, cfg.AlphaPattern, cfg.LayersToTransform, cfg.LayersPattern = nil, nil, nil, nil
	scale := scaler{rslora: cfg.UseRSLora}
	var paths []string
	for _, t := range s.targets {
		rank := e.ranks[t.Path]
		if rank == 0 {
			continue
		}
		if rank != t.R && *e.cfg.AdjustScalingFactors {
			t.Alpha *= float64(rank) / float64(t.R)
		}
		t.R, t.Scaling = rank, scale.scaling(rank, t.Alpha)
		if rank != cfg.R {
			cfg.RankPattern = append(cfg.RankPattern, PatternEntry[int]{t.Path, rank})
		}
		if t.Alpha != cfg.LoraAlpha {
			cfg.AlphaPattern = append(cfg.AlphaPattern, PatternEntry[float64]{t.Path, t.Alpha})
		}
		paths, targets = append(paths, t.Path), append(targets, t)
		loras = append(loras, models.LoRA{Path: t.Path, R: rank, Scaling: t.Scaling, Dropout: cfg.LoraDropout,
			A: e.components(t.Path, rank), B: make([]float32, t.Out*rank)})
	}
	cfg.TargetModules = Modules(paths...)
	return cfg, targets, loras
}

// components are the first of those of a linear's input, [rank, In].
func (e *eva) components(path string, rank int) (a []float32) {
	p := &e.search[e.key[path]].pca
	for k := range rank {
		by := 1.0
		if e.cfg.Whiten {
			by = 1 / math.Sqrt(p.singular[k])
		}
		for _, v := range p.components.RawRowView(k) {
			a = append(a, float32(by*v))
		}
	}
	return a
}
