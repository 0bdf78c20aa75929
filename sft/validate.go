package sft

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/loris-ml/loris/internal/training"
)

// Validate reports every field that cannot be used, each with its value and what would be right.
func (c SFTConfig) Validate() error {
	c = c.withDefaults()
	v := validator{}
	v.names("ExcessLengthStrategy", c.ExcessLengthStrategy, "truncate", "drop", "raise")
	v.names("TruncationMode", c.TruncationMode, KeepStart, KeepEnd)
	v.names("PackingStrategy", c.PackingStrategy, BFD, BFDSplit, Wrapped)
	v.names("TrainSamplingStrategy", c.TrainSamplingStrategy, Random, Sequential, GroupByLength)
	v.names("LoggingStrategy", c.LoggingStrategy, Steps, Epoch, No)
	v.names("EvalStrategy", c.EvalStrategy, No, Steps, Epoch)
	v.names("SaveStrategy", c.SaveStrategy, Steps, Epoch, Best, No)
	v.names("LossType", c.LossType, "nll", "chunked_nll", "dft")
	v.names("LRSchedulerType", c.LRSchedulerType, scheduleNames()...)
	v.names("Optim", c.Optim, training.OptimizerNames()...)
	v.check(c.MaxLength > 0 || c.MaxLength == NoMaxLength, "MaxLength", c.MaxLength, "want a number of tokens or NoMaxLength")
	v.check(c.PadToMultipleOf >= 0, "PadToMultipleOf", c.PadToMultipleOf, "want a number of tokens, or 0 for 64")
	v.check(c.PerDeviceTrainBatchSize > 0, "PerDeviceTrainBatchSize", c.PerDeviceTrainBatchSize, "want at least 1 row")
	v.check(c.PerDeviceEvalBatchSize > 0, "PerDeviceEvalBatchSize", c.PerDeviceEvalBatchSize, "want at least 1 row")
	v.check(c.GradientAccumulationSteps > 0, "GradientAccumulationSteps", c.GradientAccumulationSteps, "want at least 1 micro-step")
	v.check(c.MaxSteps >= -1, "MaxSteps", c.MaxSteps, "want a number of steps, or -1 to count by NumTrainEpochs")
	v.check(c.SaveTotalLimit >= 0, "SaveTotalLimit", c.SaveTotalLimit, "want a number of checkpoints, or 0 to keep all")
	v.positive("NumTrainEpochs", c.NumTrainEpochs)
	v.positive("LearningRate", c.LearningRate)
	v.positive("AdamEpsilon", c.AdamEpsilon)
	v.fraction("AdamBeta1", c.AdamBeta1)
	v.fraction("AdamBeta2", c.AdamBeta2)
	v.fraction("WarmupRatio", c.WarmupRatio)
	v.fraction("LabelSmoothingFactor", c.LabelSmoothingFactor)
	v.notNegative("NEFTuneNoiseAlpha", c.NEFTuneNoiseAlpha)
	v.notNegative("LossWatchdogThreshold", c.LossWatchdogThreshold)
	v.check(c.LossWatchdogPatience > 0, "LossWatchdogPatience", c.LossWatchdogPatience, "want a number of steps, or 0 for 3")
	v.check(c.LoRAPlusLRRatio == 0 || c.LoRAPlusLRRatio >= 1 && !math.IsInf(c.LoRAPlusLRRatio, 0), "LoRAPlusLRRatio", c.LoRAPlusLRRatio, "want a number of at least 1, or 0 for 1")
	v.notNegative("LoRAPlusLREmbedding", c.LoRAPlusLREmbedding)
	v.check(c.LoRAPlusLREmbedding == 0 || c.LoRAPlusLRRatio != 0, "LoRAPlusLREmbedding", c.LoRAPlusLREmbedding, "it is LoRA+'s; set LoRAPlusLRRatio too")
	for _, to := range c.ReportTo {
		v.names("ReportTo", to, reportNames()...)
	}
	v.notNegative("WeightDecay", c.WeightDecay)
	v.notNegative("MaxGradNorm", *c.MaxGradNorm)
	v.notNegative("EvalDelay", c.EvalDelay)
	v.steps("WarmupSteps", c.WarmupSteps)
	v.steps("LoggingSteps", c.LoggingSteps)
	v.steps("EvalSteps", c.EvalSteps)
	v.steps("SaveSteps", c.SaveSteps)
	if c.WarmupSteps != 0 && c.WarmupRatio != 0 {
		v.fail("WarmupRatio", c.WarmupRatio, fmt.Sprintf("WarmupSteps is %v too; set one of them", c.WarmupSteps))
	}
	c.validateCombinations(&v)
	return errors.Join(v.errs...)
}

// validateCombinations checks fields against each other.
func (c SFTConfig) validateCombinations(v *validator) {
	packing := c.Packing || *c.EvalPacking
	v.check(!packing || c.MaxLength != NoMaxLength, "MaxLength", "NoMaxLength", "packing needs a block length; set a number of tokens")
	if c.FormattingFunc != nil && c.CompletionOnlyLoss != nil && *c.CompletionOnlyLoss {
		v.fail("CompletionOnlyLoss", true, "FormattingFunc makes plain text, in which no completion can be told; unset one of them")
	}
	if c.FormattingFunc != nil && c.AssistantOnlyLoss {
		v.fail("AssistantOnlyLoss", true, "FormattingFunc makes plain text, in which no assistant turn can be told; unset one of them")
	}
	if slices.Contains(training.OptimizerNames(), c.Optim) {
		if _, err := training.ParseOptimizer(c.Optim, c.OptimArgs); err != nil {
			v.fail("OptimArgs", c.OptimArgs, err.Error())
		}
	}
	v.check(c.LabelSmoothingFactor == 0 || c.LossType != "dft", "LabelSmoothingFactor", c.LabelSmoothingFactor, "LossType dft cannot be smoothed; unset one of them")
	v.check(c.Loss == nil || c.LossType != "dft" && c.LabelSmoothingFactor == 0, "Loss", "set", "it replaces LossType dft and LabelSmoothingFactor; unset one of them")
	v.check(c.Loss == nil || c.Loss.Name != "" && c.Loss.PerLabel != nil, "Loss", "incomplete", "give it a Name and PerLabel")
	v.check(!c.follows() || c.EvalStrategy != No, "LRSchedulerType", c.LRSchedulerType, "it follows evaluations; set EvalStrategy to steps or epoch")
	if _, err := newSchedule(c, 1); err != nil && slices.Contains(scheduleNames(), c.LRSchedulerType) {
		v.errs = append(v.errs, err)
	}
	if c.EvalStrategy != No || c.EvalOnStart {
		v.check(c.EvalDataset != nil, "EvalDataset", "empty", "evaluation is asked for (EvalStrategy or EvalOnStart); give rows")
	}
	if !c.LoadBestModelAtEnd && c.SaveStrategy != Best {
		return
	}
	v.check(c.EvalStrategy != No, "EvalStrategy", No, "the best checkpoint is told by evaluation; set steps or epoch")
	if !c.LoadBestModelAtEnd {
		return
	}
	v.check(!c.SaveOnlyModel, "SaveOnlyModel", true, "LoadBestModelAtEnd reads the full checkpoint; unset one of them")
	if c.SaveStrategy == Best {
		return
	}
	v.check(c.SaveStrategy == c.EvalStrategy, "SaveStrategy", c.SaveStrategy, fmt.Sprintf("LoadBestModelAtEnd needs every evaluated model saved; set EvalStrategy's %q, or best", c.EvalStrategy))
	if c.EvalStrategy == Steps {
		multiple := c.SaveSteps / c.EvalSteps
		v.check((c.SaveSteps < 1) == (c.EvalSteps < 1) && math.Abs(multiple-math.Round(multiple)) < 1e-6,
			"SaveSteps", c.SaveSteps, fmt.Sprintf("LoadBestModelAtEnd needs a multiple of EvalSteps, %v", c.EvalSteps))
	}
}

// validator gathers what is wrong with an SFTConfig.
type validator struct{ errs []error }

func (v *validator) fail(field string, value any, remedy string) {
	if s, ok := value.(string); ok {
		value = fmt.Sprintf("%q", s)
	}
	v.errs = append(v.errs, fmt.Errorf("sft: SFTConfig.%s is %v: %s", field, value, remedy))
}

func (v *validator) check(ok bool, field string, value any, remedy string) {
	if !ok {
		v.fail(field, value, remedy)
	}
}

func (v *validator) names(field, value string, known ...string) {
	v.check(slices.Contains(known, value), field, value, "want one of "+strings.Join(known, ", "))
}

func (v *validator) positive(field string, value float64) {
	v.check(value > 0 && !math.IsInf(value, 0), field, value, "want a number above 0")
}

func (v *validator) notNegative(field string, value float64) {
	v.check(value >= 0 && !math.IsInf(value, 0), field, value, "want a number of at least 0")
}

func (v *validator) fraction(field string, value float64) {
	v.check(value >= 0 && value < 1, field, value, "want a number of at least 0 and below 1")
}

// steps takes a whole number of steps, or a fraction of all steps.
func (v *validator) steps(field string, value float64) {
	ok := value >= 0 && (value < 1 || value == math.Trunc(value)) && !math.IsInf(value, 0)
	v.check(ok, field, value, "want a whole number of steps, or a fraction of all steps below 1")
}

// lowerIsBetter tells it by a metric's name: transformers' rule, and perplexity, which it has not.
func lowerIsBetter(metric string) bool {
	return strings.HasSuffix(metric, "loss") || strings.HasSuffix(metric, "perplexity")
}
