package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// serving is a service that runs for a test.
type serving struct {
	t    *testing.T
	url  string
	stop func() // as SIGTERM does
}

func serve(t *testing.T, dir string) *serving {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	address, ended := make(chan string, 1), make(chan error, 1)
	var log syncedBuffer
	go func() {
		ended <- run(ctx, []string{"-listen", "localhost:0", "-data-dir", dir, "-jobs", "2"}, &log, func(a string) { address <- a })
	}()
	s := &serving{t: t}
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%v\n%s", err, log.String())
		}
	})
	t.Cleanup(s.stop)
	select {
	case a := <-address:
		s.url = "http://" + a
	case err := <-ended:
		t.Fatalf("%v\n%s", err, log.String())
	}
	return s
}

// syncedBuffer is written by the service's goroutines.
type syncedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// call sends a request and decodes the answer; it requires a status.
func (s *serving) call(method, path, body string, want int) (answer map[string]any) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if response.StatusCode != want {
		s.t.Fatalf("%s %s: status %d, want %d: %s", method, path, response.StatusCode, want, text)
	}
	_ = json.Unmarshal(text, &answer) // lists and metrics are no objects
	return answer
}

// follow reads a job's events until one makes until true, or they end.
func (s *serving) follow(path string, until func(name string, data map[string]any) bool) (names []string) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	if kind := response.Header.Get("Content-Type"); kind != "text/event-stream" {
		s.t.Fatalf("content type %q", kind)
	}
	lines, name := bufio.NewScanner(response.Body), ""
	for lines.Scan() {
		line := lines.Text()
		if n, ok := strings.CutPrefix(line, "event: "); ok {
			name = n
			names = append(names, n)
		}
		if text, ok := strings.CutPrefix(line, "data: "); ok {
			var data map[string]any
			if err := json.Unmarshal([]byte(text), &data); err != nil {
				s.t.Fatalf("%q: %v", text, err)
			}
			if until(name, data) {
				return names
			}
		}
	}
	return names
}

func never(string, map[string]any) bool { return false }

func requestBody(t *testing.T, steps int) string {
	t.Helper()
	var rows []any
	for i := range 8 {
		rows = append(rows, map[string]any{"messages": []any{
			map[string]string{"role": "user", "content": fmt.Sprint("What is the number of ", i, "?")},
			map[string]string{"role": "assistant", "content": "It is nine."},
		}})
	}
	text, err := json.Marshal(map[string]any{"rows": rows, "eval_rows": rows[:2], "lora": map[string]any{"r": 4}, "sft": map[string]any{
		"max_steps": steps, "learning_rate": 0.01, "per_device_train_batch_size": 4, "max_length": 64, "logging_steps": 1, "assistant_only_loss": true,
		"eval_strategy": "steps", "eval_steps": 10, "save_steps": 10, "lr_scheduler_type": "constant",
	}})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestJobsAreTrainedCancelledResumedAndServed(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	dir := t.TempDir()
	s := serve(t, dir)
	if j := s.call("POST", "/jobs", requestBody(t, 30), http.StatusAccepted); j["id"] != 1.0 {
		t.Fatalf("job %v", j)
	}
	s.follow("/jobs/1/events", func(name string, data map[string]any) bool { return name == "log" && data["step"] == 3.0 })
	s.call("POST", "/jobs/1/chat", `{"messages": [{"role": "user", "content": "Hi"}]}`, http.StatusConflict)
	s.call("POST", "/jobs/1/resume", "", http.StatusConflict)
	s.call("POST", "/jobs/1/cancel", "", http.StatusAccepted)
	names := s.follow("/jobs/1/events", never) // ends when the job has
	if names[0] != "state" || names[len(names)-1] != "state" {
		t.Errorf("events %v", names)
	}
	j := s.call("GET", "/jobs/1", "", http.StatusOK)
	if step := j["step"].(float64); j["state"] != "cancelled" || step < 3 || step >= 30 {
		t.Fatalf("cancelled: %v", j)
	}
	s.call("POST", "/jobs/1/cancel", "", http.StatusConflict)

	// Another service finds the job and goes on with it; it is stopped, as by SIGTERM, in the middle.
	s.stop()
	s = serve(t, dir)
	s.call("POST", "/jobs/1/resume", "", http.StatusAccepted)
	s.follow("/jobs/1/events", func(name string, data map[string]any) bool { return name == "log" })
	s.stop()
	s = serve(t, dir)
	if j := s.call("GET", "/jobs/1", "", http.StatusOK); j["state"] != "cancelled" {
		t.Fatalf("after the service's end: %v", j)
	}
	s.call("POST", "/jobs/1/resume", "", http.StatusAccepted)
	s.follow("/jobs/1/events", never)
	j = s.call("GET", "/jobs/1", "", http.StatusOK)
	if j["state"] != "done" || j["step"] != 30.0 {
		t.Fatalf("done: %v", j)
	}
	answer := s.call("POST", "/jobs/1/chat", `{"messages": [{"role": "user", "content": "What is the number of 3?"}], "max_new_tokens": 12}`, http.StatusOK)
	if text, _ := answer["content"].(string); !strings.Contains(text, "nine") {
		t.Errorf("the tuned model answers %v", answer)
	}
	// A third service serves the model from the disk.
	s.stop()
	s = serve(t, dir)
	if again := s.call("POST", "/jobs/1/chat", `{"messages": [{"role": "user", "content": "What is the number of 3?"}], "max_new_tokens": 12}`, http.StatusOK); again["content"] != answer["content"] {
		t.Errorf("from the disk it answers %v, before %v", again, answer)
	}
}

func TestSeveralJobsTrainAtOnceAndAreMeasured(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	s := serve(t, t.TempDir())
	for range 3 { // two at once, the third waits
		s.call("POST", "/jobs", requestBody(t, 2), http.StatusAccepted)
	}
	for id := range 3 {
		s.follow(fmt.Sprintf("/jobs/%d/events", id+1), never)
		if j := s.call("GET", fmt.Sprint("/jobs/", id+1), "", http.StatusOK); j["state"] != "done" {
			t.Errorf("%v", j)
		}
	}
	response, err := http.Get(s.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for id := range 3 {
		if want := fmt.Sprintf(`loris_sft_steps{run="job-%d"} 2`, id+1); !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

func TestFaultyJobsAreRefusedWithTheReason(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	s := serve(t, t.TempDir())
	for _, c := range []struct {
		body, says string
	}{
		{`{`, "the job"},
		{`{"rows": [{"text": "a"}], "colour": 1}`, "colour"},
		{`{"rows": []}`, "no rows"},
		{`{"rows": [{"text": "a"}], "sft": {"learnin_rate": 1}}`, `nearest is \"learning_rate\"`},
		{`{"rows": [{"text": "a"}], "sft": {"optim": "magic"}}`, "SFTConfig.Optim"},
		{`{"rows": [{"text": "a"}], "sft": {"output_dir": "/etc"}}`, "output_dir"},
	} {
		answer := s.call("POST", "/jobs", c.body, http.StatusBadRequest)
		if text, _ := json.Marshal(answer["error"]); !strings.Contains(string(text), c.says) {
			t.Errorf("%s: %s does not say %q", c.body, text, c.says)
		}
	}
	s.call("GET", "/jobs/7", "", http.StatusNotFound)
	s.call("POST", "/jobs", `{"rows": [{"other": "a"}]}`, http.StatusAccepted) // the rows are looked at when it runs
	s.follow("/jobs/1/events", never)
	if j := s.call("GET", "/jobs/1", "", http.StatusOK); j["state"] != "failed" || !strings.Contains(fmt.Sprint(j["error"]), "other") {
		t.Errorf("%v", j)
	}
}
