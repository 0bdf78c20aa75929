package sft

import "math"

const plateauKwargs = "mode factor patience threshold threshold_mode cooldown min_lr eps"

// follower sets the learning rate by what evaluations give. A JSON text of it is its state.
type follower interface {
	rate() float64
	see(value float64) // takes note of an evaluation
}

// newFollower is that of the schedule, or nil: most schedules follow steps.
func newFollower(c SFTConfig) follower {
	kw := &scheduleArgs{values: c.LRSchedulerKwargs}
	switch c.LRSchedulerType {
	case ReduceLROnPlateau:
		return newPlateau(c, kw)
	case Greedy:
		return newGreedy(c, kw)
	}
	return nil
}

// follows tells whether the schedule has a follower.
func (c *SFTConfig) follows() bool {
	return c.LRSchedulerType == ReduceLROnPlateau || c.LRSchedulerType == Greedy
}

// threshold is by how much a metric must improve to count as better.
type threshold struct {
	value         float64
	max, absolute bool
}

func newThreshold(kw *scheduleArgs, value float64, mode string) threshold {
	return threshold{
		kw.number("threshold", value), kw.text("mode", "min", "min", "max") == "max",
		kw.text("threshold_mode", mode, "rel", "abs") == "abs",
	}
}

// better compares a value with the best one so far, nil where there is none.
func (t threshold) better(value float64, best *float64) bool {
	switch {
	case math.IsNaN(value):
		return false
	case best == nil:
		return true
	case t.max && t.absolute:
		return value > *best+t.value
	case t.max:
		return value > *best*(1+t.value)
	case t.absolute:
		return value < *best-t.value
	}
	return value < *best*(1-t.value)
}

// plateau is torch.optim.lr_scheduler.ReduceLROnPlateau as transformers drives it: it sees every evaluation's
// MetricForBestModel. Its fields that change are saved.
type plateau struct {
	Rate     float64  `json:"learning_rate"`
	Best     *float64 `json:"best"` // nil: no evaluation yet
	Bad      int      `json:"num_bad_epochs"`
	Cooldown int      `json:"cooldown_counter"`

	factor, patience, cooldown, minLR, eps float64
	bar                                    threshold
}

// newPlateau reads the settings; kw has the first fault.
func newPlateau(c SFTConfig, kw *scheduleArgs) *plateau {
	p := &plateau{
		Rate:     c.LearningRate,
		factor:   kw.number("factor", 0.1),
		patience: kw.number("patience", 10),
		cooldown: kw.number("cooldown", 0),
		minLR:    kw.number("min_lr", 0),
		eps:      kw.number("eps", 1e-8),
		bar:      newThreshold(kw, 1e-4, "rel"),
	}
	if p.factor >= 1 {
		kw.fail("factor is not below 1: reduce_lr_on_plateau multiplies the rate by it")
	}
	return p
}

func (p *plateau) rate() float64 { return p.Rate }

func (p *plateau) see(value float64) {
	if p.bar.better(value, p.Best) {
		p.Best, p.Bad = &value, 0
	} else {
		p.Bad++
	}
	if p.Cooldown > 0 {
		p.Cooldown--
		p.Bad = 0
	}
	if float64(p.Bad) > p.patience {
		if rate := math.Max(p.Rate*p.factor, p.minLR); p.Rate-rate > p.eps {
			p.Rate = rate
		}
		p.Cooldown, p.Bad = int(p.cooldown), 0
	}
}
