package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

const (
	// maxAttempts bounds the search for a free temporary name; with 64 random bits one attempt is enough.
	maxAttempts = 100
	// maxBase keeps temporary names below the 255 bytes that file systems allow.
	maxBase = 200
)

// tempName returns a random name beside path. The leading dot hides it from listings such as checkpoint-*.
func tempName(path string) string { return sideName(path, "tmp") }

func sideName(path, kind string) string {
	base := filepath.Base(path)
	if len(base) > maxBase {
		base = base[:maxBase]
	}
	return filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s.%s-%016x", base, kind, rand.Uint64()))
}

// createError says why nothing can be created beside path, and what to do about it.
func createError(path string, err error) error {
	dir, cause := filepath.Dir(path), withoutTemp(err)
	remedy := "check the folder " + dir
	switch {
	case errors.Is(err, fs.ErrNotExist):
		remedy = fmt.Sprintf("the folder %s does not exist; create it first", dir)
	case errors.Is(err, fs.ErrPermission):
		remedy = fmt.Sprintf("the folder %s is not writable; change its permissions or choose another", dir)
	}
	return fmt.Errorf("write %s: %w: %s", path, cause, remedy)
}

// withoutTemp strips the temporary name from an error: callers know the final name only.
func withoutTemp(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return e.Err
	}
	return err
}
