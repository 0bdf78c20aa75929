package atomicfile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// writeBuffer gathers small writes; larger ones (tensor data) pass through it uncopied.
const writeBuffer = 256 << 10

// Write creates or replaces the file path with what write puts into w.
//
// The file appears under its name only after write returned nil and the bytes are on the disk. If write fails or
// panics, path keeps its old content and the temporary file is removed. A new file gets mode 0666 less the umask; a
// replaced one keeps its permissions. If path is a symbolic link, the link is replaced and the file it points to is left alone.
func Write(path string, write func(w io.Writer) error) (err error) {
	if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
		return fmt.Errorf("write %s: it is a folder; remove it or choose another file name", path)
	}
	f, err := createTemp(path)
	if err != nil {
		return err
	}
	tmp := f.Name()
	renamed := false
	defer func() {
		if !renamed { // also when write panics
			_ = f.Close()
			_ = os.Remove(tmp)
		}
	}()

	buffered := bufio.NewWriterSize(f, writeBuffer)
	if err := write(buffered); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("write %s: %w", path, withoutTemp(err))
	}
	if err := keepMode(f, path); err != nil {
		return fmt.Errorf("write %s: keep its permissions: %w", path, withoutTemp(err))
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: flush to disk: %w", path, withoutTemp(err))
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, withoutTemp(err))
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write %s: move the finished file into place: %w", path, withoutTemp(err))
	}
	renamed = true
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("write %s: flush its folder to disk: %w", path, err)
	}
	return nil
}

// WriteBytes creates or replaces the file path with data, as [Write] does.
func WriteBytes(path string, data []byte) error {
	return Write(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// createTemp opens a new file beside path. os.CreateTemp would give it mode 0600, which a shared model folder cannot use.
func createTemp(path string) (*os.File, error) {
	for range maxAttempts {
		f, err := os.OpenFile(tempName(path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, createError(path, err)
		}
		return f, nil
	}
	return nil, fmt.Errorf("write %s: no free temporary name in %s; remove old .*.tmp-* files there", path, filepath.Dir(path))
}

// keepMode gives the temporary file the permissions of the regular file that it is about to replace.
func keepMode(f *os.File, path string) error {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return nil // a new file, or a broken link: the umask decides
	}
	return f.Chmod(info.Mode().Perm())
}
