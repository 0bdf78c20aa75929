package sft

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Monitor shows runs to Prometheus: it serves the last value of every metric of every run that has its Callback, in the
// text exposition format. The zero value is ready for use. It may serve while runs go on.
//
//	loris_sft_loss{run="faq"} 1.25
//
// Beside the log's metrics there are steps, max_steps, checkpoints, memory_bytes, and running, which is 1 until the run has
// ended or failed.
type Monitor struct {
	mu   sync.Mutex
	runs map[string]map[string]float64 // by run, then metric
}

// Callback makes a run visible under SFTConfig.RunName, which should differ from run to run.
func (m *Monitor) Callback() Callback {
	name := ""
	set := func(e *Event, values map[string]float64) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.runs == nil {
			m.runs = map[string]map[string]float64{}
		}
		name = e.Config.RunName
		if m.runs[name] == nil {
			m.runs[name] = map[string]float64{}
		}
		maps.Copy(m.runs[name], values)
		m.runs[name]["steps"], m.runs[name]["max_steps"] = float64(e.State.GlobalStep), float64(e.State.MaxSteps)
	}
	return Callback{
		OnTrainBegin: func(e *Event) error {
			set(e, map[string]float64{"running": 1, "checkpoints": 0})
			return nil
		},
		OnStepEnd: func(e *Event) error {
			set(e, nil)
			return nil
		},
		OnLog: func(e *Event) error {
			values := map[string]float64{}
			for _, v := range e.Metrics {
				if v.Name != "step" {
					values[v.Name] = v.Value
				}
			}
			if e.MemoryInUse > 0 {
				values["memory_bytes"] = float64(e.MemoryInUse)
			}
			set(e, values)
			return nil
		},
		OnSave: func(e *Event) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.runs[name]["checkpoints"]++
			return nil
		},
		close: func() error {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.runs[name] != nil {
				m.runs[name]["running"] = 0
			}
			return nil
		},
	}
}

// Forget no longer shows a run.
func (m *Monitor) Forget(run string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.runs, run)
}

// ServeHTTP writes the metrics.
func (m *Monitor) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	text := m.text()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(text) // the client may have gone
}

func (m *Monitor) text() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := map[string]bool{}
	for _, run := range m.runs {
		for name := range run {
			names[name] = true
		}
	}
	var out bytes.Buffer
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(&out, "# TYPE loris_sft_%s gauge\n", name)
		for _, run := range slices.Sorted(maps.Keys(m.runs)) {
			if v, ok := m.runs[run][name]; ok {
				fmt.Fprintf(&out, "loris_sft_%s{run=\"%s\"} %s\n", name, escape.Replace(run), strconv.FormatFloat(v, 'g', -1, 64))
			}
		}
	}
	return out.Bytes()
}
