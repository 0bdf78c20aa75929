package sft

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Values of SFTConfig.LRSchedulerType, the names and formulas of transformers. But for Constant, ReduceLROnPlateau and Greedy the
// rate rises from 0 over the warmup steps first, linearly unless said otherwise.
const (
	Linear                = "linear"                    // falls linearly to 0
	Cosine                = "cosine"                    // half a cosine down to 0; num_cycles 0.5
	CosineWithRestarts    = "cosine_with_restarts"      // num_cycles 1 cosines, each from the full rate
	CosineWithMinLR       = "cosine_with_min_lr"        // cosine down to min_lr, or min_lr_rate times the rate
	CosineWarmupWithMinLR = "cosine_warmup_with_min_lr" // the same one step ahead, warmup from warmup_lr_rate, or 1/warmup steps
	Polynomial            = "polynomial"                // falls to lr_end 1e-7 with power 1
	Constant              = "constant"
	ConstantWithWarmup    = "constant_with_warmup"
	InverseSqrt           = "inverse_sqrt"         // falls with the square root of the steps; timescale: the warmup steps, or 10000
	WarmupStableDecay     = "warmup_stable_decay"  // constant, then num_decay_steps down to min_lr_ratio 0 (cosine); see LRSchedulerKwargs
	ReduceLROnPlateau     = "reduce_lr_on_plateau" // constant until MetricForBestModel stops improving, then times factor 0.1
	Greedy                = "greedy"               // over factor 0.95 while MetricForBestModel improves, else times it; min_lr 1e-3, max_lr 1
)

// schedule gives the learning rate of an optimizer step, counted from 0.
type schedule func(step int) float64

// factor is what a schedule multiplies LearningRate by in a step.
type factor func(step float64) float64

// scheduleKinds say which keyword arguments a schedule reads, and make its factors after warmup and, where it is not
// linear, during warmup; w warmup steps, t steps in all (transformers.optimization).
var scheduleKinds = map[string]struct {
	kwargs string // separated by blanks
	make   func(c SFTConfig, w, t float64, kw *scheduleArgs) (after, warmup factor)
}{
	Linear: {"", func(_ SFTConfig, w, t float64, _ *scheduleArgs) (after, warmup factor) {
		return func(s float64) float64 { return max(0, (t-s)/max(1, t-w)) }, nil
	}},
	Cosine: {"num_cycles", func(_ SFTConfig, w, t float64, kw *scheduleArgs) (after, warmup factor) {
		cycles := kw.number("num_cycles", 0.5)
		return func(s float64) float64 { return max(0, cosine(cycles*2*(s-w)/max(1, t-w))) }, nil
	}},
	CosineWithRestarts: {"num_cycles", func(_ SFTConfig, w, t float64, kw *scheduleArgs) (after, warmup factor) {
		cycles := kw.number("num_cycles", 1)
		return func(s float64) float64 {
			p := (s - w) / max(1, t-w)
			if p >= 1 {
				return 0
			}
			return max(0, cosine(math.Mod(cycles*p, 1)))
		}, nil
	}},
	CosineWithMinLR: {"num_cycles min_lr min_lr_rate", func(c SFTConfig, w, t float64, kw *scheduleArgs) (after, warmup factor) {
		cycles, low := kw.number("num_cycles", 0.5), kw.lowest(c)
		return func(s float64) float64 { return max(0, cosine(cycles*2*(s-w)/max(1, t-w))*(1-low)+low) }, nil
	}},
	CosineWarmupWithMinLR: {"num_cycles min_lr min_lr_rate warmup_lr_rate", func(c SFTConfig, w, t float64, kw *scheduleArgs) (after, warmup factor) {
		cycles, low := kw.number("num_cycles", 0.5), kw.lowest(c)
		warmup = func(s float64) float64 { return (s + 1) / max(1, w) }
		if kw.has("warmup_lr_rate") {
			first := kw.number("warmup_lr_rate", 0)
			warmup = func(s float64) float64 { return first + (1-first)*s/max(1, w-1) }
		}
		return func(s float64) float64 { return max(0, cosine(cycles*2*(s-w+1)/max(1, t-w))*(1-low)+low) }, warmup
	}},
	Polynomial: {"lr_end power", func(c SFTConfig, w, t float64, kw *scheduleArgs) (after, warmup factor) {
		end, power := kw.number("lr_end", 1e-7), kw.number("power", 1)
		if c.LearningRate <= end {
			kw.err = fmt.Errorf("sft: SFTConfig.LearningRate is %v: a polynomial schedule falls to lr_end %v, which must be below it", c.LearningRate, end)
		}
		return func(s float64) float64 {
			if s > t {
				return end / c.LearningRate
			}
			return ((c.LearningRate-end)*math.Pow(1-(s-w)/(t-w), power) + end) / c.LearningRate
		}, nil
	}},
	Constant: {"", func(SFTConfig, float64, float64, *scheduleArgs) (after, warmup factor) {
		one := func(float64) float64 { return 1 }
		return one, one
	}},
	ConstantWithWarmup: {"", func(SFTConfig, float64, float64, *scheduleArgs) (after, warmup factor) {
		return func(float64) float64 { return 1 }, nil
	}},
	InverseSqrt: {"timescale", func(_ SFTConfig, w, _ float64, kw *scheduleArgs) (after, warmup factor) {
		scale := kw.number("timescale", w)
		if scale == 0 {
			scale = 10000
		}
		return func(s float64) float64 { return 1 / math.Sqrt((s+scale-w)/scale) }, nil
	}},
	WarmupStableDecay: {"num_decay_steps num_stable_steps warmup_type decay_type min_lr_ratio num_cycles", warmupStableDecay},
	ReduceLROnPlateau: {plateauKwargs, func(c SFTConfig, _, _ float64, kw *scheduleArgs) (after, warmup factor) {
		newPlateau(c, kw) // for its errors; what it does depends on evaluations, not steps
		return unchanged, unchanged
	}},
	Greedy: {greedyKwargs, func(c SFTConfig, _, _ float64, kw *scheduleArgs) (after, warmup factor) {
		newGreedy(c, kw)
		return unchanged, unchanged
	}},
}

func unchanged(float64) float64 { return 1 }

// warmupStableDecay is transformers.get_wsd_schedule.
func warmupStableDecay(_ SFTConfig, w, t float64, kw *scheduleArgs) (after, warmup factor) {
	if !kw.has("num_decay_steps") {
		kw.fail("warmup_stable_decay wants num_decay_steps, the steps in which the rate falls")
	}
	falling := kw.number("num_decay_steps", 0)
	stable := kw.number("num_stable_steps", t-w-falling)
	low, cycles := kw.number("min_lr_ratio", 0), kw.number("num_cycles", 0.5)
	rise := map[string]factor{
		"linear": func(p float64) float64 { return p },
		"cosine": func(p float64) float64 { return 0.5 * (1 - math.Cos(math.Pi*p)) },
		"1-sqrt": func(p float64) float64 { return 1 - math.Sqrt(1-p) },
	}[kw.text("warmup_type", "linear", "linear", "cosine", "1-sqrt")]
	fall := map[string]factor{
		"linear": func(p float64) float64 { return 1 - p },
		"cosine": func(p float64) float64 { return cosine(cycles * 2 * p) },
		"1-sqrt": func(p float64) float64 { return 1 - math.Sqrt(p) },
	}[kw.text("decay_type", "cosine", "linear", "cosine", "1-sqrt")]
	above := func(f float64) float64 { return max(0, f*(1-low)+low) }
	after = func(s float64) float64 {
		switch {
		case s < w+stable:
			return 1
		case s < w+stable+falling:
			return above(fall((s - w - stable) / max(1, falling)))
		}
		return low
	}
	return after, func(s float64) float64 { return above(rise(s / max(1, w))) }
}

// cosine is half a wave from 1 at 0 to 0 at 1.
func cosine(x float64) float64 { return 0.5 * (1 + math.Cos(math.Pi*x)) }

func scheduleNames() []string { return slices.Sorted(maps.Keys(scheduleKinds)) }

// newSchedule makes the schedule for a number of optimizer steps.
func newSchedule(c SFTConfig, steps int) (schedule, error) {
	kind, ok := scheduleKinds[c.LRSchedulerType]
	if !ok {
		return nil, fmt.Errorf("sft: SFTConfig.LRSchedulerType is %q: want one of %s", c.LRSchedulerType, strings.Join(scheduleNames(), ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(c.LRSchedulerKwargs)) {
		if !slices.Contains(strings.Fields(kind.kwargs), name) {
			return nil, fmt.Errorf("sft: SFTConfig.LRSchedulerKwargs has %q: the %s schedule reads %s", name, c.LRSchedulerType, cmp.Or(kind.kwargs, "none"))
		}
	}
	kw := &scheduleArgs{values: c.LRSchedulerKwargs}
	w := float64(c.warmup(steps))
	after, warmup := kind.make(c, w, float64(steps), kw)
	if kw.err != nil {
		return nil, kw.err
	}
	if warmup == nil {
		warmup = func(s float64) float64 { return s / max(1, w) }
	}
	return func(step int) float64 {
		s := float64(step)
		if s < w {
			return c.LearningRate * warmup(s)
		}
		return c.LearningRate * after(s)
	}, nil
}

// scheduleArgs reads SFTConfig.LRSchedulerKwargs; err is the first fault.
type scheduleArgs struct {
	values map[string]any
	err    error
}

func (a *scheduleArgs) fail(what string) {
	if a.err == nil {
		a.err = fmt.Errorf("sft: SFTConfig.LRSchedulerKwargs: %s", what)
	}
}

func (a *scheduleArgs) has(name string) bool { return a.values[name] != nil }

// number reads a number of at least 0.
func (a *scheduleArgs) number(name string, def float64) float64 {
	v, ok := a.values[name]
	if !ok || v == nil { // None
		return def
	}
	number, ok := toFloat(v)
	if !ok || !(number >= 0) || math.IsInf(number, 0) {
		a.fail(fmt.Sprintf("%s is %v: want a number of at least 0", name, v))
		return def
	}
	return number
}

// text reads one of the known texts.
func (a *scheduleArgs) text(name, def string, known ...string) string {
	v, ok := a.values[name]
	if !ok || v == nil {
		return def
	}
	if text, ok := v.(string); ok && slices.Contains(known, text) {
		return text
	}
	a.fail(fmt.Sprintf("%s is %v: want one of %s", name, v, strings.Join(known, ", ")))
	return def
}

// flag reads a truth value, false unless given.
func (a *scheduleArgs) flag(name string) bool {
	v, ok := a.values[name]
	if !ok || v == nil {
		return false
	}
	set, ok := v.(bool)
	if !ok {
		a.fail(fmt.Sprintf("%s is %v: want true or false", name, v))
	}
	return set
}

// lowest is the factor that min_lr or min_lr_rate asks for; one of them has to be given.
func (a *scheduleArgs) lowest(c SFTConfig) float64 {
	if a.has("min_lr") == a.has("min_lr_rate") {
		a.fail(c.LRSchedulerType + " wants exactly one of min_lr and min_lr_rate, at least 0")
	}
	if a.has("min_lr") {
		return a.number("min_lr", 0) / c.LearningRate
	}
	return a.number("min_lr_rate", 0)
}

// toFloat is a number of any kind that Go code, JSON or YAML gives.
func toFloat(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case float32:
		return float64(v), true
	case int:
		return float64(v), true
	case int64:
		return float64(v), true
	}
	return 0, false
}

// warmup is the number of warmup steps out of steps.
func (c SFTConfig) warmup(steps int) int { return c.interval(c.WarmupSteps+c.WarmupRatio, steps) }

// interval reads a number of steps that is a fraction of all steps if below 1.
func (c SFTConfig) interval(value float64, steps int) int {
	if value < 1 {
		return int(math.Ceil(float64(steps) * value))
	}
	return int(value)
}

// stepPlan says how an epoch's rows become optimizer steps.
type stepPlan struct {
	batches       int // micro-steps of an epoch
	stepsPerEpoch int
	maxSteps      int
	epochs        int // begun ones
	samples       float64
}

// plan counts as transformers.Trainer.set_initial_training_values does; the last step of an epoch may be a short one.
func (c SFTConfig) plan(rows int) stepPlan {
	batches := (rows + c.PerDeviceTrainBatchSize - 1) / c.PerDeviceTrainBatchSize
	if c.DataloaderDropLast {
		batches = max(1, rows/c.PerDeviceTrainBatchSize)
	}
	perEpoch := (batches + c.GradientAccumulationSteps - 1) / c.GradientAccumulationSteps
	p := stepPlan{batches: batches, stepsPerEpoch: perEpoch}
	if c.MaxSteps > 0 {
		p.maxSteps = c.MaxSteps
		p.epochs = (c.MaxSteps + perEpoch - 1) / perEpoch
		p.samples = float64(c.MaxSteps * c.PerDeviceTrainBatchSize * c.GradientAccumulationSteps)
		return p
	}
	p.maxSteps = int(math.Ceil(c.NumTrainEpochs * float64(perEpoch)))
	p.epochs = int(math.Ceil(c.NumTrainEpochs))
	p.samples = float64(rows) * c.NumTrainEpochs
	return p
}
