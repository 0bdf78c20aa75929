//go:build unix

package mapfile

import (
	"os"
	"syscall"
)

func open(f *os.File, size int) (*File, error) {
	bytes, err := syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, &os.PathError{Op: "mmap", Path: f.Name(), Err: err}
	}
	return &File{bytes, true}, nil
}

func unmap(bytes []byte) error { return syscall.Munmap(bytes) }
