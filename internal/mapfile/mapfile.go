// Package mapfile reads files through the memory that the operating system maps them into, so that a file larger than the
// memory can be used as a slice. It is for files that nobody changes while they are open.
package mapfile

import (
	"errors"
	"fmt"
	"os"
)

// File is the content of a file.
type File struct {
	bytes  []byte
	mapped bool
}

// Open maps a file, or reads it where files cannot be mapped.
func Open(path string) (file *File, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := int(info.Size())
	if int64(size) != info.Size() {
		return nil, fmt.Errorf("%s has %d bytes, more than can be addressed", path, info.Size())
	}
	if size == 0 {
		return &File{}, nil
	}
	return open(f, size)
}

// Bytes returns the content. It must not be changed, nor used after Close.
func (f *File) Bytes() []byte { return f.bytes }

// Close lets the memory go. Closing again does nothing.
func (f *File) Close() error {
	bytes, mapped := f.bytes, f.mapped
	f.bytes, f.mapped = nil, false
	if !mapped {
		return nil
	}
	return unmap(bytes)
}
