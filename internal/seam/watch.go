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
)

// Watch observes a plugin, for tests: it counts buffers and bytes, and makes programs fail. Without one nothing of it runs. A plugin
// has one at a time; begin and end it while nothing else uses the plugin.
type Watch struct{ plugin *Plugin }

// Upload stands for copies from the host in place of a program's name.
const Upload = C.SEAM_UPLOAD

// Fault is a failure that is to happen, once.
type Fault struct {
	Program     string // part of the program's name, or [Upload]
	After       int    // how many executions of it are spared
	OutOfMemory bool   // the code is RESOURCE_EXHAUSTED, else INTERNAL
	Text        string // of the error

	// Late lets the program run, and gives the error to its completion, to its results and to all that is made of them,
	// as when a device fails; otherwise the program is refused when it is launched, and uses up nothing.
	Late bool
}

// Watch begins to watch. It waits for all that runs.
func (p *Plugin) Watch() (*Watch, error) {
	if err := takeError(C.seam_watch_slot(p.slot)); err != nil {
		return nil, fmt.Errorf("PJRT plugin %s: watch: %w", p.path, err)
	}
	return &Watch{p}, nil
}

// Fail lets a fault happen, in place of an earlier one that has not happened yet.
func (w *Watch) Fail(f Fault) {
	program, text := C.CString(f.Program), C.CString(f.Text)
	defer C.free(unsafe.Pointer(program))
	defer C.free(unsafe.Pointer(text))
	late, code := C.int(0), C.int(C.PJRT_Error_Code_INTERNAL)
	if f.Late {
		late = 1
	}
	if f.OutOfMemory {
		code = C.PJRT_Error_Code_RESOURCE_EXHAUSTED
	}
	C.seam_fault(w.plugin.slot, program, C.int(f.After), late, code, text)
}

// Fired is the number of faults that have happened.
func (w *Watch) Fired() int { return int(C.seam_fired(w.plugin.slot)) }

// LiveBuffers is the number of buffers made since the watch began, less those destroyed.
func (w *Watch) LiveBuffers() int { return int(C.seam_live_buffers(w.plugin.slot)) }

// Bytes is what buffers made since it was first called take, less those destroyed or given to programs, and the most since it
// was last called, with what programs work in. A program's memory counts from its launch on, and that of a buffer until it is
// destroyed, as if the device were never behind.
func (w *Watch) Bytes() (inUse, peak int64) {
	var u, p C.int64_t
	C.seam_watched_bytes(w.plugin.slot, &u, &p)
	return int64(u), int64(p)
}

// Close ends the watch. It waits for all that runs and returns what [Plugin.Sync] does.
func (w *Watch) Close() error { return takeError(C.seam_unwatch_slot(w.plugin.slot)) }
