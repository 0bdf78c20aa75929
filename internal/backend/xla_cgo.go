//go:build cgo

package backend

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/go-xla/pjrt"

	"github.com/loris-ml/loris/internal/seam"
)

// inFlight is how many executions a GPU may be behind the host: a whole step's, so that the many short ones at its end
// are waiting when the long ones before them are done.
const inFlight = 200

// memoryFraction is how much of a GPU's memory XLA may take, if the options do not say.
const memoryFraction = "memory_fraction=0.92"

// openXLA opens a PJRT plugin by name ("cpu", "cuda") or absolute path, through the seam. Where the seam's self-test
// fails, the backend is opened without it, and every operation takes its plain form.
func openXLA(spec, options string) (d *Device, err error) {
	defer func() { // go-xla panics on a plugin that cannot be loaded
		if r := recover(); r != nil {
			err = fmt.Errorf("backend %q: the PJRT plugin cannot be loaded: %v", spec, r)
		}
	}()
	plugin, rest, _ := strings.Cut(options, ",")
	if plugin == "" {
		return nil, fmt.Errorf(`backend %q names no PJRT plugin; use "xla:cpu", "xla:cuda" or "xla:/path/to/plugin.so"`, spec)
	}
	kind := CPU
	if pjrt.IsCUDAName(plugin) {
		kind = CUDA
		if !strings.Contains(rest, "memory_fraction") {
			rest = strings.Trim(rest+","+memoryFraction, ",")
		}
	}
	b, err := throughSeam(plugin, rest, kind)
	if err != nil {
		return nil, fmt.Errorf("backend %q: %w; %s", spec, err, remedy(kind))
	}
	if b.NumDevices() == 0 {
		b.Finalize()
		return nil, fmt.Errorf("backend %q: %w; %s", spec, errors.New("the plugin sees no device"), remedy(kind))
	}
	return &Device{Backend: b, Kind: kind, options: rest}, nil
}

// throughSeam opens the plugin behind the seam and makes GPUs asynchronous.
func throughSeam(plugin, options string, kind Kind) (compute.Backend, error) {
	name, path := plugin, ""
	if filepath.IsAbs(plugin) {
		name, path = map[Kind]string{CPU: "cpu", CUDA: "cuda"}[kind], plugin
	}
	p, err := seam.Open(name, path)
	if err != nil {
		return nil, err
	}
	if kind == CUDA {
		limitPinned()
	}
	b, err := p.NewBackend(options)
	if err != nil || kind != CUDA {
		return b, err
	}
	if err := seam.SelfTest(b); err != nil {
		slog.Warn("fast kernels are off: the seam to XLA failed its self-test", "error", err)
		b.Finalize()
		return p.NewPlainBackend(options)
	}
	if c, ok := seam.Of(b); ok {
		err = c.SetDepth(inFlight)
	}
	if err != nil {
		b.Finalize()
		return nil, err
	}
	return b, nil
}

// Sync waits for everything that was launched and returns the first error among it.
func (d *Device) Sync() error {
	if p, ok := seam.Of(d.Backend); ok {
		return p.Sync()
	}
	return nil
}

func remedy(k Kind) string {
	if k == CUDA {
		return "it needs an NVIDIA GPU with its driver and a PJRT CUDA plugin at PJRT_PLUGIN_LIBRARY_PATH: scripts/link-cuda-plugin.sh links the one of a JAX install"
	}
	return "it needs a PJRT CPU plugin at PJRT_PLUGIN_LIBRARY_PATH: scripts/fetch-xla-cpu.sh fetches one"
}
