//go:build !linux

package atomicfile

import "errors"

// exchange reports that this system has no portable way to swap two folders in one step.
func exchange(_, _ string) error { return errors.ErrUnsupported }
