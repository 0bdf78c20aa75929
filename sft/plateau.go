package sft

import "math"

const plateauKwargs = "mode factor patience threshold threshold_mode cooldown min_lr eps"

// plateau is torch.optim.lr_scheduler.ReduceLROnPlateau as transformers drives it: it sees every evaluation's
// MetricForBestModel. Its fields that change are saved.
type plateau struct {
	Rate     float64  `json:"learning_rate"`
	Best     *float64 `json:"best"` // nil: no evaluation yet
	Bad      int      `json:"num_bad_epochs"`
	Cooldown int      `json:"cooldown_counter"`

	factor, patience, threshold, cooldown, minLR, eps float64
	max, absolute                                     bool
}

// newPlateau reads the settings; kw has the first fault.
func newPlateau(c SFTConfig, kw *scheduleArgs) *plateau {
	p := &plateau{
		Rate:      c.LearningRate,
		factor:    kw.number("factor", 0.1),
		patience:  kw.number("patience", 10),
		threshold: kw.number("threshold", 1e-4),
		cooldown:  kw.number("cooldown", 0),
		minLR:     kw.number("min_lr", 0),
		eps:       kw.number("eps", 1e-8),
		max:       kw.text("mode", "min", "min", "max") == "max",
		absolute:  kw.text("threshold_mode", "rel", "rel", "abs") == "abs",
	}
	if p.factor >= 1 {
		kw.fail("factor is not below 1: reduce_lr_on_plateau multiplies the rate by it")
	}
	return p
}

// see takes note of an evaluation.
func (p *plateau) see(value float64) {
	if p.better(value) {
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

func (p *plateau) better(value float64) bool {
	switch {
	case math.IsNaN(value):
		return false
	case p.Best == nil:
		return true
	case p.max && p.absolute:
		return value > *p.Best+p.threshold
	case p.max:
		return value > *p.Best*(1+p.threshold)
	case p.absolute:
		return value < *p.Best-p.threshold
	}
	return value < *p.Best*(1-p.threshold)
}

// restore puts back what was saved.
func (p *plateau) restore(saved *plateau) {
	p.Rate, p.Best, p.Bad, p.Cooldown = saved.Rate, saved.Best, saved.Bad, saved.Cooldown
}
