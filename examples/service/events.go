package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
)

// event is one server-sent event: its number counts from 1.
type event struct {
	name string // "log" or "state"
	data []byte // JSON
	over bool   // nothing follows until the job is resumed
}

// events are those of a job since the service has started, for any number of readers.
type events struct {
	mu    sync.Mutex
	all   []event
	added chan struct{} // closed when the next one is added
}

func (e *events) add(name string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		data, _ = json.Marshal(map[string]string{"error": err.Error()})
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s, ok := v.(status)
	e.all = append(e.all, event{name, data, ok && s.State.over()})
	if e.added != nil {
		close(e.added)
		e.added = nil
	}
}

// after returns the events behind the first n, and what to wait for.
func (e *events) after(n int) ([]event, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.added == nil {
		e.added = make(chan struct{})
	}
	return e.all[min(n, len(e.all)):], e.added
}

// streamEvents sends a job's events, those behind Last-Event-ID, until the job has ended or the client has gone.
func streamEvents(w http.ResponseWriter, r *http.Request, j *job) error {
	seen := 0
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		n, err := strconv.Atoi(last)
		if err != nil || n < 0 {
			return badRequest("Last-Event-ID is %q, want a number", last)
		}
		seen = n
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	for {
		fresh, added := j.events.after(seen)
		for _, e := range fresh {
			seen++
			if _, err := fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", seen, e.name, e.data); err != nil {
				return nil // the client has gone
			}
		}
		if err := out.Flush(); err != nil {
			return nil
		}
		if more, _ := j.events.after(seen); len(more) > 0 {
			continue
		}
		if over := len(fresh) > 0 && fresh[len(fresh)-1].over || len(fresh) == 0 && j.status().State.over(); over {
			return nil
		}
		select {
		case <-added:
		case <-r.Context().Done():
			return nil
		}
	}
}
