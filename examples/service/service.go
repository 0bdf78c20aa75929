package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/loris-ml/loris/models"
	"github.com/loris-ml/loris/sft"
	"github.com/loris-ml/loris/tokenizer"
)

// service owns the base model and the jobs.
type service struct {
	ctx     context.Context // done when the service ends
	model   *models.CausalLM
	tok     *tokenizer.Tokenizer
	path    string // of the base model
	dir     string
	log     *slog.Logger
	monitor sft.Monitor
	turn    chan struct{}  // holds a token per job that trains
	jobs    sync.WaitGroup // running and waiting ones

	mu   sync.Mutex
	byID map[int]*job
}

// newService finds the jobs of earlier services in the folder.
func newService(ctx context.Context, model *models.CausalLM, tok *tokenizer.Tokenizer, o options, log *slog.Logger) (*service, error) {
	s := &service{ctx: ctx, model: model, tok: tok, path: o.model, dir: o.dir, log: log, turn: make(chan struct{}, o.atOnce), byID: map[int]*job{}}
	if err := os.MkdirAll(o.dir, 0o777); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(o.dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		j, err := s.findJob(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the service ended before the job was written
		}
		if err != nil {
			return nil, err
		}
		s.byID[id] = j
	}
	return s, nil
}

// close frees the jobs' adapters; none is running any more.
func (s *service) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, j := range s.byID {
		errs = append(errs, j.free())
	}
	return errors.Join(errs...)
}

func (s *service) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /jobs", s.create)
	mux.HandleFunc("GET /jobs", s.list)
	mux.HandleFunc("GET /jobs/{id}", s.with(func(w http.ResponseWriter, r *http.Request, j *job) error {
		return writeJSON(w, http.StatusOK, j.status())
	}))
	mux.HandleFunc("GET /jobs/{id}/events", s.with(streamEvents))
	mux.HandleFunc("POST /jobs/{id}/cancel", s.with(s.cancel))
	mux.HandleFunc("POST /jobs/{id}/resume", s.with(s.resume))
	mux.HandleFunc("POST /jobs/{id}/chat", s.with(s.chat))
	mux.Handle("GET /metrics", &s.monitor)
	return mux
}

// httpError is an error with a status for the client.
type httpError struct {
	status int
	err    error
}

func (e *httpError) Error() string { return e.err.Error() }
func (e *httpError) Unwrap() error { return e.err }

func badRequest(format string, args ...any) error {
	return &httpError{http.StatusBadRequest, fmt.Errorf(format, args...)}
}

func conflict(format string, args ...any) error {
	return &httpError{http.StatusConflict, fmt.Errorf(format, args...)}
}

// fail answers with an error as {"error": "…"}.
func (s *service) fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	if e := (*httpError)(nil); errors.As(err, &e) {
		status = e.status
	} else {
		s.log.Error("request failed", "error", err)
	}
	_ = writeJSON(w, status, map[string]string{"error": err.Error()}) // the client may have gone
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(v)
}

// with finds the job that a request names.
func (s *service) with(handle func(http.ResponseWriter, *http.Request, *job) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, err := strconv.Atoi(r.PathValue("id"))
		s.mu.Lock()
		j := s.byID[id]
		s.mu.Unlock()
		if err != nil || j == nil {
			s.fail(w, &httpError{http.StatusNotFound, fmt.Errorf("there is no job %q", r.PathValue("id"))})
			return
		}
		if err := handle(w, r, j); err != nil {
			s.fail(w, err)
		}
	}
}

// maxBody is how large a request may be: rows travel in it.
const maxBody = 1 << 30

// create accepts a job and starts it.
func (s *service) create(w http.ResponseWriter, r *http.Request) {
	var request jobRequest
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(&request); err != nil {
		s.fail(w, badRequest("the job: %w", err))
		return
	}
	j, err := s.newJob(request)
	if err == nil {
		err = s.start(j, false)
	}
	if err != nil {
		s.fail(w, err)
		return
	}
	w.Header().Set("Location", fmt.Sprintf("/jobs/%d", j.id))
	_ = writeJSON(w, http.StatusAccepted, j.status())
}

func (s *service) list(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	all := []status{}
	for _, j := range s.byID {
		all = append(all, j.status())
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b status) int { return cmp.Compare(a.ID, b.ID) })
	_ = writeJSON(w, http.StatusOK, all)
}

// cancel asks a job to save a checkpoint and end.
func (s *service) cancel(w http.ResponseWriter, _ *http.Request, j *job) error {
	if !j.stop() {
		return conflict("job %d is %s; only a running job can be cancelled", j.id, j.status().State)
	}
	return writeJSON(w, http.StatusAccepted, j.status())
}

// resume lets a job that has been cancelled or has failed go on from its last checkpoint.
func (s *service) resume(w http.ResponseWriter, _ *http.Request, j *job) error {
	if err := s.start(j, true); err != nil {
		return err
	}
	return writeJSON(w, http.StatusAccepted, j.status())
}

// chat answers with a job's tuned model.
func (s *service) chat(w http.ResponseWriter, r *http.Request, j *job) error {
	var request struct {
		Messages     []tokenizer.Message `json:"messages"`
		MaxNewTokens int                 `json:"max_new_tokens"`
		Temperature  float64             `json:"temperature"`
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(&request); err != nil {
		return badRequest("the request: %w", err)
	}
	if len(request.Messages) == 0 {
		return badRequest("the request has no messages")
	}
	generation := models.GenerationConfig{MaxNewTokens: cmp.Or(request.MaxNewTokens, 128), DoSample: request.Temperature > 0, Temperature: request.Temperature}
	text, err := j.chat(r.Context(), s, request.Messages, generation)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, tokenizer.Message{"role": "assistant", "content": text})
}

// nextFolder makes the folder of a new job.
func (s *service) nextFolder() (id int, dir string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id = len(s.byID) + 1; ; id++ {
		dir = filepath.Join(s.dir, strconv.Itoa(id))
		if err = os.Mkdir(dir, 0o777); !errors.Is(err, fs.ErrExist) {
			return id, dir, err
		}
	}
}
