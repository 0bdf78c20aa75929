package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ReplaceDir creates or replaces the folder dst with what build puts into the empty folder tmp, which lies beside dst.
//
// After build returned nil, every file and folder under tmp is flushed to the disk and tmp is renamed to dst. If build
// fails or panics, dst keeps its old content and tmp is removed. build must not keep files in tmp open.
//
// Where the system can exchange two folders (Linux, on most file systems), dst is never missing. Elsewhere an old dst is
// moved aside for an instant, to ".<name>.old-…" in the same folder; it is removed when the new one is in place, and
// moved back if that fails. If dst is a symbolic link to a folder, the folder is replaced and the link stays.
func ReplaceDir(dst string, build func(tmp string) error) (err error) {
	dst, err = resolveDir(dst)
	if err != nil {
		return err
	}
	tmp, err := mkdirTemp(dst)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // after success tmp is gone or holds the old content; also when build panics

	if err := build(tmp); err != nil {
		return fmt.Errorf("write folder %s: %w", dst, err)
	}
	if err := syncTree(tmp); err != nil {
		return fmt.Errorf("write folder %s: flush to disk: %w", dst, err)
	}
	if err := moveInto(tmp, dst); err != nil {
		return fmt.Errorf("write folder %s: move the finished folder into place: %w", dst, withoutTemp(err))
	}
	if err := syncDir(filepath.Dir(dst)); err != nil {
		return fmt.Errorf("write folder %s: flush its parent folder to disk: %w", dst, err)
	}
	return nil
}

// resolveDir checks that dst can be replaced by a folder and follows it where it is a symbolic link to one.
func resolveDir(dst string) (string, error) {
	info, err := os.Stat(dst)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return filepath.Clean(dst), nil
	case err != nil:
		return "", fmt.Errorf("write folder %s: %w", dst, err)
	case !info.IsDir():
		return "", fmt.Errorf("write folder %s: it is a file; remove it or choose another folder name", dst)
	}
	resolved, err := filepath.EvalSymlinks(dst)
	if err != nil {
		return "", fmt.Errorf("write folder %s: %w", dst, err)
	}
	if base := filepath.Base(resolved); base == "." || base == ".." || base == string(filepath.Separator) {
		// Only a folder with a name can be renamed.
		if resolved, err = filepath.Abs(resolved); err != nil {
			return "", fmt.Errorf("write folder %s: %w", dst, err)
		}
	}
	return resolved, nil
}

func mkdirTemp(dst string) (string, error) {
	for range maxAttempts {
		tmp := tempName(dst)
		err := os.Mkdir(tmp, 0o777)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", createError(dst, err)
		}
		return tmp, nil
	}
	return "", fmt.Errorf("write folder %s: no free temporary name in %s; remove old .*.tmp-* folders there", dst, filepath.Dir(dst))
}

// moveInto makes tmp the new dst. Afterwards the path tmp is free, or holds the old content to be removed.
func moveInto(tmp, dst string) error {
	if _, err := os.Lstat(dst); errors.Is(err, fs.ErrNotExist) {
		return os.Rename(tmp, dst)
	}
	if err := exchange(tmp, dst); err == nil {
		return nil
	}
	return moveAside(tmp, dst)
}

// moveAside replaces dst in two renames, for file systems that cannot exchange folders.
func moveAside(tmp, dst string) error {
	old := sideName(dst, "old")
	if err := os.Rename(dst, old); err != nil {
		return err
	}
	if err := os.Rename(tmp, dst); err != nil {
		if back := os.Rename(old, dst); back != nil {
			return fmt.Errorf("%w; the old content is kept in %s", err, old)
		}
		return err
	}
	return os.RemoveAll(old)
}
