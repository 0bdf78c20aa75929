//go:build cgo

package seam

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"unsafe"
	"weak"

	"github.com/gomlx/compute"
	"github.com/gomlx/go-xla/compute/xla"
)

// Client is one backend of a plugin. What it has by the names of Plugin's methods is about this backend alone: several may be at
// work in a process, and none waits for another's executions, or is told of their errors.
type Client struct {
	*Plugin
	number C.int64_t
	shared bool // it shares buffers with the host
}

// register adds the backend that was just made. Call it with mu held.
func (p *Plugin) register(b *xla.Backend) error {
	p.clients.Range(func(at, c any) bool {
		if c.(*Client).closed() {
			p.clients.Delete(at)
		}
		return true
	})
	c := &Client{Plugin: p, number: C.seam_newest(p.slot), shared: b.HasSharedBuffers()}
	if depth := c.Depth(); c.shared && depth > 0 {
		return fmt.Errorf("PJRT plugin %s: shared_buffers needs executions that are waited for, and they are asynchronous (depth %d)", p.path, depth)
	}
	p.clients.Store(weak.Make(b), c)
	return nil
}

// closed tells whether the backend has been finalized.
func (c *Client) closed() bool { return C.seam_depth(c.slot, c.number) < 0 }

// Of returns the client behind a backend that was opened through the seam.
func Of(b compute.Backend) (*Client, bool) {
	its, ok := b.(*xla.Backend)
	if !ok {
		return nil, false
	}
	opened.Lock()
	defer opened.Unlock()
	for _, p := range opened.plugins {
		if c, ok := p.clients.Load(weak.Make(its)); ok {
			return c.(*Client), true
		}
	}
	return nil, false
}

// SetDepth is [Plugin.SetDepth] for this backend.
func (c *Client) SetDepth(n int) error {
	return c.setDepth(c.number, n, func() bool { return c.shared })
}

// Depth is what SetDepth set.
func (c *Client) Depth() int { return int(max(0, C.seam_depth(c.slot, c.number))) }

// Sync waits for the backend's outstanding executions and copies, and returns the first error among them.
func (c *Client) Sync() error { return takeError(C.seam_sync(c.slot, c.number)) }

// Limit waits for the oldest executions and copies until at most so many of each are outstanding per device: whoever goes
// on then holds no more memory for what is launched ahead. It returns the first error among those it waited for.
func (c *Client) Limit(executions, copies int) error {
	return takeError(C.seam_limit(c.slot, c.number, C.int(max(0, executions)), C.int(max(0, copies))))
}

// Pending is the number of executions and copies that have not been waited for; some of them may have ended.
func (c *Client) Pending() int { return int(C.seam_pending(c.slot, c.number)) }

// Memory returns what the allocator of a device, by number, says.
func (c *Client) Memory(device int) (MemoryStats, error) {
	var m C.seam_memory
	if err := takeError(C.seam_memory_stats(c.slot, c.number, C.int(device), &m)); err != nil {
		return MemoryStats{}, fmt.Errorf("memory of device %d: %w", device, err)
	}
	return MemoryStats{InUse: int64(m.in_use), Peak: int64(m.peak), Limit: int64(m.limit), Pool: int64(m.pool)}, nil
}

// ComputeCapability is that of an NVIDIA GPU, 9.0 of an H100; 0.0 of other devices, and where the plugin does not tell.
func (c *Client) ComputeCapability(device int) (major, minor int, err error) {
	var value [16]C.char
	name := C.CString("compute_capability")
	defer C.free(unsafe.Pointer(name))
	if err := takeError(C.seam_attribute(c.slot, c.number, C.int(device), name, &value[0], C.size_t(len(value)))); err != nil {
		return 0, 0, fmt.Errorf("compute capability of device %d: %w", device, err)
	}
	text := C.GoString(&value[0])
	if text == "" {
		return 0, 0, nil
	}
	if _, err := fmt.Sscanf(text, "%d.%d", &major, &minor); err != nil {
		return 0, 0, fmt.Errorf("compute capability of device %d is %q, not of the form 9.0", device, text)
	}
	return major, minor, nil
}

// Before tells whether the backend's GPU is known to be of a compute capability before major.
func (c *Client) Before(major int) bool {
	its, _, err := c.ComputeCapability(0)
	return err == nil && its > 0 && its < major
}
