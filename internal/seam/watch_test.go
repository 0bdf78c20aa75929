//go:build cgo

package seam

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gomlx/compute"
	"github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// donor is the program x, y → x+y that takes x over.
func donor(t *testing.T, b compute.Backend) *graph.Exec {
	t.Helper()
	e, err := graph.NewExec(b, func(x, y *Node) []*Node {
		Configure(x.Graph(), &Program{Donate: []int{0}})
		return []*Node{graph.Add(x, y)}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Finalize)
	return e.WithName("donor")
}

func donated(t *testing.T, b compute.Backend, x *tensors.Tensor) any {
	t.Helper()
	d, err := graph.DonateTensorBuffer(x, b, 0)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// onDevice is a tensor that the host has no copy of.
func onDevice(t *testing.T, b compute.Backend, values ...float32) *tensors.Tensor {
	t.Helper()
	return call(t, b, func(in []*Node) []*Node { return []*Node{graph.MulScalar(in[0], 1)} }, values)[0]
}

func expectValues(t *testing.T, x *tensors.Tensor, want ...float32) {
	t.Helper()
	got, err := tensors.CopyFlatData[float32](x)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, error %v, want %v", got, err, want)
	}
}

// settles requires that the garbage collector brings the number of live buffers back.
func settles(t *testing.T, w *Watch, want int) {
	t.Helper()
	for range 100 {
		if w.LiveBuffers() <= want {
			return
		}
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%d buffers live, want %d", w.LiveBuffers(), want)
}

func TestDonatedTensorsOfFailedProgramsAreGone(t *testing.T) {
	p, b := cpu(t)
	step := donor(t, b)
	for _, depth := range []int{0, 1, 4} {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("depth %d, late %t", depth, late), func(t *testing.T) {
				if err := p.SetDepth(depth); err != nil {
					t.Fatal(err)
				}
				w, err := p.Watch()
				if err != nil {
					t.Fatal(err)
				}
				defer w.Close()
				x, y := onDevice(t, b, 1, 2, 3), onDevice(t, b, 1, 1, 1)
				live := w.LiveBuffers()
				w.Fail(Fault{Program: "donor", Late: late, Text: "the device is ill"})
				out, err := step.Call(donated(t, b, x), y)
				if err == nil { // it is told when the result is read
					_, err = tensors.CopyFlatData[float32](out[0])
				}
				if err == nil || !strings.Contains(err.Error(), "the device is ill") {
					t.Errorf("got error %v", err)
				}
				if err := p.Sync(); (err != nil) != (late && depth > 0) {
					t.Errorf("Sync: error %v", err)
				}
				if _, err := step.Call(x, y); err == nil || w.Fired() != 1 {
					t.Errorf("a tensor that was donated is used again: error %v", err)
				}
				for _, o := range out {
					if err := o.FinalizeAll(); err != nil {
						t.Error(err)
					}
				}
				settles(t, w, live-1)
				fresh := onDevice(t, b, 4, 5, 6)
				if out, err = step.Call(donated(t, b, fresh), y); err != nil {
					t.Fatal(err)
				}
				expectValues(t, out[0], 5, 6, 7)
				expectValues(t, y, 1, 1, 1)
			})
		}
	}
}

func TestRefusedDonationsAreErrors(t *testing.T) {
	p, b := cpu(t)
	if err := p.SetDepth(4); err != nil {
		t.Fatal(err)
	}
	step := donor(t, b)
	x := onDevice(t, b, 1, 2, 3)
	d := donated(t, b, x)
	if _, err := step.Call(d, d); err == nil || !strings.Contains(err.Error(), "donate") {
		t.Errorf("a buffer that is donated and used beside: got error %v", err)
	}
	if err := p.Sync(); err != nil {
		t.Errorf("the refusal comes twice: %v", err)
	}
	out, err := step.Call(donated(t, b, onDevice(t, b, 1, 2, 3)), onDevice(t, b, 1, 1, 1))
	if err != nil {
		t.Fatal(err)
	}
	expectValues(t, out[0], 2, 3, 4)
}

func TestDonationsThatNoResultFitsAreUsedUp(t *testing.T) {
	p, b := cpu(t)
	if err := p.SetDepth(4); err != nil {
		t.Fatal(err)
	}
	sum, err := graph.NewExec(b, func(x *Node) *Node {
		Configure(x.Graph(), &Program{Donate: []int{0}})
		return graph.ReduceAllSum(x)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sum.Finalize()
	x := onDevice(t, b, 1, 2, 3)
	beside, err := graph.NewExec(b, graph.OnePlus)
	if err != nil {
		t.Fatal(err)
	}
	defer beside.Finalize()
	more, err := beside.Call(x) // may still be reading x when that is donated
	if err != nil {
		t.Fatal(err)
	}
	out, err := sum.Call(donated(t, b, x))
	if err != nil {
		t.Fatal(err)
	}
	expectValues(t, out[0], 6)
	expectValues(t, more[0], 2, 3, 4)
	if _, err := sum.Call(x); err == nil {
		t.Error("a tensor that was donated is used again")
	}
}

func TestFailuresWhileWaitedForLeaveNoBuffers(t *testing.T) {
	p, b := cpu(t)
	failing := tooLarge(t, b)
	w, err := p.Watch()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	x := onDevice(t, b, 1)
	for range 3 {
		if _, err := failing.Call(x); err == nil {
			t.Fatal("a result larger than memory was computed")
		}
	}
	settles(t, w, 1)
	if _, err := p.Watch(); err == nil || !strings.Contains(err.Error(), "is being watched") {
		t.Errorf("a second watch: error %v", err)
	}
}
