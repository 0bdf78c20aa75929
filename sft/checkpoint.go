package sft

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/loris-ml/loris/internal/atomicfile"
)

const (
	resumeFile = "resume.json"        // a savedPosition
	argsFile   = "training_args.json" // the SFTConfig, in place of transformers' pickled training_args.bin
)

// savedPosition is a run's position in a checkpoint.
type savedPosition struct {
	Meter      meter           `json:"meter"`
	GradNorm   float64         `json:"grad_norm"`
	Rate       float64         `json:"learning_rate"`
	Tokens     int64           `json:"num_tokens"`
	Labels     int64           `json:"num_labels"`
	Logged     int             `json:"last_logged_step"`
	EpochEnded int             `json:"last_epoch_end_step"`
	Skipped    int             `json:"skipped_steps"`
	Follower   json.RawMessage `json:"follower,omitempty"` // run.follower
	Evaluate   bool            `json:"evaluation_is_due"`
	Order      dataOrder       `json:"data_order"`
}

// dataOrder are the settings that decide which rows a step sees. A run that skips to its place needs the same ones.
type dataOrder struct {
	Rows                      string `json:"rows"` // dataset.fingerprint
	PerDeviceTrainBatchSize   int    `json:"per_device_train_batch_size"`
	GradientAccumulationSteps int    `json:"gradient_accumulation_steps"`
	DataloaderDropLast        bool   `json:"dataloader_drop_last"`
	TrainSamplingStrategy     string `json:"train_sampling_strategy"`
	DataSeed                  int64  `json:"data_seed"`
}

func (r *run) order() dataOrder {
	c := r.cfg
	return dataOrder{r.train.fingerprint(), c.PerDeviceTrainBatchSize, c.GradientAccumulationSteps, c.DataloaderDropLast, c.TrainSamplingStrategy, c.DataSeed}
}

// save writes checkpoint-<step>, whole or not at all, and removes those beyond SaveTotalLimit:
//
//	what Model.SavePretrained writes    the adapter or the model
//	what Session.SaveState writes       trainable values, moments, step count (not with SaveOnlyModel)
//	resume.json                         the place in the data, running sums (not with SaveOnlyModel)
//	the tokenizer                       if it can save itself
//	trainer_state.json                  as transformers writes it
//	training_args.json                  the SFTConfig with its defaults filled in
func (r *run) save() error {
	s := &r.state
	dir := checkpointName(r.cfg.OutputDir, s.GlobalStep)
	if s.BestGlobalStep != nil {
		best := checkpointName(r.cfg.OutputDir, *s.BestGlobalStep)
		if _, err := os.Stat(best); err == nil || best == dir {
			s.BestCheckpoint = &best
		}
	}
	var err error
	if s.CallbackStates, err = r.callbacks.save(r.control); err != nil {
		return err
	}
	r.bar.clear()
	if err := atomicfile.ReplaceDir(dir, r.writeCheckpoint); err != nil {
		return fmt.Errorf("sft: save the checkpoint of step %d: %w", s.GlobalStep, err)
	}
	r.savedStep, r.control.ShouldSave = s.GlobalStep, false
	r.checkpoints = append(slices.DeleteFunc(r.checkpoints, func(p string) bool { return p == dir }), dir)
	if err := errors.Join(r.rotate(), r.writeCard()); err != nil {
		return err
	}
	r.cfg.Logger.Info("checkpoint saved", "folder", dir)
	return r.call("OnSave", nil, dir, func(cb Callback) func(*Event) error { return cb.OnSave })
}

func (r *run) writeCheckpoint(dir string) error {
	if err := r.model.SavePretrained(dir); err != nil {
		return err
	}
	if tok, ok := r.tok.(interface{ SavePretrained(dir string) error }); ok {
		if err := tok.SavePretrained(dir); err != nil {
			return err
		}
	}
	if !r.cfg.SaveOnlyModel {
		if err := r.session.SaveState(dir); err != nil {
			return err
		}
		var followed json.RawMessage
		if r.follower != nil {
			text, err := json.Marshal(r.follower)
			if err != nil {
				return err
			}
			followed = text
		}
		p := savedPosition{r.meter, r.gradNorm, r.rate, r.tokens, r.labels, r.logged, r.epochEnded, r.skipped, followed, r.control.ShouldEvaluate, r.order()}
		if err := writeJSON(filepath.Join(dir, resumeFile), p); err != nil {
			return err
		}
	}
	return errors.Join(writeJSON(filepath.Join(dir, stateFile), r.state), writeJSON(filepath.Join(dir, argsFile), r.cfg))
}

// rotate removes the oldest checkpoints beyond SaveTotalLimit, but neither the newest nor the best.
func (r *run) rotate() error {
	limit, newest := r.cfg.SaveTotalLimit, r.checkpoints[len(r.checkpoints)-1]
	if limit == 0 {
		return nil
	}
	best, over := r.state.BestCheckpoint, len(r.checkpoints)-limit
	return r.remove(func(dir string) bool {
		remove := over > 0 && dir != newest && (best == nil || dir != *best)
		if remove {
			over--
		}
		return remove
	})
}

// remove deletes checkpoints, oldest first. A checkpoint loses its name before its files.
func (r *run) remove(chosen func(dir string) bool) error {
	for _, dir := range slices.Clone(r.checkpoints) {
		if !chosen(dir) {
			continue
		}
		hidden := removedName(dir)
		err := os.RemoveAll(hidden)
		if err == nil {
			err = os.Rename(dir, hidden)
		}
		if err == nil {
			err = os.RemoveAll(hidden)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sft: remove the old checkpoint %s (SFTConfig.SaveTotalLimit %d): %w", dir, r.cfg.SaveTotalLimit, err)
		}
		r.checkpoints = slices.DeleteFunc(r.checkpoints, func(p string) bool { return p == dir })
	}
	return nil
}

// removedName is what a checkpoint is called while its files are removed.
func removedName(dir string) string {
	return filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".removed")
}

// removeLeftovers removes what a killed run was writing into OutputDir, or removing from it.
func removeLeftovers(dir string) error {
	err := atomicfile.RemoveLeftovers(dir, func(base string) bool {
		return checkpointPattern.MatchString(base) || slices.Contains([]string{stateFile, cardFile, lossPlot, ratePlot, memoryPlot, jsonlFile, csvFile}, base)
	})
	removed, _ := fs.Glob(os.DirFS(dir), removedName("checkpoint-*"))
	for _, name := range removed {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, name)))
	}
	if err != nil {
		return fmt.Errorf("sft: remove what a killed run left in %s: %w", dir, err)
	}
	return nil
}

var checkpointPattern = regexp.MustCompile(`^checkpoint-(\d+)$`)

// findCheckpoints lists the checkpoints in a folder by their step.
func findCheckpoints(dir string) (paths []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("sft: %w", err)
	}
	step := map[string]int{}
	for _, e := range entries {
		m := checkpointPattern.FindStringSubmatch(e.Name())
		if m == nil || !e.IsDir() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if step[path], err = strconv.Atoi(m[1]); err == nil {
			paths = append(paths, path)
		}
	}
	slices.SortFunc(paths, func(a, b string) int { return step[a] - step[b] })
	return paths, nil
}

// resumeFolder is the checkpoint that ResumeFromCheckpoint means; "" is a fresh start.
func (c SFTConfig) resumeFolder() (string, error) {
	switch c.ResumeFromCheckpoint {
	case "":
		return "", nil
	case LastCheckpoint, AutoCheckpoint:
		paths, err := findCheckpoints(c.OutputDir)
		if err != nil {
			return "", err
		}
		if len(paths) > 0 {
			return paths[len(paths)-1], nil
		}
		if c.ResumeFromCheckpoint == AutoCheckpoint {
			return "", nil
		}
		return "", fmt.Errorf("sft: SFTConfig.ResumeFromCheckpoint is %q, but %s has no checkpoint; use %q to start afresh then", LastCheckpoint, c.OutputDir, AutoCheckpoint)
	}
	if info, err := os.Stat(c.ResumeFromCheckpoint); err != nil || !info.IsDir() {
		return "", fmt.Errorf("sft: SFTConfig.ResumeFromCheckpoint is %q: want a checkpoint folder, %q or %q", c.ResumeFromCheckpoint, LastCheckpoint, AutoCheckpoint)
	}
	return c.ResumeFromCheckpoint, nil
}

// resume puts the run where a checkpoint was.
func (r *run) resume(dir string) error {
	if err := readJSON(filepath.Join(dir, stateFile), &r.state); err != nil {
		return err
	}
	var p savedPosition
	if err := readJSON(filepath.Join(dir, resumeFile), &p); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sft: %s has no %s: it was saved with SaveOnlyModel or by another program, and cannot be resumed; load the model from it and start afresh", dir, resumeFile)
		}
		return err
	}
	if err := r.sameOrder(dir, p.Order); err != nil {
		return err
	}
	if err := r.session.LoadState(dir); err != nil {
		return fmt.Errorf("sft: resume from %s: %w", dir, err)
	}
	if best := r.state.BestCheckpoint; best != nil {
		if _, err := os.Stat(*best); err != nil {
			r.cfg.Logger.Warn("the best checkpoint so far is gone", "folder", *best)
			r.state.BestCheckpoint = nil
		}
	}
	r.position = position{p.Meter, p.GradNorm, p.Rate, p.Tokens, p.Labels, p.Logged, p.EpochEnded, p.Skipped}
	if r.follower != nil && p.Follower != nil {
		if err := json.Unmarshal(p.Follower, r.follower); err != nil {
			return fmt.Errorf("sft: resume from %s: %s: %w", dir, resumeFile, err)
		}
	}
	r.control.ShouldEvaluate = p.Evaluate && r.eval != nil
	r.control.ShouldSave = r.control.ShouldEvaluate // what was evaluated since is to be in the checkpoint of this step, too
	r.cfg.Logger.Info("resuming", "checkpoint", dir, "step", r.state.GlobalStep)
	return r.callbacks.restore(r.state.CallbackStates)
}

// sameOrder refuses to skip to a place in other data than the checkpoint's, naming what differs.
func (r *run) sameOrder(dir string, then dataOrder) error {
	now := r.order()
	if now == then || r.cfg.IgnoreDataSkip {
		return nil
	}
	var old, present map[string]any
	for to, from := range map[*map[string]any]dataOrder{&old: then, &present: now} {
		text, err := json.Marshal(from)
		if err == nil {
			err = json.Unmarshal(text, to)
		}
		if err != nil {
			return err
		}
	}
	var errs []error
	for _, name := range Row(old).Columns() {
		if old[name] == present[name] {
			continue
		}
		if name == "rows" {
			errs = append(errs, errors.New("the data set has other tokens, labels or packing"))
			continue
		}
		errs = append(errs, fmt.Errorf("%s was %v, now %v", name, old[name], present[name]))
	}
	return fmt.Errorf("sft: %s cannot be resumed, its place in the data would be another: %w; restore these, or set IgnoreDataSkip to start the epoch over", dir, errors.Join(errs...))
}

// loadBest puts the best checkpoint's weights back.
func (r *run) loadBest() error {
	best := r.state.BestCheckpoint
	if best == nil {
		r.cfg.Logger.Warn("no evaluation was saved, the last weights stay (LoadBestModelAtEnd)")
		return nil
	}
	if err := r.session.LoadState(*best); err != nil {
		return fmt.Errorf("sft: load the best checkpoint %s: %w", *best, err)
	}
	r.cfg.Logger.Info("best checkpoint loaded", "folder", *best, r.cfg.MetricForBestModel, *r.state.BestMetric)
	return nil
}
