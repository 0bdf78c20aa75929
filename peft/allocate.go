package peft

import (
	"cmp"
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
	"github.com/loris-ml/loris/internal/layerwise"
)

// adaloraSession runs AdaLoRA's schedule: RankAllocator of peft/tuners/adalora/layer.py and update_and_allocate of model.py. Beside
// the checkpoints' it has all methods of the session that it allocates ranks of, for whoever asks whether a session has one.
type adaloraSession struct {
	*layerwise.Session
	ranks *rankSchedule
}

// rankSchedule is the [training.Allocator] of a set. Its step is always the session's: it keeps none of its own.
type rankSchedule struct {
	set     *methodSet
	given   map[string][]bool // the config's ranks at the start, which stand until others are decided
	decided []decision        // the last ones, oldest first
}

// decision is what is kept, by path, when so many steps are done; nil: not decided yet.
type decision struct {
	steps   int
	pattern map[string][]bool
}

// undone is how many steps may be taken back at once: the one that is under way, and the one before it.
const undone = 2

func newRankSchedule(s *methodSet) *rankSchedule {
	return &rankSchedule{set: s, given: s.cfg.(AdaLoraConfig).RankPattern, decided: []decision{{0, s.wholePattern()}}}
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

// Allocate implements [training.Allocator]. The step's number is PEFT's, which counts from 0.
func (s *rankSchedule) Allocate(step int, scores func(updated bool) (map[string][]float32, error)) (map[string][]bool, error) {
	c := s.set.cfg.(AdaLoraConfig)
	final := c.TotalStep - c.TFinal
	begin, end := s.sizes(c)
	budget, due := c.budget(step, begin, end)
	if step < final && !due {
		return nil, nil
	}
	if step <= final {
		found, err := scores(step < final) // the gradients of the last one no longer count
		if err != nil {
			return nil, err
		}
		s.decide(step+1, allocated(byPath(found), budget))
	}
	keep := map[string][]bool{}
	for path, k := range s.pattern() {
		keep[strings.TrimPrefix(path, layersPrefix)] = k
	}
	return keep, nil
}

// TakeBack implements [training.Allocator].
func (s *rankSchedule) TakeBack(steps int) {
	n := len(s.decided)
	for n > 1 && s.decided[n-1].steps > steps {
		n--
	}
	if n < len(s.decided) {
		s.decided = s.decided[:n]
		s.publish()
	}
}

// decide has a pattern stand once so many steps are done.
func (s *rankSchedule) decide(steps int, pattern map[string][]bool) {
	s.decided = append(s.decided[max(0, len(s.decided)-undone):], decision{steps, pattern})
	s.publish()
}

func (s *rankSchedule) pattern() map[string][]bool { return s.decided[len(s.decided)-1].pattern }

// sizes are the ranks of all linears together, as they are and as they are to be.
func (s *rankSchedule) sizes(c AdaLoraConfig) (begin, end int) {
	for _, f := range s.set.forms {
		begin += f.tensors[2].shape[0]
	}
	return begin, c.TargetR * len(s.set.forms)
}

// byPath are a session's scores by the paths of linears.
func byPath(found map[string][]float32) map[string][]float32 {
	scores := map[string][]float32{}
	for linear, v := range found {
		scores[layersPrefix+linear] = v
	}
	return scores
}

// publish puts the pattern into the adapter's config.
func (s *rankSchedule) publish() {
	c := s.set.cfg.(AdaLoraConfig)
	c.RankPattern = s.given
	if pattern := s.pattern(); pattern != nil {
		c.RankPattern = map[string][]bool{}
		for path, k := range pattern {
			c.RankPattern[path+suffixE] = k
		}
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
	Step        int               `json:"step"` // that of the session's state, which alone is read
	RankPattern map[string][]bool `json:"rank_pattern"`
}

// SaveState implements [training.Session].
func (s *adaloraSession) SaveState(dir string) error {
	if err := s.Session.SaveState(dir); err != nil {
		return err
	}
	raw, err := json.Marshal(ranksState{s.Steps(), s.ranks.pattern()}, json.Deterministic(true))
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
		i := slices.IndexFunc(s.ranks.set.targets, func(t Target) bool { return t.Path == path })
		if i < 0 || len(state.RankPattern[path]) != s.ranks.set.forms[i].tensors[2].shape[0] {
			return fmt.Errorf("load state: %s: module %q has no %d ranks in this training", filepath.Join(dir, ranksFile), path, len(state.RankPattern[path]))
		}
	}
	if err := s.Session.LoadState(dir); err != nil {
		return err
	}
	s.ranks.decided = []decision{{s.Steps(), state.RankPattern}}
	s.ranks.publish()
	return nil
}
