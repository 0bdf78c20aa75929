package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
)

// leftover is the form of the names that sideName gives: 1 is the base of the final name, 2 the kind.
var leftover = regexp.MustCompile(`^\.(.+)\.(tmp|old)-[0-9a-f]{16}$`)

// RemoveLeftovers removes from a folder what killed processes left of files and folders they were writing there, those
// whose final base name mine accepts. What [ReplaceDir] moved aside is moved back where the new content never came. No
// process may be writing them meanwhile.
func RemoveLeftovers(dir string, mine func(base string) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		m := leftover.FindStringSubmatch(e.Name())
		if m == nil || !mine(m[1]) {
			continue
		}
		path, final := filepath.Join(dir, e.Name()), filepath.Join(dir, m[1])
		if _, err := os.Lstat(final); m[2] == "old" && errors.Is(err, os.ErrNotExist) {
			errs = append(errs, os.Rename(path, final))
			continue
		}
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}
