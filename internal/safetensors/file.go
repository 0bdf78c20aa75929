package safetensors

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/loris-ml/loris/internal/fileerror"
	"github.com/loris-ml/loris/internal/safetensors/floats"
)

// File is an open safetensors file. Its methods may be called from several goroutines.
type File struct {
	path   string
	header *header
	byName map[string]int

	data    io.ReaderAt
	closer  io.Closer
	buffers sync.Pool // *[convertBuffer]byte
}

// Open reads the header of a safetensors file and checks it against the file's size. Tensor data stay on the disk.
//
// A file that is truncated, has holes, overlapping or misfitting tensors, an unknown dtype or a name twice is an error
// that names the file, the tensor and the numbers.
func Open(path string) (*File, error) {
	osFile, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open safetensors file: %w", err)
	}
	f, err := openFile(path, osFile)
	if err != nil {
		_ = osFile.Close()
		return nil, err
	}
	return f, nil
}

func openFile(path string, osFile *os.File) (*File, error) {
	info, err := osFile.Stat()
	if err != nil {
		return nil, fmt.Errorf("open safetensors file %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open safetensors file %s: it is not a regular file", path)
	}
	f, err := parse(path, osFile, info.Size())
	if err != nil {
		return nil, err
	}
	f.closer = osFile
	return f, nil
}

// parse reads the header of the size bytes of data; path is for errors only, which are of the type [fileerror.Error].
func parse(path string, data io.ReaderAt, size int64) (*File, error) {
	h, err := readHeader(data, size)
	if _, foreign := errors.AsType[*foreignError](err); foreign {
		return nil, &fileerror.Error{Path: path, Err: fmt.Errorf("read safetensors file %s: %w", path, err)}
	}
	if err != nil {
		return nil, &fileerror.Error{Path: path, Err: fmt.Errorf("read safetensors file %s: %w; fetch or write the file again", path, err)}
	}
	f := &File{path: path, header: h, byName: make(map[string]int, len(h.infos)), data: data}
	for i := range h.infos {
		h.infos[i].Path = path
		f.byName[h.infos[i].Name] = i
	}
	return f, nil
}

// Path returns the path that the file was opened with.
func (f *File) Path() string { return f.path }

// Metadata returns a copy of the file's __metadata__, nil where it has none.
func (f *File) Metadata() map[string]string { return maps.Clone(f.header.metadata) }

// Names returns the names of all tensors in the order of their data.
func (f *File) Names() []string {
	names := make([]string, len(f.header.infos))
	for i, info := range f.header.infos {
		names[i] = info.Name
	}
	return names
}

// Info returns the description of a tensor, false where the file has none of that name.
func (f *File) Info(name string) (Info, bool) {
	i, ok := f.byName[name]
	if !ok {
		return Info{}, false
	}
	info := f.header.infos[i]
	info.Shape = slices.Clone(info.Shape)
	return info, true
}

// Read returns the stored bytes of a tensor.
func (f *File) Read(name string) ([]byte, error) {
	info, err := f.find(name)
	if err != nil {
		return nil, err
	}
	raw := make([]byte, info.Size)
	return raw, f.readAt(info, raw, 0)
}

// ReadRange returns n stored bytes of a tensor from byteOffset on, for tensors that are worked on piece by piece.
func (f *File) ReadRange(name string, byteOffset, n int64) ([]byte, error) {
	info, err := f.find(name)
	if err != nil {
		return nil, err
	}
	if byteOffset < 0 || n < 0 || byteOffset > info.Size || n > info.Size-byteOffset {
		return nil, fmt.Errorf("safetensors file %s: tensor %q has %d bytes; %d from offset %d on are not in it", f.path, name, info.Size, n, byteOffset)
	}
	raw := make([]byte, n)
	return raw, f.readAt(info, raw, byteOffset)
}

// ReadInto fills dst with the stored bytes of a tensor from byteOffset on, so that one buffer serves many reads.
func (f *File) ReadInto(dst []byte, name string, byteOffset int64) error {
	info, err := f.find(name)
	if err != nil {
		return err
	}
	if byteOffset < 0 || byteOffset > info.Size || int64(len(dst)) > info.Size-byteOffset {
		return fmt.Errorf("safetensors file %s: tensor %q has %d bytes; %d from offset %d on are not in it", f.path, name, info.Size, len(dst), byteOffset)
	}
	return f.readAt(info, dst, byteOffset)
}

// Float32 returns the elements of a tensor of dtype F64, F32, F16 or BF16 as float32; other dtypes are an error.
func (f *File) Float32(name string) ([]float32, error) {
	info, err := f.find(name)
	if err != nil {
		return nil, err
	}
	if _, ok := floats.Size(info.DType); !ok {
		return nil, f.notFloat(info)
	}
	values := make([]float32, info.Elements())
	return values, f.ReadFloat32(values, name, 0)
}

// ReadFloat32 fills dst with the elements of a tensor from element at on, as [File.Float32] returns them, so that a tensor
// can be converted piece by piece.
func (f *File) ReadFloat32(dst []float32, name string, at int) error {
	info, err := f.find(name)
	if err != nil {
		return err
	}
	size, ok := floats.Size(info.DType)
	if !ok {
		return f.notFloat(info)
	}
	if n := info.Elements(); at < 0 || at > n || len(dst) > n-at {
		return fmt.Errorf("safetensors file %s: tensor %q has %d elements; %d from element %d on are not in it", f.path, name, n, len(dst), at)
	}
	if b, ok := floats.Bytes(dst); ok && info.DType == "F32" {
		return f.readAt(info, b, int64(at)*4)
	}
	// A buffer of some hundred KiB stays in the processor's cache between reading and converting.
	buf, _ := f.buffers.Get().(*[convertBuffer]byte)
	if buf == nil {
		buf = new([convertBuffer]byte)
	}
	defer f.buffers.Put(buf)
	for len(dst) > 0 {
		n := min(len(dst), convertBuffer/size)
		raw := buf[:n*size]
		if err := f.readAt(info, raw, int64(at)*int64(size)); err != nil {
			return err
		}
		if err := floats.Decode(dst[:n], info.DType, raw); err != nil {
			return fmt.Errorf("safetensors file %s: tensor %q: %w", f.path, name, err)
		}
		dst, at = dst[n:], at+n
	}
	return nil
}

func (f *File) notFloat(info Info) error {
	return fmt.Errorf("safetensors file %s: tensor %q has dtype %s; F64, F32, F16 and BF16 convert to float32", f.path, info.Name, info.DType)
}

// convertBuffer is a multiple of every element size.
const convertBuffer = 512 << 10

func (f *File) find(name string) (Info, error) {
	i, ok := f.byName[name]
	if !ok {
		return Info{}, fmt.Errorf("safetensors file %s has no tensor %q", f.path, name)
	}
	return f.header.infos[i], nil
}

func (f *File) readAt(info Info, dst []byte, byteOffset int64) error {
	if n, err := f.data.ReadAt(dst, info.Offset+byteOffset); n < len(dst) {
		return fmt.Errorf("safetensors file %s: tensor %q: read %d of %d bytes at offset %d: %w",
			f.path, info.Name, n, len(dst), info.Offset+byteOffset, err)
	}
	return nil
}

// Close closes the file.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}
