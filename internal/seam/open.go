//go:build cgo

package seam

/*
#cgo linux LDFLAGS: -ldl -lpthread
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"unsafe"

	"github.com/gomlx/compute"
	"github.com/gomlx/go-xla/compute/xla"
	"github.com/gomlx/go-xla/pjrt"
)

// Plugin is a PJRT plugin that was opened through the seam. Like the library that it is, it stays open for the life of
// the process; the backends made of it come and go.
type Plugin struct {
	name, path string
	slot       C.int
	identity   func() string
	cache      cache
	footprints sync.Map // by Program.Number

	clients sync.Map // by weak pointer to the backend; those that are closed go when the next one is made

	mu sync.Mutex // held by who makes a backend or sets a depth
}

// registryName begins the name under which go-xla knows a plugin. Names that look like a path are taken as they are: it
// searches no folder for them and installs nothing.
const registryName = "/loris-seam/"

// A plugin is loaded once per process, whoever asks; go-xla and PJRT keep them the same way.
var opened struct {
	sync.Mutex
	plugins []*Plugin // by slot
}

// registering guards go-xla's table of plugins, which it writes without a lock of its own.
var registering sync.RWMutex

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,40}$`)

// Open loads the PJRT plugin in the file path, or, where path is empty, the one that [Find] finds by name. The name
// decides what go-xla takes it for: one that contains "cuda" is a CUDA plugin, one that contains "cpu" a CPU plugin. The
// same file is opened once; asking again returns the same plugin.
func Open(name, path string) (*Plugin, error) {
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("PJRT plugin name %q: use small letters, digits, - and _, such as cpu or cuda", name)
	}
	if path == "" {
		path = name
	} else if !strings.HasPrefix(path, "/") {
		return nil, fmt.Errorf("PJRT plugin %q: the path is not absolute", path)
	}
	path, err := Find(path)
	if err != nil {
		return nil, err
	}
	opened.Lock()
	defer opened.Unlock()
	full := registryName + name
	for _, p := range opened.plugins {
		switch {
		case p.path == path && p.baseName() == name:
			return p, nil
		case p.path == path:
			return nil, fmt.Errorf("PJRT plugin %s is open in this process as %q and cannot be %q too", path, p.baseName(), name)
		case p.name == full:
			full += "." // another file of the same name
		}
	}
	p := &Plugin{name: full, path: path, identity: sync.OnceValue(func() string { return identity(path) })}
	var table unsafe.Pointer
	cPath := C.CString(path)
	defer C.free(unsafe.Pointer(cPath))
	if err := takeError(C.seam_open(cPath, &p.slot, &table)); err != nil {
		return nil, fmt.Errorf("PJRT plugin %s: %w", path, err)
	}
	opened.plugins = append(opened.plugins, p) // before anything can call back
	registering.Lock()
	err = pjrt.RegisterPreloadedPlugin(full, uintptr(table))
	registering.Unlock()
	if err != nil {
		p.path = "" // the slot is lost, and nobody finds it
		return nil, fmt.Errorf("PJRT plugin %s: %w", path, err)
	}
	return p, nil
}

// NewBackend makes a backend of the plugin, with options as GoMLX spells them ("tf32=false,preallocate=true"). Unless
// they say otherwise, buffers are not shared with the host: a program that still runs must not see its input change.
func (p *Plugin) NewBackend(options string) (compute.Backend, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !strings.Contains(options, "shared_buffers") {
		options = strings.TrimSuffix("shared_buffers=false,"+options, ",")
	}
	registering.RLock()
	b, err := xla.New(p.name + "," + options)
	registering.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("PJRT plugin %s: %w", p.path, err)
	}
	if err := p.register(b.(*xla.Backend)); err != nil {
		b.Finalize()
		return nil, err
	}
	return b, nil
}

// NewPlainBackend makes a backend of the plugin's file that knows nothing of the seam.
func (p *Plugin) NewPlainBackend(options string) (compute.Backend, error) {
	registering.Lock()
	defer registering.Unlock()
	return xla.New(strings.Trim(p.path+",shared_buffers=false,"+options, ","))
}

// Path is the plugin's file.
func (p *Plugin) Path() string { return p.path }

// IsCUDA tells whether the plugin is for NVIDIA GPUs.
func (p *Plugin) IsCUDA() bool { return pjrt.IsCUDAName(p.name) }

func (p *Plugin) baseName() string {
	return strings.TrimRight(strings.TrimPrefix(p.name, registryName), ".")
}

// SetDepth lets the executions of all backends, those to come too, return before the device is done, with at most n of them (up
// to 256) outstanding per device; 0, the state after [Open], waits for each. It returns what [Plugin.Sync] does.
//
// The error of an execution that failed meanwhile comes from a later execution on that device (which then does not
// run), from Sync, or from reading its results. Reading them does not take it from Sync: after an error of any kind,
// call Sync and drop what it returns before going on.
func (p *Plugin) SetDepth(n int) error { return p.setDepth(0, n, p.shares) }

// setDepth is for the backend of that number, or, 0, for all; shares tells whether one of them shares buffers with the host.
func (p *Plugin) setDepth(number C.int64_t, n int, shares func() bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n < 0 || n > 256 {
		return fmt.Errorf("PJRT plugin %s: %d executions in flight; use 0 to 256", p.path, n)
	}
	if n > 0 && shares() {
		return fmt.Errorf("PJRT plugin %s: a backend shares its buffers with the host, which asynchronous executions would read while they change; open it with shared_buffers=false", p.path)
	}
	return takeError(C.seam_set_depth(p.slot, number, C.int(n)))
}

// shares tells whether some backend that is not closed shares buffers with the host.
func (p *Plugin) shares() (shared bool) {
	p.clients.Range(func(_, c any) bool {
		shared = c.(*Client).shared && !c.(*Client).closed()
		return !shared
	})
	return shared
}

// Depth is what SetDepth set, for backends to come; those that are open may have another by now, see [Client.Depth].
func (p *Plugin) Depth() int { return int(C.seam_depth(p.slot, 0)) }

// Sync waits for all outstanding executions and copies of all backends, and returns the first error among them.
func (p *Plugin) Sync() error { return takeError(C.seam_sync(p.slot, 0)) }

// Pending is the number of executions and copies that have not been waited for; some of them may have ended.
func (p *Plugin) Pending() int { return int(C.seam_pending(p.slot, 0)) }

// Footprint is what memory the program of that Program.Number takes; false where it is not compiled, or the plugin does not tell.
func (p *Plugin) Footprint(number int64) (Footprint, bool) {
	f, ok := p.footprints.Load(number)
	if !ok {
		return Footprint{}, false
	}
	return f.(Footprint), true
}

// SetCacheDir keeps compiled programs in a folder, which is made when needed, and takes them from there: those of the
// same text, options, plugin and hardware. "" switches that off. Nothing is ever removed; files may be deleted at will.
// Whoever can write to the folder can run code in this process: keep it private.
func (p *Plugin) SetCacheDir(dir string) { p.cache.setDir(dir) }

// CacheStats says what the cache did so far.
func (p *Plugin) CacheStats() CacheStats {
	p.cache.mu.Lock()
	defer p.cache.mu.Unlock()
	return p.cache.stats
}

// takeError makes an error of a message from C, which is freed.
func takeError(message *C.char) error {
	if message == nil {
		return nil
	}
	defer C.free(unsafe.Pointer(message))
	return errors.New(C.GoString(message))
}
