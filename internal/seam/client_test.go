//go:build cgo

package seam

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gomlx/gomlx/core/graph"
)

func TestBackendsOfOnePluginDoNotWaitForEachOther(t *testing.T) {
	a, b := cpu(t)
	c, d := cpu(t)
	failing := tooLarge(t, b)
	fine, err := graph.NewExec(d, graph.OnePlus)
	if err != nil {
		t.Fatal(err)
	}
	defer fine.Finalize()
	for _, each := range []*Client{a, c} {
		if err := each.SetDepth(2); err != nil {
			t.Fatal(err)
		}
	}
	x, y := onDevice(t, b, 1), onDevice(t, d, 41)
	failed, err := failing.Call(x)
	if err != nil {
		t.Fatalf("not waiting for it: %v", err)
	}
	out, err := fine.Call(y)
	if err != nil {
		t.Fatalf("beside a failure of another backend: %v", err)
	}
	expectValues(t, out[0], 42)
	before := a.Pending()
	if err := c.Limit(0, 0); err != nil {
		t.Errorf("the failure is told to another backend: %v", err)
	}
	if a.Pending() != before || before == 0 || c.Pending() != 0 {
		t.Errorf("%d and %d executions are pending, want %d and none", a.Pending(), c.Pending(), before)
	}
	if err := c.SetDepth(0); err != nil || c.Depth() != 0 || a.Depth() != 2 {
		t.Errorf("error %v, depths %d and %d, want 2 and 0", err, a.Depth(), c.Depth())
	}
	if err := a.Sync(); err == nil || !strings.Contains(err.Error(), "Out of memory") {
		t.Errorf("got error %v", err)
	}
	if err := free(x, y, failed[0], out[0]); err != nil {
		t.Error(err)
	}
}

// A second model may be loaded while the first one trains.
func TestSelfTestPassesBesideOtherBackends(t *testing.T) {
	a, b := cpu(t)
	if err := a.SetDepth(4); err != nil {
		t.Fatal(err)
	}
	busy, err := graph.NewExec(b, func(x *Node) *Node { return graph.Sin(graph.Mul(x, x)) })
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Finalize()
	x := onDevice(t, b, 1, 2, 3)
	var stop atomic.Bool
	var working sync.WaitGroup
	working.Go(func() {
		for i := 0; !stop.Load(); i++ {
			out, err := busy.Call(x)
			if err == nil && i%5 == 0 {
				err = a.Sync()
			}
			if err == nil {
				err = out[0].FinalizeAll()
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 20 {
		_, d := cpu(t)
		if err := SelfTest(d); err != nil {
			t.Error(err)
		}
		d.Finalize()
	}
	stop.Store(true)
	working.Wait()
	if err := free(x); err != nil {
		t.Error(err)
	}
}

func TestADeviceIsAskedWhileBackendsComeAndGo(t *testing.T) {
	a, b := cpu(t)
	var asking sync.WaitGroup
	var stop atomic.Bool
	for range 2 {
		asking.Go(func() {
			for !stop.Load() {
				if _, err := a.Memory(0); err == nil || strings.Contains(err.Error(), "closed") {
					t.Errorf("got error %v", err)
					return
				}
				if _, _, err := a.ComputeCapability(0); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 20 {
		c, d := cpu(t)
		d.Finalize()
		if _, err := c.Memory(0); err == nil || !strings.Contains(err.Error(), "the backend is closed") {
			t.Errorf("got error %v", err)
		}
	}
	stop.Store(true)
	asking.Wait()
	if its, ok := Of(b); !ok || its != a {
		t.Errorf("the backend's client is %v, want %v", its, a)
	}
}
