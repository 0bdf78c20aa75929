package gguf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/loris-ml/loris/internal/fileerror"
	"github.com/loris-ml/loris/internal/safetensors/floats"
)

// File is an open GGUF file. Its methods may be called from several goroutines.
type File struct {
	path     string
	version  uint32
	metadata Metadata
	tensors  []TensorInfo
	byName   map[string]int

	data    io.ReaderAt
	closer  io.Closer
	buffers sync.Pool // *[decodeBuffer]byte
}

// Open reads and checks the header of a GGUF file. Tensor data stay on the disk until they are asked for.
//
// An error names the file and what is wrong in it: a file that is no GGUF, or of a version other than 2 and 3, or cut off
// or damaged anywhere before the end of its last tensor. Tensors of types that [File.Float32] cannot decode are no error here.
func Open(path string) (*File, error) {
	osFile, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open GGUF file: %w", err)
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
		return nil, fmt.Errorf("open GGUF file %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open GGUF file %s: it is not a regular file; give the path of the .gguf file itself", path)
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
	f := &File{path: path, data: data}
	if err := f.readHeader(newReader(data, size)); err != nil {
		if _, ok := errors.AsType[*unsupportedError](err); ok {
			return nil, &fileerror.Error{Path: path, Err: fmt.Errorf("read GGUF file %s: %w", path, err)}
		}
		return nil, &fileerror.Error{Path: path, Err: fmt.Errorf("read GGUF file %s: %w; the file is truncated or damaged: fetch it again", path, err)}
	}
	f.byName = make(map[string]int, len(f.tensors))
	for i, t := range f.tensors {
		f.byName[t.Name] = i
	}
	return f, nil
}

// unsupportedError marks files that are whole, but not for this reader; it says itself what to do.
type unsupportedError struct{ message string }

func (e *unsupportedError) Error() string { return e.message }

func unsupported(format string, args ...any) error {
	return &unsupportedError{fmt.Sprintf(format, args...)}
}

func (f *File) readHeader(r *reader) error {
	if err := checkMagic(r); err != nil {
		return err
	}
	var err error
	if f.version, err = r.u32("version"); err != nil {
		return err
	}
	if err := checkVersion(f.version); err != nil {
		return err
	}
	tensorCount, err := r.u64("tensor count")
	if err != nil {
		return err
	}
	pairCount, err := r.u64("metadata count")
	if err != nil {
		return err
	}
	if f.metadata, err = readMetadata(r, pairCount); err != nil {
		return err
	}
	if n, ok := f.metadata.Uint("split.count"); ok && n > 1 {
		return unsupported("the model is split into %d files; merge them first with llama-gguf-split --merge", n)
	}
	alignment, err := f.alignment()
	if err != nil {
		return err
	}
	f.tensors, err = readTensors(r, tensorCount, alignment)
	return err
}

// checkMagic reads the first four bytes and says what else a file may be that does not start with GGUF.
func checkMagic(r *reader) error {
	start, err := r.r.Peek(int(min(r.left(), 64)))
	if err != nil {
		return err
	}
	switch {
	case bytes.HasPrefix(start, []byte("GGUF")):
		_, err := r.bytes(4, "magic")
		return err
	case bytes.HasPrefix(start, []byte("version https://git-lfs")):
		return unsupported("it is a Git LFS pointer, not the model; run git lfs pull, or download the file itself")
	}
	return unsupported("it starts with %q, not with \"GGUF\"; give a .gguf file, or convert the model with llama.cpp's convert_hf_to_gguf.py",
		start[:min(len(start), 4)])
}

func checkVersion(version uint32) error {
	switch {
	case version == 2 || version == 3:
		return nil
	case version&0xffff == 0 && version != 0:
		return unsupported("it is big endian; convert it with gguf-convert-endian (of the Python package gguf)")
	}
	return unsupported("GGUF version %d is not supported, 2 and 3 are; convert the model again with a current llama.cpp", version)
}

// Metadata returns the key-value pairs.
func (f *File) Metadata() Metadata { return f.metadata }

// Version returns the version of the format, 2 or 3.
func (f *File) Version() int { return int(f.version) }

// Path returns the path that the file was opened with.
func (f *File) Path() string { return f.path }

// Tensors returns what the file says of its tensors, in file order.
func (f *File) Tensors() []TensorInfo {
	infos := slices.Clone(f.tensors)
	for i := range infos {
		infos[i].Shape = slices.Clone(infos[i].Shape)
	}
	return infos
}

// Tensor returns what the file says of one tensor.
func (f *File) Tensor(name string) (TensorInfo, bool) {
	i, ok := f.byName[name]
	if !ok {
		return TensorInfo{}, false
	}
	info := f.tensors[i]
	info.Shape = slices.Clone(info.Shape)
	return info, true
}

// Read returns the stored bytes of a tensor.
func (f *File) Read(name string) ([]byte, error) {
	t, err := f.find(name)
	if err != nil {
		return nil, err
	}
	if t.Size < 0 {
		return nil, f.noSize(t)
	}
	raw := make([]byte, t.Size)
	return raw, f.readAt(t, raw, 0)
}

// ReadInto fills dst with the stored bytes of a tensor from byteOffset on, so that one buffer serves many reads.
func (f *File) ReadInto(dst []byte, name string, byteOffset int64) error {
	t, err := f.find(name)
	if err != nil {
		return err
	}
	if t.Size < 0 {
		return f.noSize(t)
	}
	if byteOffset < 0 || byteOffset > t.Size || int64(len(dst)) > t.Size-byteOffset {
		return fmt.Errorf("GGUF file %s: tensor %q has %d bytes; %d from offset %d on are not in it", f.path, name, t.Size, len(dst), byteOffset)
	}
	return f.readAt(t, dst, byteOffset)
}

// Float32 returns the values of a tensor, rows first as [TensorInfo] has its shape, bit for bit as ggml decodes them.
// A tensor of an unsupported type is an error that names it and its type.
func (f *File) Float32(name string) ([]float32, error) {
	t, err := f.find(name)
	if err != nil {
		return nil, err
	}
	if !t.Type.decodable() {
		return nil, f.notDecodable(t)
	}
	values := make([]float32, t.elements())
	return values, f.ReadFloat32(values, name, 0)
}

// ReadFloat32 fills dst with the values of a tensor from value at on, as [File.Float32] returns them, so that a tensor can
// be decoded piece by piece. A piece of a quantized tensor begins and ends at blocks of its type, as whole rows do.
func (f *File) ReadFloat32(dst []float32, name string, at int) error {
	t, err := f.find(name)
	if err != nil {
		return err
	}
	if !t.Type.decodable() {
		return f.notDecodable(t)
	}
	l, n := layouts[t.Type], t.elements()
	if at < 0 || at > n || len(dst) > n-at || at%l.elements != 0 || len(dst)%l.elements != 0 {
		return fmt.Errorf("GGUF file %s: tensor %q has %d values in blocks of %d; %d from value %d on are no blocks of it", f.path, name, n, l.elements, len(dst), at)
	}
	if b, ok := floats.Bytes(dst); ok && t.Type == F32 {
		return f.readAt(t, b, int64(at)*4)
	}
	buf, _ := f.buffers.Get().(*[decodeBuffer]byte)
	if buf == nil {
		buf = new([decodeBuffer]byte)
	}
	defer f.buffers.Put(buf)
	for len(dst) > 0 {
		blocks := min(len(dst)/l.elements, decodeBuffer/l.bytes)
		raw, values := buf[:blocks*l.bytes], dst[:blocks*l.elements]
		if err := f.readAt(t, raw, int64(at/l.elements)*int64(l.bytes)); err != nil {
			return err
		}
		if err := decode(values, t.Type, raw); err != nil {
			return fmt.Errorf("GGUF file %s: tensor %q: %w", f.path, name, err)
		}
		dst, at = dst[len(values):], at+len(values)
	}
	return nil
}

// decodeBuffer is what is read before it is decoded; it stays in the processor's cache meanwhile.
const decodeBuffer = 512 << 10

func (f *File) find(name string) (TensorInfo, error) {
	i, ok := f.byName[name]
	if !ok {
		return TensorInfo{}, fmt.Errorf("GGUF file %s has no tensor %q", f.path, name)
	}
	return f.tensors[i], nil
}

func (f *File) noSize(t TensorInfo) error {
	return fmt.Errorf("GGUF file %s: tensor %q has %s, whose size is not known; use a file of another type", f.path, t.Name, t.Type)
}

func (f *File) notDecodable(t TensorInfo) error {
	return fmt.Errorf("GGUF file %s: tensor %q: %w", f.path, t.Name, unsupportedType(t.Type))
}

func (f *File) readAt(t TensorInfo, dst []byte, byteOffset int64) error {
	if n, err := f.data.ReadAt(dst, t.Offset+byteOffset); n < len(dst) {
		return fmt.Errorf("GGUF file %s: tensor %q: read %d of %d bytes at offset %d: %w", f.path, t.Name, n, len(dst), t.Offset+byteOffset, err)
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
