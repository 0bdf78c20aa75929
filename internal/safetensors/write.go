package safetensors

import (
	"cmp"
	"encoding/binary"
	"encoding/json/jsontext"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/loris-ml/loris/internal/atomicfile"
)

// Tensor is a tensor to be written; Data are its elements, row-major and little endian.
type Tensor struct {
	Name, DType string
	Shape       []int
	Data        []byte
}

// Source is a tensor to be written whose data are made, or read, only when their turn comes.
type Source struct {
	Name, DType string
	Shape       []int
	// Data returns the elements as [Tensor] has them. It is called once; the bytes are not kept after they are written,
	// so one buffer may serve all tensors.
	Data func() ([]byte, error)
}

// Write creates or replaces a file with tensors and metadata, whose bytes are those that the Python library writes. nil
// metadata leave __metadata__ out; several keys are written in order (the library's order of them is random).
//
// The file appears when it is whole. Unfitting data, unknown dtypes and double names are errors that name the tensor.
func Write(path string, tensors []Tensor, metadata map[string]string) error {
	sources := make([]Source, len(tensors))
	for i, t := range tensors {
		sources[i] = Source{Name: t.Name, DType: t.DType, Shape: t.Shape, Data: func() ([]byte, error) { return t.Data, nil }}
	}
	return WriteSources(path, sources, metadata)
}

// WriteSources is [Write] for tensors that do not fit into memory together: it holds one of them at a time.
func WriteSources(path string, tensors []Source, metadata map[string]string) error {
	parts, err := planParts(tensors)
	if err != nil {
		return fmt.Errorf("write safetensors file %s: %w", path, err)
	}
	return writeFile(path, parts, metadata)
}

// part is a tensor with its size in bytes.
type part struct {
	Source
	size int64
}

func planParts(tensors []Source) ([]part, error) {
	parts := make([]part, len(tensors))
	seen := make(map[string]bool, len(tensors))
	for i, t := range tensors {
		if t.Name == metadataKey {
			return nil, fmt.Errorf("tensor name %q is reserved; choose another", t.Name)
		}
		if seen[t.Name] {
			return nil, fmt.Errorf("tensor %q is there twice", t.Name)
		}
		seen[t.Name] = true
		size, err := byteSize(t.DType, t.Shape)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		parts[i] = part{t, size}
	}
	return parts, nil
}

func writeFile(path string, parts []part, metadata map[string]string) error {
	parts = slices.Clone(parts)
	slices.SortFunc(parts, func(a, b part) int {
		return cmp.Or(cmp.Compare(rank(b.DType), rank(a.DType)), strings.Compare(a.Name, b.Name))
	})
	head, err := appendHeader(make([]byte, lengthBytes), parts, metadata)
	if err != nil {
		return fmt.Errorf("write safetensors file %s: %w", path, err)
	}
	for len(head)%8 != 0 {
		head = append(head, ' ')
	}
	n := len(head) - lengthBytes
	if n > maxHeader {
		return fmt.Errorf("write safetensors file %s: the header has %d bytes, the format allows %d; write fewer tensors into one file", path, n, maxHeader)
	}
	binary.LittleEndian.PutUint64(head, uint64(n))
	return atomicfile.Write(path, func(w io.Writer) error {
		if _, err := w.Write(head); err != nil {
			return err
		}
		for _, p := range parts {
			if err := p.writeTo(w); err != nil {
				return fmt.Errorf("tensor %q: %w", p.Name, err)
			}
		}
		return nil
	})
}

func (p part) writeTo(w io.Writer) error {
	data, err := p.Data()
	if err != nil {
		return err
	}
	if int64(len(data)) != p.size {
		return fmt.Errorf("%d bytes of data, but shape %v of %s takes %d", len(data), p.Shape, p.DType, p.size)
	}
	_, err = w.Write(data)
	return err
}

// appendHeader appends the JSON text as the library's serializer writes it: no spaces, __metadata__ first.
func appendHeader(b []byte, parts []part, metadata map[string]string) ([]byte, error) {
	var err error
	b = append(b, '{')
	if metadata != nil {
		b = append(b, `"`+metadataKey+`":{`...)
		for _, key := range slices.Sorted(maps.Keys(metadata)) {
			if b, err = appendMember(b, key); err != nil {
				return nil, fmt.Errorf("metadata key %q: %w", key, err)
			}
			if b, err = jsontext.AppendQuote(b, metadata[key]); err != nil {
				return nil, fmt.Errorf("metadata value of %q: %w", key, err)
			}
		}
		b = append(b, '}')
	}
	offset := int64(0)
	for _, p := range parts {
		if b, err = appendMember(b, p.Name); err != nil {
			return nil, fmt.Errorf("tensor name %q: %w", p.Name, err)
		}
		b = append(b, `{"dtype":"`+p.DType+`","shape":[`...)
		for i, d := range p.Shape {
			if i > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, int64(d), 10)
		}
		b = append(b, `],"data_offsets":[`...)
		b = strconv.AppendInt(b, offset, 10)
		offset += p.size
		b = append(b, ',')
		b = strconv.AppendInt(b, offset, 10)
		b = append(b, `]}`...)
	}
	return append(b, '}'), nil
}

// appendMember appends a member's name, with the comma that parts it from the one before.
func appendMember(b []byte, name string) ([]byte, error) {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b, err := jsontext.AppendQuote(b, name)
	return append(b, ':'), err
}
