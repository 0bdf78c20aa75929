package sft

import "math"

const greedyKwargs = "mode factor patience threshold threshold_mode cooldown warmup min_lr max_lr eps smooth window_size reset_start"

// greedy is transformers' GreedyLR (arXiv:2512.14527), which sees every evaluation's MetricForBestModel: the rate grows while
// evaluations improve and shrinks while they do not. Its fields that change are saved.
type greedy struct {
	Rate       float64   `json:"learning_rate"`
	Best       *float64  `json:"best"` // nil: no evaluation yet
	Good       int       `json:"num_good_epochs"`
	Bad        int       `json:"num_bad_epochs"`
	Cooldown   int       `json:"cooldown_counter"`
	Warmup     int       `json:"warmup_counter"`
	ResetStart int       `json:"reset_start"`
	Window     []float64 `json:"window"` // the last values, with smooth
	Sum        float64   `json:"window_sum"`

	first, factor, patience, cooldown, warmup, minLR, maxLR, eps float64
	window, resetStart                                           int
	smooth                                                       bool
	bar                                                          threshold
}

// newGreedy reads the settings; kw has the first fault.
func newGreedy(c SFTConfig, kw *scheduleArgs) *greedy {
	g := &greedy{
		first:      c.LearningRate,
		factor:     kw.number("factor", 0.95),
		patience:   kw.number("patience", 10),
		cooldown:   kw.number("cooldown", 0),
		warmup:     kw.number("warmup", 0),
		minLR:      kw.number("min_lr", 1e-3),
		maxLR:      kw.number("max_lr", 1),
		eps:        kw.number("eps", 1e-8),
		window:     int(kw.number("window_size", 50)),
		resetStart: int(kw.number("reset_start", 500)),
		smooth:     kw.flag("smooth"),
		bar:        newThreshold(kw, 1e-6, "abs"),
	}
	if g.factor >= 1 || g.factor <= 0 {
		kw.fail("factor is not between 0 and 1: greedy multiplies and divides the rate by it")
	}
	if g.window < 1 {
		kw.fail("window_size is below 1: it is how many evaluations are averaged")
	}
	g.reset()
	return g
}

func (g *greedy) rate() float64 { return g.Rate }

// reset is the beginning.
func (g *greedy) reset() {
	g.Rate, g.ResetStart = g.first, g.resetStart
	g.Best, g.Good, g.Bad, g.Cooldown, g.Warmup, g.Window, g.Sum = nil, 0, 0, 0, 0, nil, 0
}

func (g *greedy) see(value float64) {
	if g.smooth {
		value = g.average(value)
	}
	switch {
	case g.Cooldown > 0:
		g.Cooldown--
		g.Good, g.Bad = 0, 0
		return
	case g.Warmup > 0:
		g.Warmup--
		g.Good, g.Bad = 0, 0
		return
	}
	if g.bar.better(value, g.Best) {
		g.Best, g.Good, g.Bad = &value, g.Good+1, 0
	} else {
		g.Good, g.Bad = 0, g.Bad+1
	}
	switch {
	case float64(g.Good) > g.patience:
		if rate := math.Min(g.Rate/g.factor, g.maxLR); rate-g.Rate > g.eps {
			g.Rate = rate
		}
		g.ResetStart, g.Warmup, g.Good = g.resetStart, int(g.warmup), 0
	case float64(g.Bad) > g.patience:
		if rate := math.Max(g.Rate*g.factor, g.minLR); g.Rate-rate > g.eps {
			g.Rate = rate
		}
		if g.Rate <= g.minLR {
			if g.ResetStart--; g.ResetStart <= 0 {
				g.reset()
			}
		}
		g.Cooldown, g.Bad = int(g.cooldown), 0
	}
}

// average is that of the last values, among them this one.
func (g *greedy) average(value float64) float64 {
	g.Window, g.Sum = append(g.Window, value), g.Sum+value
	if len(g.Window) > g.window {
		g.Sum -= g.Window[0]
		g.Window = g.Window[1:]
	}
	return g.Sum / float64(len(g.Window))
}
