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
	"strings"
	"unsafe"
)

// pluginAt returns the plugin of a slot. Open holds the lock while a new plugin initializes, but appends it to the list
// before, and plugins call back only when they compile.
func pluginAt(slot C.int) *Plugin {
	opened.Lock()
	defer opened.Unlock()
	for _, p := range opened.plugins {
		if p.slot == slot {
			return p
		}
	}
	return nil
}

// loris_seam_compile is called with a program that is to be compiled, its options, and what C found out about platform
// and devices.
//
//export loris_seam_compile
func loris_seam_compile(slot C.int, code *C.char, size C.size_t, options *C.char, optionsSize C.size_t, hardware *C.char, out *C.seam_program) {
	defer func() { // a panic must not run through C
		if r := recover(); r != nil {
			out.error = C.CString(fmt.Sprintf("seam: %v", r))
		}
	}()
	p := pluginAt(slot)
	text := string(unsafe.Slice((*byte)(unsafe.Pointer(code)), size))
	opts := string(unsafe.Slice((*byte)(unsafe.Pointer(options)), optionsSize))
	if !strings.HasPrefix(text, "module ") { // in MLIR's binary form, or HLO
		if strings.Contains(text, "loris_") {
			out.error = C.CString("seam: the program is not in text form; do not set GOPJRT_NO_STABLE_HLO")
			return
		}
		out.code, out.code_size = cBytes(text)
		out.options, out.options_size = cBytes(opts)
		return
	}
	text, program, err := rewrite(text)
	if err != nil {
		out.error = C.CString("seam: " + err.Error())
		return
	}
	opts += string(program.overrides())
	if dir := p.cache.folder(); dir != "" {
		key := cacheKey(text, []byte(opts), C.GoString(hardware), p.identity(), host())
		out.cache_key = C.CString(key)
		if executable := p.cache.read(dir, key); executable != nil {
			out.cached, out.cached_size = cBytes(string(executable))
		}
	}
	out.code, out.code_size = cBytes(text)
	out.options, out.options_size = cBytes(opts)
	out.number = C.int64_t(program.Number)
	if program.CopyTo != "" {
		out.memory_kind = C.CString(program.CopyTo)
	}
}

// loris_seam_measured is told what memory the program of that number takes.
//
//export loris_seam_measured
func loris_seam_measured(slot C.int, number C.int64_t, f *C.seam_footprint) {
	pluginAt(slot).footprints.Store(int64(number), Footprint{
		Arguments: int64(f.arguments), Results: int64(f.results), Reused: int64(f.reused), Temporary: int64(f.temporary),
	})
}

// cBytes copies s, which may hold any bytes, to C memory.
func cBytes(s string) (*C.char, C.size_t) { return C.CString(s), C.size_t(len(s)) }

// loris_seam_cached is told what became of a program that has a cache key; data is a message or the executable.
//
//export loris_seam_cached
func loris_seam_cached(slot C.int, key *C.char, event C.int, data *C.char, size C.size_t) {
	c := &pluginAt(slot).cache
	bytes := C.GoBytes(unsafe.Pointer(data), C.int(size))
	switch event {
	case C.SEAM_LOADED:
		c.note(func(s *CacheStats) { s.Loaded++ })
	case C.SEAM_SERIALIZED:
		c.write(C.GoString(key), bytes)
	default: // stale, or the plugin cannot serialize
		c.note(func(s *CacheStats) { s.Err = errors.New(string(bytes)) })
	}
}
