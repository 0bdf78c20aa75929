//go:build cgo

package layerwise_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

func watch(t *testing.T, p *seam.Plugin) *seam.Watch {
	t.Helper()
	w, err := p.Watch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("left behind: %v", err)
		}
	})
	return w
}

// course is a training run whose every step is known.
type course struct {
	t       *testing.T
	s       training.Session
	batches []*training.Batch // of each step
	start   string            // folder with the state at the beginning
	losses  [][]float64       // by step and micro-step
	norms   []float64         // by step
	states  [][]byte          // before each step and after the last
}

// step runs optimizer step i, and checks its numbers where they are known.
func (c *course) step(i int) error {
	ctx, labels := context.Background(), 0
	var losses []float64
	for _, b := range c.batches {
		st, err := c.s.MicroStep(ctx, b)
		if err != nil {
			return err
		}
		losses, labels = append(losses, st.LossSum), labels+st.Labels
	}
	if err := c.s.(training.Prefetcher).Prefetch(c.batches[0]); err != nil {
		return err
	}
	norm, err := c.s.Apply(ctx, training.ApplyOptions{LearningRate: 1e-2 / float64(i+1), NumItems: float64(labels), MaxGradNorm: 0.5})
	if err != nil {
		return err
	}
	if i == len(c.norms) {
		c.losses, c.norms = append(c.losses, losses), append(c.norms, norm)
	}
	if fmt.Sprint(losses, norm) != fmt.Sprint(c.losses[i], c.norms[i]) {
		c.t.Errorf("step %d: losses %v and gradient norm %v, undisturbed %v and %v", i, losses, norm, c.losses[i], c.norms[i])
	}
	return nil
}

// state is what SaveState writes: trainable values, moments, and the number of steps.
func (c *course) state() []byte {
	c.t.Helper()
	dir := c.t.TempDir()
	if err := c.s.SaveState(dir); err != nil {
		c.t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "optimizer.safetensors"))
	if err != nil {
		c.t.Fatal(err)
	}
	return data
}

// steps says after how many steps the state was what it is now.
func (c *course) steps() int {
	c.t.Helper()
	now := c.state()
	for i, s := range c.states {
		if bytes.Equal(s, now) {
			return i
		}
	}
	c.t.Fatal("the state is that of no step")
	return 0
}

func (c *course) restart() {
	c.t.Helper()
	if err := c.s.LoadState(c.start); err != nil {
		c.t.Fatal(err)
	}
}

// newCourse runs n undisturbed steps.
func newCourse(t *testing.T, s training.Session, n int) *course {
	c := &course{t: t, s: s, start: t.TempDir(), batches: []*training.Batch{packed(11, documents(1, 11), documents(2, 7)), packed(9, documents(3, 4, 5))}}
	if err := s.SaveState(c.start); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		c.states = append(c.states, c.state())
		if err := c.step(i); err != nil {
			t.Fatal(err)
		}
	}
	c.states = append(c.states, c.state())
	return c
}

// TestFailuresOfTheDeviceLoseNoStep lets each program of a step fail, early and late, one after the other.
func TestFailuresOfTheDeviceLoseNoStep(t *testing.T) {
	programs := []string{"block_forward", "head_loss", "block_backward", "accumulate", "squares", "norm", "adamw", seam.Upload}
	cases := []struct { // spared: executions of the program before the one that fails
		depth, spared int
		kinds         []string
	}{
		{16, 0, []string{"late", "at once", "late, out of memory", "at once, out of memory"}},
		{16, 1, []string{"late", "at once"}},
		{16, 2, []string{"late"}},
		{16, 5, []string{"at once"}}, // of the forward pass, in what is launched ahead
		{2, 0, []string{"late", "at once"}},
		{2, 2, []string{"late"}},
		{0, 0, []string{"late", "at once"}},
	}
	if testing.Short() {
		cases = cases[:1]
	}
	reference.OnXLA(t, 16, func(t *testing.T, backend string, p *seam.Plugin) {
		w := watch(t, p)
		for name, s := range trainees(t, backend) {
			programs := programs
			if name == "whole model" {
				programs = append([]string{"loris_embed", "embed_backward"}, programs...)
			}
			cases := cases
			if name != "adapters" && strings.HasPrefix(backend, "xla:cpu") { // the rest differs by how far a GPU is behind
				cases = cases[:min(2, len(cases))]
			}
			c := newCourse(t, s, 5) // where one program updates all, the third update is that of step 3, which step 4 tells
			for _, k := range cases {
				for _, program := range programs {
					for _, kind := range k.kinds {
						t.Run(fmt.Sprintf("%s, depth %d/%s %d %s", name, k.depth, program, k.spared, kind), func(t *testing.T) {
							reference.AtDepth(t, p, k.depth)
							c.t = t
							c.disturb(w, seam.Fault{Program: program, After: k.spared, Late: strings.HasPrefix(kind, "late"),
								OutOfMemory: strings.HasSuffix(kind, "memory"), Text: fmt.Sprintf("the device says %d", k.spared)})
						})
					}
				}
			}
		}
	})
}

// disturb runs the course with a fault in its second step.
func (c *course) disturb(w *seam.Watch, f seam.Fault) {
	t := c.t
	c.restart()
	if err := c.step(0); err != nil {
		t.Fatal(err)
	}
	c.state() // frees what the step left, as at the end
	fired, failures, live := w.Fired(), 0, lives(w, 0)
	w.Fail(f)
	struck := 0 // the first step after the fault
	for i := 1; i < len(c.norms); {
		err := c.step(i)
		if struck == 0 && w.Fired() > fired {
			struck = i + 1
		}
		if err == nil {
			if failures == 0 && struck > 0 && i >= struck {
				t.Fatalf("what failed in step %d was not told by the end of step %d", struck-1, i)
			}
			i++
			continue
		}
		failures++
		if !strings.Contains(err.Error(), f.Text) || failures > 1 {
			t.Fatalf("step %d, error %d: %v", i, failures, err)
		}
		for _, advice := range []string{"batch", "ResidualBudget"} {
			if f.OutOfMemory && !strings.Contains(err.Error(), advice) {
				t.Errorf("the error does not speak of %s: %v", advice, err)
			}
		}
		at := c.steps()
		if at != i && at != i-1 {
			t.Fatalf("step %d failed, the state is that after %d steps", i, at)
		}
		i = at
	}
	if c.steps() != len(c.norms) {
		t.Errorf("after %d steps the state is that after %d", len(c.norms), c.steps())
	}
	if w.Fired() == fired {
		t.Skip("no such program was run")
	}
	if failures == 0 {
		t.Error("the failure was not told")
	}
	if n := lives(w, live); n != live {
		t.Errorf("%d buffers live after the steps, %d before", n, live)
	}
}

// lives is the number of live buffers, when the garbage collector has taken what was donated to programs that did not run:
// at most want, if it comes to that.
func lives(w *seam.Watch, want int) int {
	for range 6 {
		runtime.GC()
		if w.LiveBuffers() <= want {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return w.LiveBuffers()
}

// TestWhatFailedInTheLastUpdateIsTold ends training after a step whose update failed on the device.
func TestWhatFailedInTheLastUpdateIsTold(t *testing.T) {
	reference.OnXLA(t, 16, func(t *testing.T, backend string, p *seam.Plugin) {
		w := watch(t, p)
		m, a := trainee(t, models.Options{Backend: backend, DType: models.Float32}, 0)
		c := newCourse(t, session(t, m, a, settings), 2)
		spoil := func(t *testing.T) {
			t.Helper()
			c.t = t
			c.restart()
			if err := c.step(0); err != nil {
				t.Fatal(err)
			}
			w.Fail(seam.Fault{Program: "adamw", Late: true, Text: "the device is ill"})
			if err := c.step(1); err != nil {
				t.Fatal(err)
			}
		}
		told := func(t *testing.T, err error) {
			t.Helper()
			if err == nil || !strings.Contains(err.Error(), "the device is ill") || !strings.Contains(err.Error(), "step 2") {
				t.Fatalf("got error %v", err)
			}
		}
		goesOn := func(t *testing.T) {
			t.Helper()
			if at := c.steps(); at != 1 {
				t.Fatalf("the state is that after %d steps", at)
			}
			if err := c.step(1); err != nil {
				t.Fatal(err)
			}
			if at := c.steps(); at != 2 {
				t.Fatalf("the state is that after %d steps", at)
			}
		}
		t.Run("by SaveState", func(t *testing.T) {
			spoil(t)
			dir := t.TempDir()
			told(t, c.s.SaveState(dir))
			if files, _ := os.ReadDir(dir); len(files) > 0 {
				t.Errorf("left over: %v", files)
			}
			goesOn(t)
		})
		t.Run("by Evaluate", func(t *testing.T) {
			spoil(t)
			_, err := c.s.Evaluate(t.Context(), c.batches[0])
			told(t, err)
			goesOn(t)
		})
		t.Run("by a canceled micro-step, which then is no mere cancellation", func(t *testing.T) {
			spoil(t)
			_, err := c.s.MicroStep(&canceledAfter{Context: t.Context(), asked: 2}, c.batches[0])
			told(t, err)
			if errors.Is(err, context.Canceled) {
				t.Errorf("a caller takes this for a cancellation: %v", err)
			}
			goesOn(t)
		})
		t.Run("by Close", func(t *testing.T) {
			spoil(t)
			told(t, c.s.Close())
			if err := p.Sync(); err != nil {
				t.Errorf("it is told twice: %v", err)
			}
		})
	})
}

// Values tell nothing of moments that were lost on their way to the host's memory behind an update.
func TestMomentsLostOnTheWayTakeTheirStepBack(t *testing.T) {
	reference.OnXLA(t, 16, func(t *testing.T, backend string, p *seam.Plugin) {
		w := watch(t, p)
		for _, optim := range []string{"paged_adamw_32bit", "paged_adamw_8bit"} {
			t.Run(optim, func(t *testing.T) {
				m, a := trainee(t, models.Options{Backend: backend, DType: models.Float32}, 0)
				o := settings
				o.Optim = optim
				s := session(t, m, a, o)
				if err := layerwise.PageMoments(s); err != nil {
					t.Fatal(err)
				}
				c := newCourse(t, s, 3)
				c.restart()
				if err := c.step(0); err != nil {
					t.Fatal(err)
				}
				w.Fail(seam.Fault{Program: "moved", Late: true, Text: "the device is ill"})
				if err := layerwise.MoveMoments(s); err != nil {
					t.Fatal(err)
				}
				err := c.step(1)
				if err == nil || !strings.Contains(err.Error(), "the device is ill") {
					t.Fatalf("got error %v", err)
				}
				for i := c.steps(); i < 3; i++ {
					if err := c.step(i); err != nil {
						t.Fatal(err)
					}
				}
				if at := c.steps(); at != 3 {
					t.Errorf("the state is that after %d steps", at)
				}
			})
		}
	})
}

// canceledAfter is canceled when it has been asked so many times.
type canceledAfter struct {
	context.Context
	asked int
}

func (c *canceledAfter) Err() error {
	if c.asked--; c.asked < 0 {
		return context.Canceled
	}
	return nil
}

// TestCanceledStepsLeaveNothing cancels at every point of a step.
func TestCanceledStepsLeaveNothing(t *testing.T) {
	reference.OnXLA(t, 16, func(t *testing.T, backend string, p *seam.Plugin) {
		w := watch(t, p)
		m, a := trainee(t, models.Options{Backend: backend, DType: models.Float32}, 0.2)
		c := newCourse(t, session(t, m, a, settings), 3)
		c.restart()
		if err := c.step(0); err != nil {
			t.Fatal(err)
		}
		c.restart() // frees what the step left, and the batch that is ahead
		live, canceled := w.LiveBuffers(), 0
		for at := 0; ; at++ {
			ctx := &canceledAfter{Context: t.Context(), asked: at}
			_, err := c.s.MicroStep(ctx, c.batches[0])
			if err == nil {
				break
			}
			canceled++
			if !errors.Is(err, context.Canceled) || p.Pending() != 0 && at > 0 || w.LiveBuffers() != live {
				t.Fatalf("canceled when asked %d times: %v; %d executions pending, %d buffers live, %d before", at, err, p.Pending(), w.LiveBuffers(), live)
			}
		}
		if canceled < 3 {
			t.Errorf("a step asks its context %d times", canceled)
		}
		c.restart()
		for i := range 3 {
			if err := c.step(i); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Where memory is too short for launching ahead, the step does without.
func TestNothingIsLaunchedAheadWhereMemoryIsShort(t *testing.T) {
	reference.OnXLA(t, 16, func(t *testing.T, spec string, p *seam.Plugin) {
		w := watch(t, p)
		m, a := trainee(t, models.Options{Backend: spec, DType: models.Float32}, 0)
		s := session(t, m, a, settings)
		layerwise.Lead(s, 1)
		b := packed(12, documents(1, 12))
		for i := range 4 {
			st, err := s.MicroStep(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.(training.Prefetcher).Prefetch(b); err != nil {
				t.Fatal(err)
			}
			if i == 2 {
				w.Fail(seam.Fault{Program: "block_forward", OutOfMemory: true, Text: "memory is short"})
			}
			if _, err := s.Apply(t.Context(), training.ApplyOptions{LearningRate: 1e-2, NumItems: float64(st.Labels)}); err != nil {
				t.Fatal(err)
			}
			if got, want := layerwise.Led(s) > 0, i == 1; i > 0 && got != want {
				t.Errorf("step %d: launched ahead %v", i, got)
			}
		}
		if w.Fired() == 0 {
			t.Error("nothing failed")
		}
	})
}

func TestLayersBelowTheFirstAdapterRunNoBackwardProgram(t *testing.T) {
	reference.OnXLA(t, 4, func(t *testing.T, spec string, p *seam.Plugin) {
		w := watch(t, p)
		s := lastAdapted(t, spec, settings)
		w.Fail(seam.Fault{Program: "block_backward", After: 1, Text: "one too many"})
		if run(t, s, 1, packed(12, documents(1, 12))); w.Fired() > 0 {
			t.Error("more than one ran")
		}
		if _, ok, err := layerwise.ForecastAgain(s, packed(12, documents(1, 12)), func() int64 { return 0 }); !ok || err != nil {
			t.Errorf("forecast %v, error %v", ok, err)
		}
	})
}
