//go:build !cgo

package seam

import (
	"errors"

	"github.com/gomlx/compute"
)

// errNoCgo is what everything that needs a plugin returns in a program without cgo.
var errNoCgo = errors.New("this program was built without cgo, which PJRT plugins need; build it with CGO_ENABLED=1 and a C compiler")

// Plugin is a PJRT plugin that was opened through the seam; without cgo there are none.
type Plugin struct{}

// Open returns an error: the program was built without cgo.
func Open(name, path string) (*Plugin, error) { return nil, errNoCgo }

// Client is one backend of a plugin; without cgo there are none.
type Client struct{ *Plugin }

// Of returns false: without cgo no backend is opened through the seam.
func Of(b compute.Backend) (*Client, bool) { return nil, false }

func (p *Plugin) NewBackend(options string) (compute.Backend, error)      { return nil, errNoCgo }
func (p *Plugin) NewPlainBackend(options string) (compute.Backend, error) { return nil, errNoCgo }
func (p *Plugin) IsCUDA() bool                                            { return false }
func (p *Plugin) Path() string                                            { return "" }
func (p *Plugin) SetDepth(n int) error                                    { return errNoCgo }
func (p *Plugin) Depth() int                                              { return 0 }
func (p *Plugin) Sync() error                                             { return errNoCgo }
func (c *Client) Limit(executions, copies int) error                      { return errNoCgo }
func (p *Plugin) Pending() int                                            { return 0 }
func (p *Plugin) SetCacheDir(dir string)                                  {}
func (p *Plugin) CacheStats() CacheStats                                  { return CacheStats{Err: errNoCgo} }
func (p *Plugin) Profile(run func() error) ([]Execution, error)           { return nil, errNoCgo }
func (p *Plugin) Footprint(number int64) (Footprint, bool)                { return Footprint{}, false }
func (c *Client) ComputeCapability(device int) (int, int, error)          { return 0, 0, errNoCgo }
func (c *Client) Before(major int) bool                                   { return false }
func (c *Client) Memory(device int) (MemoryStats, error)                  { return MemoryStats{}, errNoCgo }
