//go:build cgo

package layerwise_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/loris-ml/loris/internal/layerwise"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/models"
)

// footprint is what a process holds.
type footprint struct {
	resident, heap, device int64 // bytes; device is -1 where the plugin does not tell
	buffers, goroutines    int
}

func measure(t *testing.T, s training.Session, w *seam.Watch) (f footprint) {
	t.Helper()
	c := layerwise.ClientOf(s)
	if err := c.Sync(); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.GC() // what the first one finalized
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	f.heap, f.goroutines, f.buffers, f.device = int64(m.HeapAlloc), runtime.NumGoroutine(), w.LiveBuffers(), -1
	if m, err := c.Memory(0); err == nil {
		f.device = m.InUse
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			f.resident = kib << 10
		}
	}
	return f
}

// TestThousandStepsHoldNothing trains with executions in flight, evaluating and failing now and then.
func TestThousandStepsHoldNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("trains 1,000 steps")
	}
	reference.OnXLA(t, 16, func(t *testing.T, backend string, p *seam.Plugin) {
		w := watch(t, p)
		m, a := trainee(t, models.Options{Backend: backend, DType: models.Float32}, 0.1)
		s := session(t, m, a, settings)
		train := func(steps int) {
			t.Helper()
			for i := range steps {
				b := packed(12, documents(uint64(i), 12), documents(uint64(i), 9))
				st, err := s.MicroStep(t.Context(), b)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Apply(t.Context(), training.ApplyOptions{LearningRate: 1e-3, NumItems: float64(st.Labels), MaxGradNorm: 1}); err != nil {
					t.Fatal(err)
				}
				switch i % 100 {
				case 30:
					if _, err := s.Evaluate(t.Context(), b); err != nil {
						t.Fatal(err)
					}
				case 60:
					w.Fail(seam.Fault{Program: "block_backward", Late: i%200 == 60, Text: "the device is ill"})
					if _, err := s.MicroStep(t.Context(), b); err == nil {
						_, err = s.Apply(t.Context(), training.ApplyOptions{LearningRate: 1e-3, NumItems: 1})
						if err == nil {
							t.Fatal("a failed step went unnoticed")
						}
					}
				case 90:
					if _, err := s.MicroStep(&canceledAfter{Context: t.Context(), asked: i % 7}, b); err == nil && i%7 < 3 {
						t.Fatal("a canceled step went on")
					}
				}
			}
		}
		train(400)
		before := measure(t, s, w)
		start := time.Now()
		train(1000)
		t.Logf("%v per step", time.Since(start)/1000)
		after := measure(t, s, w)
		t.Logf("before %+v, after %+v", before, after)
		const slack = 4 << 10 // a step's own small tensors, some freed a moment later
		if after.buffers != before.buffers || after.device > before.device+slack || after.goroutines > before.goroutines {
			t.Errorf("before %+v, after %+v", before, after)
		}
		if grown := after.heap - before.heap; grown > 256<<10 {
			t.Errorf("the heap has grown by %d bytes", grown)
		}
		grown := after.resident - before.resident
		for range 2 { // pools of the driver and the C library may fill late, but then they are full
			if grown <= 8<<20 {
				break
			}
			before = after
			train(1000)
			after = measure(t, s, w)
			grown = after.resident - before.resident
		}
		if grown > 8<<20 {
			t.Errorf("the process grows by %d bytes in 1,000 steps", grown)
		}
	})
}

// TestSessionsOfOneModelAtOnce trains several adapters of one model, each in its own goroutine, from the first execution of every
// program on; then each alone. In bfloat16 it is cuDNN's attention that they share, where there is one.
func TestSessionsOfOneModelAtOnce(t *testing.T) {
	reference.OnXLA(t, 5, func(t *testing.T, backend string, p *seam.Plugin) {
		for dtype, tolerance := range map[models.DType]float64{models.Float32: 0, models.BFloat16: 1e-2} { // sums of GPUs in bfloat16 are in any order
			t.Run(fmt.Sprint(dtype), func(t *testing.T) {
				cfg := tiny
				cfg.HiddenSize, cfg.NumAttentionHeads, cfg.NumKeyValueHeads = 128, 2, 1
				m, err := models.NewRandom(t.Context(), &cfg, 3, models.Options{Backend: backend, DType: dtype})
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				const sessions = 4
				var together [sessions][]float64
				var all sync.WaitGroup
				for i := range together {
					all.Go(func() {
						var err error
						if together[i], err = numbersOf(m, int64(i)); err != nil {
							t.Error(err)
						}
					})
				}
				all.Wait()
				if t.Failed() {
					return
				}
				for i := range together {
					alone, err := numbersOf(m, int64(i))
					if err != nil {
						t.Fatal(err)
					}
					for k, want := range alone {
						if got := together[i][k]; !(math.Abs(got-want) <= tolerance*math.Abs(want)) {
							t.Errorf("session %d, number %d: %v, alone %v", i, k, got, want)
						}
					}
				}
			})
		}
	})
}

// numbersOf trains adapters of a model for some steps; it returns their losses and norms.
func numbersOf(m *models.CausalLM, seed int64) (numbers []float64, err error) {
	a, err := m.NewAdapters(adapters(m, 0.2))
	if err != nil {
		return nil, err
	}
	defer a.Close()
	o := settings
	o.Seed = seed
	s, err := m.SessionWith(a, o)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	for i := range 12 {
		b := packed(10+int(seed)%2, documents(uint64(seed), 10), documents(uint64(i), 4, 5))
		st, err := s.MicroStep(context.Background(), b)
		if err != nil {
			return nil, err
		}
		norm, err := s.Apply(context.Background(), training.ApplyOptions{LearningRate: 1e-2, NumItems: float64(st.Labels)})
		if err != nil {
			return nil, err
		}
		ev, err := s.Evaluate(context.Background(), b)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, st.LossSum, norm, ev.LossSum)
	}
	return numbers, nil
}
