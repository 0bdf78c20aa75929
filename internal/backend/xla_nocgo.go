//go:build !cgo

package backend

import "fmt"

func openXLA(spec, _ string) (*Device, error) {
	return nil, fmt.Errorf("backend %q: this program was built without cgo, which XLA needs; build it with CGO_ENABLED=1 and a C compiler", spec)
}

// Sync waits for everything that was launched; the Go backend waits for each call anyway.
func (d *Device) Sync() error { return nil }
