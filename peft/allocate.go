package peft

import (
	"cmp"
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/loris-ml/loris/internal/atomicfile"
	"github.com/loris-ml/loris/internal/training"
)

// rankedSession is a session that weighs triplets, with all that trainers ask of sessions.
type rankedSession interface {
	training.Session
	training.Prefetcher
	training.LossScaler
	training.Ranker
}

// adaloraSession runs AdaLoRA's schedule: RankAllocator of peft/tuners/adalora/layer.py and update_and_allocate of model.py.
type adaloraSession struct {
	rankedSession
	set     *methodSet
	step    int               // the next one's number
	pattern map[string][]bool // what is kept, by path; nil: not decided yet
}

// ranksFile holds the schedule's state beside the session's.
const ranksFile = "ranks.json"

// budget is how many ranks are left after a step, and whether those beyond are to be taken away now.
func (c AdaLoraConfig) budget(step, begin, end int) (budget int, mask bool) {
	switch {
	case step <= c.TInit:
		return begin, false
	case step > c.TotalStep-c.TFinal:
		return end, true
	}
	left := 1 - float64(step-c.TInit)/float64(c.TotalStep-c.TFinal-c.TInit)
	return int(float64(begin-end)*math.Pow(left, 3) + float64(end)), step%c.DeltaT == 0
}

// allocated keeps the budget's best ranks: those that are worth more than the best of the others.
func allocated(scores map[string][]float32, budget int) map[string][]bool {
	var all []float32
	for _, s := range scores {
		all = append(all, s...)
	}
	slices.Sort(all)
	pattern := map[string][]bool{}
	for path, s := range scores {
		for _, v := range s {
			out := len(all) - budget
			pattern[path] = append(pattern[path], out <= 0 || v > all[out-1])
		}
	}
	return pattern
}

// Apply implements [training.Session].
func (s *adaloraSession) Apply(ctx context.Context, o training.ApplyOptions) (float64, error) {
	c := s.set.cfg.(AdaLoraConfig)
	final := c.TotalStep - c.TFinal
	var scores map[string][]float32
	var err error
	if s.step == final { // this step's gradients no longer count
		if scores, err = s.scores(); err != nil {
			return 0, err
		}
	}
	norm, err := s.rankedSession.Apply(ctx, o)
	if err != nil {
		return norm, err
	}
	if _, skipped := s.LossScale(); skipped {
		return norm, nil
	}
	step := s.step
	s.step++
	begin, end := s.sizes(c)
	budget, due := c.budget(step, begin, end)
	switch {
	case step > final:
		return norm, s.mask()
	case step < final && due:
		if scores, err = s.scores(); err != nil {
			return norm, err
		}
		fallthrough
	case step == final:
		s.pattern = allocated(scores, budget)
		s.publish()
		return norm, s.mask()
	}
	return norm, nil
}

// sizes are the ranks of all linears together, as they are and as they are to be.
func (s *adaloraSession) sizes(c AdaLoraConfig) (begin, end int) {
	for _, f := range s.set.forms {
		begin += f.tensors[2].shape[0]
	}
	return begin, c.TargetR * len(s.set.forms)
}

// scores are those of the triplets, by path.
func (s *adaloraSession) scores() (map[string][]float32, error) {
	found, err := s.RankScores()
	scores := map[string][]float32{}
	for linear, v := range found {
		scores[layersPrefix+linear] = v
	}
	return scores, err
}

// mask makes what is not kept zero.
func (s *adaloraSession) mask() error {
	keep := map[string][]bool{}
	for path, k := range s.pattern {
		keep[strings.TrimPrefix(path, layersPrefix)] = k
	}
	return s.MaskRanks(keep)
}

// publish puts the pattern into the adapter's config.
func (s *adaloraSession) publish() {
	c := s.set.cfg.(AdaLoraConfig)
	c.RankPattern = map[string][]bool{}
	for path, k := range s.pattern {
		c.RankPattern[path+suffixE] = k
	}
	s.set.cfg = c
}

// wholePattern is that of the config, where it is of the ranks that there are.
func (s *methodSet) wholePattern() map[string][]bool {
	c := s.cfg.(AdaLoraConfig)
	pattern := map[string][]bool{}
	for i, t := range s.targets {
		mask, ok := c.RankPattern[t.Path+suffixE]
		if !ok || len(mask) != s.forms[i].tensors[2].shape[0] {
			return nil
		}
		pattern[t.Path] = mask
	}
	return pattern
}

// ranksState is ranksFile.
type ranksState struct {
	Step        int               `json:"step"`
	RankPattern map[string][]bool `json:"rank_pattern"`
}

// SaveState implements [training.Session].
func (s *adaloraSession) SaveState(dir string) error {
	if err := s.rankedSession.SaveState(dir); err != nil {
		return err
	}
	raw, err := json.Marshal(ranksState{s.step, s.pattern}, json.Deterministic(true))
	if err != nil {
		return err
	}
	return atomicfile.WriteBytes(filepath.Join(dir, ranksFile), raw)
}

// LoadState implements [training.Session].
func (s *adaloraSession) LoadState(dir string) error {
	path := filepath.Join(dir, ranksFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("load state: %s: it has no %s, which holds AdaLoRA's schedule: the checkpoint is of another adapter configuration", dir, ranksFile)
	}
	var state ranksState
	if err == nil {
		err = json.Unmarshal(raw, &state)
	}
	if err != nil {
		return fmt.Errorf("load state: %s: %w", path, err)
	}
	for _, path := range slices.SortedFunc(maps.Keys(state.RankPattern), cmp.Compare[string]) {
		i := slices.IndexFunc(s.set.targets, func(t Target) bool { return t.Path == path })
		if i < 0 || len(state.RankPattern[path]) != s.set.forms[i].tensors[2].shape[0] {
			return fmt.Errorf("load state: %s: module %q has no %d ranks in this training", filepath.Join(dir, ranksFile), path, len(state.RankPattern[path]))
		}
	}
	if err := s.rankedSession.LoadState(dir); err != nil {
		return err
	}
	if s.step, s.pattern = state.Step, state.RankPattern; s.pattern != nil {
		s.publish()
	}
	return nil
}
