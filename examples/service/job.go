package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/peft"
	"github.com/loris-ml/loris/sft"
	"github.com/loris-ml/loris/tokenizer"
)

// jobRequest is what a client sends.
type jobRequest struct {
	Rows     []sft.Row       `json:"rows"`
	EvalRows []sft.Row       `json:"eval_rows,omitempty"`
	SFT      json.RawMessage `json:"sft,omitempty"` // settings by TRL's names; see sft.LoadSFTConfig
	LoRA     loraRequest     `json:"lora"`
}

type loraRequest struct {
	R       int     `json:"r"`          // 0: 8
	Alpha   float64 `json:"lora_alpha"` // 0: 2 r
	Dropout float64 `json:"lora_dropout"`
}

// State is what a job is doing.
type State string

const (
	waiting   State = "waiting" // for its turn
	running   State = "running"
	cancelled State = "cancelled" // may be resumed, as a failed one may
	failed    State = "failed"
	done      State = "done"
)

func (s State) over() bool { return s != waiting && s != running }

// status is what clients are shown of a job.
type status struct {
	ID      int         `json:"id"`
	State   State       `json:"state"`
	Error   string      `json:"error,omitempty"`
	Step    int         `json:"step"`
	Steps   int         `json:"steps,omitempty"`
	Metrics sft.Metrics `json:"metrics,omitempty"` // the last line of the log
}

// files of a job's folder, beside the trainer's.
const (
	requestFile = "request.json"
	stateFile   = "job.json" // a status
)

// job is one training run with its adapter.
type job struct {
	id      int
	dir     string
	request jobRequest
	config  sft.SFTConfig
	events  events

	mu     sync.Mutex
	now    status
	cancel context.CancelFunc // while it runs
	tuned  *peft.PeftModel    // nil until it has run or answered
	using  sync.RWMutex       // held for writing while tuned is made or freed
}

// newJob checks a request and keeps it on disk.
func (s *service) newJob(r jobRequest) (*job, error) {
	config, err := checkRequest(r)
	if err != nil {
		return nil, badRequest("%w", err)
	}
	id, dir, err := s.nextFolder()
	if err != nil {
		return nil, err
	}
	j := &job{id: id, dir: dir, request: r, config: config, now: status{ID: id, State: waiting}}
	if err := errors.Join(writeFile(filepath.Join(dir, requestFile), r), j.keep()); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[id] = j
	return j, nil
}

// findJob reads a job of an earlier service. One that was running then has been interrupted.
func (s *service) findJob(id int) (*job, error) {
	j := &job{id: id, dir: filepath.Join(s.dir, fmt.Sprint(id))}
	err := errors.Join(readFile(filepath.Join(j.dir, requestFile), &j.request), readFile(filepath.Join(j.dir, stateFile), &j.now))
	if err != nil {
		return nil, err
	}
	if j.config, err = checkRequest(j.request); err != nil {
		return nil, fmt.Errorf("job %d: %w", id, err)
	}
	if !j.now.State.over() {
		j.now.State, j.now.Error = cancelled, "the service ended"
	}
	return j, nil
}

// checkRequest reads the settings and refuses those that concern the service.
func checkRequest(r jobRequest) (sft.SFTConfig, error) {
	c, err := sft.ParseSFTConfig(r.SFT)
	if err != nil {
		return c, err
	}
	if c.OutputDir != "" || c.ResumeFromCheckpoint != "" {
		return c, errors.New("sft: output_dir and resume_from_checkpoint are the service's to set")
	}
	if len(r.Rows) == 0 {
		return c, errors.New("the job has no rows")
	}
	if len(r.EvalRows) > 0 {
		c.EvalDataset = sft.FromRows(r.EvalRows)
	}
	return c, c.Validate()
}

// start lets a job run, for the first time or again.
func (s *service) start(j *job, again bool) error {
	ctx, cancel := context.WithCancel(s.ctx)
	j.mu.Lock()
	defer j.mu.Unlock()
	if again && j.now.State != cancelled && j.now.State != failed {
		cancel()
		return conflict("job %d is %s; only a cancelled or failed job can be resumed", j.id, j.now.State)
	}
	j.cancel = cancel
	j.now.State, j.now.Error = waiting, ""
	j.events.add("state", j.now)
	s.jobs.Go(func() {
		defer cancel()
		j.end(s.work(ctx, j))
	})
	return j.keep()
}

// work waits for the job's turn and trains.
func (s *service) work(ctx context.Context, j *job) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	j.update(func(now *status) { now.State = running })
	j.using.Lock() // nobody generates with the adapter while it changes
	defer j.using.Unlock()
	if err := j.dropAdapter(); err != nil { // a failed run may have left anything in it
		return err
	}
	tuned, err := j.adapter(s)
	if err != nil {
		return err
	}
	c := j.config
	c.OutputDir, c.RunName, c.ResumeFromCheckpoint = filepath.Join(j.dir, "training"), fmt.Sprint("job-", j.id), sft.AutoCheckpoint
	c.Logger, c.DisableTQDM = s.log.With("job", j.id), true
	c.Callbacks = []sft.Callback{s.monitor.Callback(), {
		OnStepEnd: func(e *sft.Event) error {
			j.set(func(now *status) { now.Step, now.Steps = e.State.GlobalStep, e.State.MaxSteps })
			return nil
		},
		OnLog: func(e *sft.Event) error {
			j.set(func(now *status) { now.Metrics = e.Metrics })
			j.events.add("log", e.Metrics)
			return nil
		},
	}}
	trainer, err := sft.NewSFTTrainer(tuned, s.tok, sft.FromRows(j.request.Rows), c)
	if err != nil {
		return err
	}
	if _, err := trainer.Train(ctx); err != nil {
		return err
	}
	return tuned.SavePretrained(j.adapterDir())
}

func (j *job) adapterDir() string { return filepath.Join(j.dir, "adapter") }

// adapter is the job's adapter: the trained one where there is one, else a new one. j.using is held for writing.
func (j *job) adapter(s *service) (*peft.PeftModel, error) {
	if j.tuned != nil {
		return j.tuned, nil
	}
	var err error
	if _, missing := os.Stat(j.adapterDir()); missing == nil {
		j.tuned, err = peft.FromPretrained(s.model, j.adapterDir())
		return j.tuned, err
	}
	r := j.request.LoRA
	if r.R == 0 {
		r.R = 8
	}
	if r.Alpha == 0 {
		r.Alpha = 2 * float64(r.R)
	}
	j.tuned, err = peft.GetPeftModel(s.model, peft.LoraConfig{
		R: r.R, LoraAlpha: r.Alpha, LoraDropout: r.Dropout, TargetModules: peft.AllLinear, TaskType: "CAUSAL_LM", BaseModelNameOrPath: s.path,
	})
	if err != nil {
		return nil, badRequest("lora: %w", err)
	}
	return j.tuned, nil
}

// chat answers with the trained adapter. A job that has not been trained to its end has none.
func (j *job) chat(ctx context.Context, s *service, messages []tokenizer.Message, c models.GenerationConfig) (string, error) {
	if state := j.status().State; state != done {
		return "", conflict("job %d is %s; its model answers when it is done", j.id, state)
	}
	j.using.Lock()
	tuned, err := j.adapter(s)
	j.using.Unlock()
	if err != nil {
		return "", err
	}
	j.using.RLock()
	defer j.using.RUnlock()
	return models.Chat(ctx, tuned, s.tok, messages, tokenizer.ChatOptions{AddGenerationPrompt: true}, c)
}

// stop cancels the job if it is waiting or running.
func (j *job) stop() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.now.State.over() {
		return false
	}
	j.cancel()
	return true
}

// end notes how the job ended.
func (j *job) end(err error) {
	j.update(func(now *status) {
		switch {
		case err == nil:
			now.State = done
		case errors.Is(err, context.Canceled):
			now.State = cancelled
		default:
			now.State, now.Error = failed, err.Error()
		}
	})
}

func (j *job) status() status {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.now
}

// set changes the status; update also tells the clients and the disk.
func (j *job) set(change func(*status)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	change(&j.now)
}

func (j *job) update(change func(*status)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	change(&j.now)
	if err := j.keep(); err != nil && j.now.State != failed {
		j.now.State, j.now.Error = failed, err.Error()
	}
	j.events.add("state", j.now)
}

// keep writes the status to the disk.
func (j *job) keep() error { return writeFile(filepath.Join(j.dir, stateFile), j.now) }

func (j *job) free() error {
	j.using.Lock()
	defer j.using.Unlock()
	return j.dropAdapter()
}

func (j *job) dropAdapter() error {
	if j.tuned == nil {
		return nil
	}
	err := j.tuned.Close()
	j.tuned = nil
	return err
}

// writeFile writes JSON whole or not at all.
func writeFile(path string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", text, 0o666); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func readFile(path string, v any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
