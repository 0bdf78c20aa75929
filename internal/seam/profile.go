//go:build cgo

package seam

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"
)

// Profile runs a function and returns what ran on the plugin's devices meanwhile, in the order of its beginning. Before
// and after it waits for all that runs. One profile at a time in a process; a GPU's needs CUPTI on the library path.
func (p *Plugin) Profile(run func() error) ([]Execution, error) {
	var handle unsafe.Pointer
	if err := takeError(C.seam_profile_slot(p.slot, &handle)); err != nil {
		return nil, fmt.Errorf("PJRT plugin %s: profile: %w", p.path, err)
	}
	err := run()
	var data *C.uint8_t
	var size C.size_t
	if late := takeError(C.seam_profiled(p.slot, handle, &data, &size)); late != nil {
		err = errors.Join(err, fmt.Errorf("PJRT plugin %s: profile: %w", p.path, late))
	}
	defer C.free(unsafe.Pointer(data))
	if err != nil {
		return nil, err
	}
	return executions(unsafe.Slice((*byte)(unsafe.Pointer(data)), size))
}
