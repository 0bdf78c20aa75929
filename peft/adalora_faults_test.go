//go:build cgo

package peft

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

// rankCourse is a training run with AdaLoRA whose every step is known.
type rankCourse struct {
	t      *testing.T
	p      *PeftModel
	s      training.Session
	batch  *training.Batch
	start  string   // folder with the state at the beginning
	states []string // before each step and after the last
}

func newRankCourse(t *testing.T, backend, budget string) *rankCourse {
	t.Helper()
	c := readTuner(t, "adalora_ranks")
	read, _, err := ReadConfig(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg := read.(AdaLoraConfig)
	cfg.RankPattern, cfg.InferenceMode = nil, false
	p := c.fresh(t, c.load(t, backend, models.Options{}), cfg)
	s, err := p.NewSession(training.SessionOptions{AdamBeta1: 0.9, AdamBeta2: 0.999, AdamEpsilon: 1e-8, ResidualBudget: budget})
	if err != nil {
		t.Fatal(err)
	}
	course := &rankCourse{t: t, p: p, s: s, batch: c.batch(), start: t.TempDir()}
	if err := s.SaveState(course.start); err != nil {
		t.Fatal(err)
	}
	for range c.Schedule.Losses {
		course.states = append(course.states, course.state())
		if err := course.step(); err != nil {
			t.Fatal(err)
		}
	}
	course.states = append(course.states, course.state())
	return course
}

func (c *rankCourse) step() error {
	st, err := c.s.MicroStep(context.Background(), c.batch)
	if err != nil {
		return err
	}
	if err := c.s.(training.Prefetcher).Prefetch(c.batch); err != nil {
		return err
	}
	_, err = c.s.Apply(context.Background(), training.ApplyOptions{LearningRate: 0.02, NumItems: float64(st.Labels)})
	return err
}

// state is all that a checkpoint holds: the session's and the schedule's state, and the ranks of the adapter's config.
func (c *rankCourse) state() string {
	c.t.Helper()
	dir := c.t.TempDir()
	if err := c.s.SaveState(dir); err != nil {
		c.t.Fatal(err)
	}
	var all []string
	for _, name := range []string{"optimizer.safetensors", ranksFile} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			c.t.Fatal(err)
		}
		all = append(all, string(data))
	}
	return strings.Join(all, "\n") + fmt.Sprint(c.p.Config().(AdaLoraConfig).RankPattern)
}

// steps says after how many steps the state was what it is now.
func (c *rankCourse) steps() int {
	c.t.Helper()
	now := c.state()
	for i, s := range c.states {
		if s == now {
			return i
		}
	}
	c.t.Fatal("the state is that of no step")
	return 0
}

// disturb runs the course with a fault that is armed before a step.
func (c *rankCourse) disturb(w *seam.Watch, f seam.Fault, before int) {
	t := c.t
	if err := c.s.LoadState(c.start); err != nil {
		t.Fatal(err)
	}
	if err := c.step(); err != nil {
		t.Fatal(err)
	}
	c.state() // frees what the step left, as at the end
	fired, struck, failures, live := w.Fired(), -1, 0, w.LiveBuffers()
	for i := 1; i < len(c.states)-1; {
		if i == before && failures == 0 {
			w.Fail(f)
		}
		err := c.step()
		if struck < 0 && w.Fired() > fired {
			struck = i
		}
		switch {
		case err == nil && struck >= 0 && failures == 0 && i > struck:
			t.Fatalf("what failed in step %d was not told by the end of step %d", struck, i)
		case err == nil:
			i++
			continue
		}
		if failures++; failures > 1 || !strings.Contains(err.Error(), f.Text) {
			t.Fatalf("step %d, error %d: %v", i, failures, err)
		}
		at := c.steps()
		if at != i && at != i-1 {
			t.Fatalf("step %d failed, the state is that after %d steps", i, at)
		}
		i = at
	}
	if at := c.steps(); at != len(c.states)-1 {
		t.Errorf("after %d steps the state is that after %d", len(c.states)-1, at)
	}
	if failures == 0 {
		t.Error("the failure was not told")
	}
	for tries := 6; tries > 0 && w.LiveBuffers() > live; tries-- { // the garbage collector takes what was donated to programs that did not run
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	if n := w.LiveBuffers(); n != live {
		t.Errorf("%d buffers live after the steps, %d before", n, live)
	}
}

// What fails while ranks are scored or taken away fails the step that does it: values, schedule and ranks go back to where they
// belong together.
func TestFailuresOfTheDeviceKeepAdaLoRAsScheduleAndValuesTogether(t *testing.T) {
	reference.OnXLA(t, 16, func(t *testing.T, backend string, p *seam.Plugin) {
		w, err := p.Watch()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		for _, budget := range []string{"auto", "0"} {
			c := newRankCourse(t, backend, budget)
			for _, program := range []string{"mask_ranks", "rank_scores", "adamw", "norm"} {
				for _, kind := range []string{"late", "at once", "late, out of memory", "at once, out of memory"} {
					for _, before := range []int{2, 6, 7} { // which take ranks away; 7 is the last that decides
						t.Run(fmt.Sprintf("budget %s/%s %s before step %d", budget, program, kind, before), func(t *testing.T) {
							c.t = t
							c.disturb(w, seam.Fault{Program: program, Late: strings.HasPrefix(kind, "late"),
								OutOfMemory: strings.HasSuffix(kind, "memory"), Text: "the device is ill"}, before)
						})
					}
				}
			}
			if err := c.s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}
