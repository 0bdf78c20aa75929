//go:build !unix

package mapfile

import (
	"io"
	"os"
)

func open(f *os.File, size int) (*File, error) {
	bytes := make([]byte, size)
	_, err := io.ReadFull(f, bytes)
	return &File{bytes, false}, err
}

func unmap([]byte) error { return nil }
