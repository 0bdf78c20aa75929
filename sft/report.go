package sft

import "time"

// Report is what a call of Train has done. Rates are over its whole time, with evaluation and saving.
type Report struct {
	GlobalStep            int     // optimizer steps done, those before a resumption too
	Epoch                 float64 // epochs done
	TrainingLoss          float64 // mean loss per label over the steps of this call, in nats
	TrainRuntime          float64 // seconds
	TrainSamplesPerSecond float64
	TrainStepsPerSecond   float64
	TokensPerSecond       float64 // all tokens but padding
	LabelsPerSecond       float64 // tokens that are trained
	NumTokens             int64   // trained on, before a resumption too; padding is not counted
	PeakMemory            int64   // bytes of device memory seen in use; 0 if the device does not tell
	Data                  DataReport
	EvalData              *DataReport // nil without EvalDataset
	LogHistory            []Metrics
	LastCheckpoint        string // "" if none was written
	BestCheckpoint        string // "" unless MetricForBestModel is tracked
	BestMetric            *float64
}

// result is the report of a run as far as it has come.
func (r *run) result() *Report {
	seconds := time.Since(r.start).Seconds()
	steps := float64(r.state.GlobalStep - r.startStep)
	report := &Report{
		GlobalStep:            r.state.GlobalStep,
		Epoch:                 r.state.Epoch,
		TrainingLoss:          r.lossTotal / max(steps, 1),
		TrainRuntime:          seconds,
		TrainSamplesPerSecond: r.plan.samples * steps / float64(r.plan.maxSteps) / seconds,
		TrainStepsPerSecond:   steps / seconds,
		TokensPerSecond:       float64(r.tokens-r.startTokens) / seconds,
		LabelsPerSecond:       float64(r.labels-r.startLabels) / seconds,
		NumTokens:             r.tokens,
		PeakMemory:            r.peakMemory,
		Data:                  r.report,
		EvalData:              r.evalReport,
		LogHistory:            r.state.LogHistory,
		BestMetric:            r.state.BestMetric,
	}
	if r.savedStep >= 0 {
		report.LastCheckpoint = checkpointName(r.cfg.OutputDir, r.savedStep)
	}
	if r.state.BestCheckpoint != nil {
		report.BestCheckpoint = *r.state.BestCheckpoint
	}
	return report
}
