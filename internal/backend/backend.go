package backend

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/gobackend"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/seam"
)

// Kind says what a device is, as far as graphs are written differently for it.
type Kind int

const (
	Go   Kind = iota // GoMLX's pure-Go backend
	CPU              // XLA on the host
	CUDA             // XLA on an NVIDIA GPU
)

// String returns "go", "xla:cpu" or "xla:cuda".
func (k Kind) String() string { return [...]string{"go", "xla:cpu", "xla:cuda"}[k] }

// goOptions is how the Go backend runs: of its modes, only sequential operations turn a failing operation into an
// error every time, where the parallel ones may end the process or hang; operations in creation order keep fewer
// temporaries alive.
const goOptions = "ops_sequential,creation_order"

// Device is one device of an open backend: where a model's weights live and its programs run.
type Device struct {
	compute.Backend
	Kind Kind
	Num  compute.DeviceNum

	// MemoryLimit, if positive, is how many bytes of the device's memory FreeMemory counts on, those in use included.
	MemoryLimit int64

	options string // of the PJRT plugin, as [Open] got them

	mu    sync.Mutex // guards what the driver last told
	asked time.Time
	inUse int64
	told  bool
}

// Open opens the backend that spec names and returns its first device. Close it with [Device.Close].
func Open(spec string) (*Device, error) {
	name, options, _ := strings.Cut(spec, ":")
	switch name {
	case "", "go":
		if options == "" {
			options = goOptions
		}
		b, err := gobackend.New(options)
		if err != nil {
			return nil, fmt.Errorf("backend %q: %w", spec, err)
		}
		return &Device{Backend: b, Kind: Go}, nil
	case "xla":
		return openXLA(spec, options)
	}
	return nil, fmt.Errorf(`backend %q: unknown name %q; use "" (pure Go), "xla:cpu" or "xla:cuda"`, spec, name)
}

// Close frees everything that lives on the backend. Tensors on it become invalid.
func (d *Device) Close() error {
	if d.Backend != nil && !d.IsFinalized() {
		d.Finalize()
	}
	return nil
}

// DType is the dtype in which weights and activations are kept on this device unless the caller asks for another:
// bfloat16 on CUDA, float16 on GPUs before compute capability 8.0, which have no bfloat16, float32 elsewhere.
func (d *Device) DType() dtypes.DType {
	if d.Kind != CUDA {
		return dtypes.Float32
	}
	if p, ok := seam.Of(d.Backend); ok && p.Before(8) {
		return dtypes.Float16
	}
	return dtypes.BFloat16
}

// Upload copies raw, the values of shape in row-major order and native byte order, to the device. The host keeps
// nothing.
func (d *Device) Upload(shape shapes.Shape, raw []byte) (*tensors.Tensor, error) {
	t, err := tensors.FromRaw(d.Backend, d.Num, shape, raw)
	if err != nil {
		return nil, fmt.Errorf("upload of %s (%d bytes) to %s: %w", shape, len(raw), d.Kind, err)
	}
	return t, nil
}

// Free releases the tensors' memory on device and host at once; nil ones are passed over.
func Free(ts ...*tensors.Tensor) error {
	var errs []error
	for _, t := range ts {
		if t != nil {
			errs = append(errs, t.FinalizeAll())
		}
	}
	return errors.Join(errs...)
}
