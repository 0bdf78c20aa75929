package sft

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Values of SFTConfig.LRSchedulerType. All but Constant rise linearly from 0 over the warmup steps first.
const (
	Linear             = "linear"               // falls linearly to 0
	Cosine             = "cosine"               // half a cosine down to 0; num_cycles 0.5
	CosineWithRestarts = "cosine_with_restarts" // num_cycles 1 cosines, each from the full rate
	CosineWithMinLR    = "cosine_with_min_lr"   // cosine down to min_lr, or min_lr_rate times the rate
	Polynomial         = "polynomial"           // falls to lr_end 1e-7 with power 1
	Constant           = "constant"
	ConstantWithWarmup = "constant_with_warmup"
	InverseSqrt        = "inverse_sqrt" // falls with the square root of the steps; timescale: the warmup steps, or 10000
)

// schedule gives the learning rate of an optimizer step, counted from 0.
type schedule func(step int) float64

// decay is a schedule's factor after warmup.
type decay func(step float64) float64

// scheduleKinds say which keyword arguments a schedule reads and make its decay from them; w warmup steps, t steps in
// all (transformers.optimization). kw(name, default) reads an argument.
var scheduleKinds = map[string]struct {
	kwargs string // separated by blanks
	decay  func(c SFTConfig, w, t float64, kw func(string, float64) float64) (decay, error)
}{
	Linear: {"", func(_ SFTConfig, w, t float64, _ func(string, float64) float64) (decay, error) {
		return func(s float64) float64 { return max(0, (t-s)/max(1, t-w)) }, nil
	}},
	Cosine: {"num_cycles", func(_ SFTConfig, w, t float64, kw func(string, float64) float64) (decay, error) {
		cycles := kw("num_cycles", 0.5)
		return func(s float64) float64 { return max(0, cosine(cycles*2*(s-w)/max(1, t-w))) }, nil
	}},
	CosineWithRestarts: {"num_cycles", func(_ SFTConfig, w, t float64, kw func(string, float64) float64) (decay, error) {
		cycles := kw("num_cycles", 1)
		return func(s float64) float64 {
			p := (s - w) / max(1, t-w)
			if p >= 1 {
				return 0
			}
			return max(0, cosine(math.Mod(cycles*p, 1)))
		}, nil
	}},
	CosineWithMinLR: {"num_cycles min_lr min_lr_rate", func(c SFTConfig, w, t float64, kw func(string, float64) float64) (decay, error) {
		cycles, low, rate := kw("num_cycles", 0.5), kw("min_lr", -1), kw("min_lr_rate", -1)
		if (low < 0) == (rate < 0) {
			return nil, errors.New("sft: SFTConfig.LRSchedulerKwargs: cosine_with_min_lr wants exactly one of min_lr and min_lr_rate, at least 0")
		}
		if rate < 0 {
			rate = low / c.LearningRate
		}
		return func(s float64) float64 { return max(0, cosine(cycles*2*(s-w)/max(1, t-w))*(1-rate)+rate) }, nil
	}},
	Polynomial: {"lr_end power", func(c SFTConfig, w, t float64, kw func(string, float64) float64) (decay, error) {
		end, power := kw("lr_end", 1e-7), kw("power", 1)
		if c.LearningRate <= end {
			return nil, fmt.Errorf("sft: SFTConfig.LearningRate is %v: a polynomial schedule falls to lr_end %v, which must be below it", c.LearningRate, end)
		}
		return func(s float64) float64 {
			if s > t {
				return end / c.LearningRate
			}
			return ((c.LearningRate-end)*math.Pow(1-(s-w)/(t-w), power) + end) / c.LearningRate
		}, nil
	}},
	Constant: {"", func(SFTConfig, float64, float64, func(string, float64) float64) (decay, error) {
		return func(float64) float64 { return 1 }, nil
	}},
	ConstantWithWarmup: {"", func(SFTConfig, float64, float64, func(string, float64) float64) (decay, error) {
		return func(float64) float64 { return 1 }, nil
	}},
	InverseSqrt: {"timescale", func(_ SFTConfig, w, _ float64, kw func(string, float64) float64) (decay, error) {
		scale := kw("timescale", w)
		if scale == 0 {
			scale = 10000
		}
		return func(s float64) float64 { return 1 / math.Sqrt((s+scale-w)/scale) }, nil
	}},
}

// cosine is half a wave from 1 at 0 to 0 at 1.
func cosine(x float64) float64 { return 0.5 * (1 + math.Cos(math.Pi*x)) }

func scheduleNames() []string {
	var names []string
	for name := range scheduleKinds {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

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
	kw := func(name string, def float64) float64 {
		if v, ok := c.LRSchedulerKwargs[name]; ok {
			return v
		}
		return def
	}
	warmup := float64(c.warmup(steps))
	after, err := kind.decay(c, warmup, float64(steps), kw)
	if err != nil {
		return nil, err
	}
	return func(step int) float64 {
		s := float64(step)
		if s < warmup && c.LRSchedulerType != Constant {
			return c.LearningRate * (s / max(1, warmup))
		}
		return c.LearningRate * after(s)
	}, nil
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
