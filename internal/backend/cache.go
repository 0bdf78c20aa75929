package backend

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/loris-ml/loris/internal/seam"
)

// CachePrograms keeps the programs that the device's plugin compiles in a folder, which is made if it does not exist, and
// takes them from there: those of the same graph, compile options, plugin and hardware. The plugin serves the whole
// process, so the folder set last counts for all its devices. It reports false where nothing is kept: on the Go backend,
// which compiles nothing, and on a plugin that is not opened through the seam.
//
// A compiled program is code that runs in this process: a folder that everyone can write to is an error.
func (d *Device) CachePrograms(dir string) (bool, error) {
	p, ok := seam.Of(d.Backend)
	if !ok {
		return false, nil
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return false, fmt.Errorf("folder for compiled programs: %w", err)
	}
	info, err := os.Stat(dir)
	if err == nil && info.Mode().Perm()&0o002 != 0 {
		err = errors.New("everyone can write to it, and so run code here; take that permission away, or choose another folder")
	}
	if err != nil {
		return false, fmt.Errorf("folder for compiled programs %s: %w", dir, err)
	}
	p.SetCacheDir(dir)
	return true, nil
}

// CachedPrograms returns how many programs the device's plugin loaded and how many it compiled since it was opened while a
// folder was set, and the last thing that went wrong with the folder; the programs ran all the same.
func (d *Device) CachedPrograms() (loaded, compiled int, err error) {
	p, ok := seam.Of(d.Backend)
	if !ok {
		return 0, 0, nil
	}
	s := p.CacheStats()
	return s.Loaded, s.Compiled, s.Err
}
