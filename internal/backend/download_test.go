//go:build cgo

package backend

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/compute/dtypes"

	"github.com/loris-ml/loris/internal/seam"
)

// onWatchedXLA runs the test on the devices of LORIS_TEST_BACKENDS that have a seam.
func onWatchedXLA(t *testing.T, test func(t *testing.T, d *Device, w *seam.Watch)) {
	for _, spec := range strings.Fields(os.Getenv("LORIS_TEST_BACKENDS")) {
		t.Run(spec, func(t *testing.T) {
			d, err := Open(spec)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			p, ok := seam.Of(d.Backend)
			if !ok {
				t.Skip("the backend has no seam")
			}
			w, err := p.Watch()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			test(t, d, w)
		})
	}
}

func TestValuesThatCannotBeReadAreNeverZeros(t *testing.T) {
	onWatchedXLA(t, func(t *testing.T, d *Device, w *seam.Watch) {
		for _, dtype := range []dtypes.DType{dtypes.Float32, dtypes.BFloat16} {
			w.Fail(seam.Fault{Program: seam.Upload, Late: true, Text: "the device is ill"})
			x, err := UploadFloats(d, dtype, []float32{1, 2, 3}, 3)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if got, err := DownloadFloats(x); err == nil || !strings.Contains(err.Error(), "the device is ill") {
					t.Errorf("%s: got %v, error %v", dtype, got, err)
				}
			}
			if err := Free(x); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestReadingLeavesNoCopyOnTheHost(t *testing.T) {
	onWatchedXLA(t, func(t *testing.T, d *Device, w *seam.Watch) {
		want := []float32{1, -2, 3}
		x, err := UploadFloats(d, dtypes.BFloat16, want, 3)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got, err := DownloadFloats(x); err != nil || !slices.Equal(got, want) || x.HasLocal() {
				t.Errorf("got %v, error %v; a copy on the host: %t", got, err, x.HasLocal())
			}
		}
		if err := Free(x); err != nil || w.LiveBuffers() != 0 {
			t.Errorf("error %v, %d buffers live", err, w.LiveBuffers())
		}
	})
}

func TestAFullDeviceIsToldFromOtherFailures(t *testing.T) {
	onWatchedXLA(t, func(t *testing.T, d *Device, w *seam.Watch) {
		for _, full := range []bool{true, false} {
			w.Fail(seam.Fault{Program: seam.Upload, OutOfMemory: full, Text: "no"})
			if _, err := UploadFloats(d, dtypes.Float32, []float32{1}, 1); err == nil || OutOfMemory(err) != full {
				t.Errorf("got error %v, taken for a full device: %t", err, OutOfMemory(err))
			}
		}
	})
	if OutOfMemory(nil) {
		t.Error("no error is taken for a full device")
	}
}
