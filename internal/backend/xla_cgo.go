//go:build cgo

package backend

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/go-xla/compute/xla"
	"github.com/gomlx/go-xla/pjrt"
)

// openXLA opens a PJRT plugin by name ("cpu", "cuda") or absolute path. Buffers are not shared with the host: a program
// that still runs must not see its input change.
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
	}
	if !strings.Contains(rest, "shared_buffers") {
		options = plugin + ",shared_buffers=false"
		if rest != "" {
			options += "," + rest
		}
	}
	b, err := xla.New(options)
	if err != nil {
		return nil, fmt.Errorf("backend %q: %w; %s", spec, err, remedy(kind))
	}
	if b.NumDevices() == 0 {
		b.Finalize()
		return nil, fmt.Errorf("backend %q: %w; %s", spec, errors.New("the plugin sees no device"), remedy(kind))
	}
	return &Device{Backend: compute.Backend(b), Kind: kind}, nil
}

func remedy(k Kind) string {
	if k == CUDA {
		return "it needs an NVIDIA GPU with its driver and a PJRT CUDA plugin at PJRT_PLUGIN_LIBRARY_PATH: scripts/link-cuda-plugin.sh links the one of a JAX install"
	}
	return "it needs a PJRT CPU plugin at PJRT_PLUGIN_LIBRARY_PATH: scripts/fetch-xla-cpu.sh fetches one"
}
