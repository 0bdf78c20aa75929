package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

const (
	// lengthBytes is the length of the header, little endian, at the start of a file.
	lengthBytes = 8
	// maxHeader is the library's limit.
	maxHeader = 100_000_000

	metadataKey = "__metadata__"
)

// header is the JSON part of a file. infos are in the order of their data.
type header struct {
	metadata map[string]string
	infos    []Info
}

// readHeader reads and checks the header of a file of size bytes: its data must be exactly the tensors, without holes.
func readHeader(r io.ReaderAt, size int64) (*header, error) {
	if size < lengthBytes {
		return nil, fmt.Errorf("it has %d bytes, less than the %d of the header's length", size, lengthBytes)
	}
	start := make([]byte, min(size, 64))
	if _, err := r.ReadAt(start, 0); err != nil && err != io.EOF {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(start)
	if err := checkLength(start, n, size); err != nil {
		return nil, err
	}
	text := make([]byte, n)
	if _, err := r.ReadAt(text, lengthBytes); err != nil && err != io.EOF {
		return nil, fmt.Errorf("header: %w", err)
	}
	h, err := parseHeader(text)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	return h, h.place(lengthBytes+int64(n), size)
}

// foreignError marks files of another kind; it says itself what to do.
type foreignError struct{ message string }

func (e *foreignError) Error() string { return e.message }

func checkLength(start []byte, n uint64, size int64) error {
	fits := n <= uint64(size-lengthBytes)
	switch {
	case fits && n <= maxHeader:
		return nil // before anything else: a length may look like the start of another format
	case bytes.HasPrefix(start, []byte("version https://git-lfs")):
		return &foreignError{"it is a Git LFS pointer, not the weights; run git lfs pull, or download the file itself"}
	case bytes.HasPrefix(start, []byte("PK\x03\x04")) || bytes.HasPrefix(start, []byte("\x80\x02\x8a\x0a")):
		return &foreignError{"it is a PyTorch pickle; load it with torch and save it with safetensors.torch.save_file"}
	case n > maxHeader:
		return fmt.Errorf("header length %d is above the format's limit of %d: this is no safetensors file, or it is damaged", n, maxHeader)
	}
	return fmt.Errorf("header of %d bytes reaches beyond the file's %d bytes: the file is truncated", n, size)
}

// entry is the JSON object of one tensor; pointers tell absent fields from empty ones.
type entry struct {
	DType       *string    `json:"dtype"`
	Shape       *[]natural `json:"shape"`
	DataOffsets []natural  `json:"data_offsets"`
}

// natural is a JSON number that is a whole, non-negative int64.
type natural int64

// UnmarshalJSON refuses what a plain int64 would let pass: null and negative numbers.
func (n *natural) UnmarshalJSON(text []byte) error {
	v, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || v < 0 {
		return fmt.Errorf("%s is no non-negative integer", text)
	}
	*n = natural(v)
	return nil
}

// parseHeader reads the JSON text. The decoder refuses duplicate names and invalid UTF-8.
func parseHeader(text []byte) (*header, error) {
	h := &header{}
	err := decodeObject(text, func(name string, value jsontext.Value) error {
		if name == metadataKey {
			if err := json.Unmarshal(value, &h.metadata); err != nil {
				return fmt.Errorf("%s must be an object of strings: %w", metadataKey, err)
			}
			return nil
		}
		info, err := parseEntry(name, value)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		h.infos = append(h.infos, info)
		return nil
	})
	return h, err
}

// decodeObject calls member for each member of the JSON object that text must be, white space around it allowed.
func decodeObject(text []byte, member func(name string, value jsontext.Value) error) error {
	d := jsontext.NewDecoder(bytes.NewBuffer(text))
	if d.PeekKind() != '{' {
		return errors.New("it does not start with a JSON object")
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() == '"' {
		token, err := d.ReadToken()
		if err != nil {
			return err
		}
		name := token.String()
		value, err := d.ReadValue()
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		if err := member(name, value); err != nil {
			return err
		}
	}
	if _, err := d.ReadToken(); err != nil { // the closing brace, or what is wrong in its place
		return err
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return errors.New("something follows the JSON object")
	}
	return nil
}

// parseEntry reads one tensor; Offset is still relative to the data section.
func parseEntry(name string, value jsontext.Value) (Info, error) {
	var e entry
	if err := json.Unmarshal(value, &e); err != nil {
		return Info{}, err
	}
	switch {
	case e.DType == nil:
		return Info{}, errors.New("dtype is missing")
	case e.Shape == nil:
		return Info{}, errors.New("shape is missing")
	case len(e.DataOffsets) != 2:
		return Info{}, errors.New("data_offsets is missing or not a pair [begin, end]")
	}
	info := Info{Name: name, DType: *e.DType, Shape: make([]int, len(*e.Shape))}
	for i, d := range *e.Shape {
		info.Shape[i] = int(d)
	}
	size, err := byteSize(info.DType, info.Shape)
	if err != nil {
		return Info{}, err
	}
	begin, end := int64(e.DataOffsets[0]), int64(e.DataOffsets[1])
	if end-begin != size {
		return Info{}, fmt.Errorf("data_offsets [%d, %d] span %d bytes, but shape %v of %s takes %d",
			begin, end, end-begin, info.Shape, info.DType, size)
	}
	info.Offset, info.Size = begin, size
	return info, nil
}

// place sorts the tensors by their data, checks that these fill the file from start to its end, and makes offsets absolute.
func (h *header) place(start, fileSize int64) error {
	slices.SortStableFunc(h.infos, func(a, b Info) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Size, b.Size), strings.Compare(a.Name, b.Name))
	})
	dataSize := fileSize - start
	end, last := int64(0), "the header"
	for i := range h.infos {
		t := &h.infos[i]
		switch {
		case t.Offset+t.Size > dataSize: // no overflow: both ends were read as int64
			return fmt.Errorf("tensor %q: data_offsets [%d, %d] reach beyond the %d bytes of data in a file of %d bytes: the file is truncated or damaged",
				t.Name, t.Offset, t.Offset+t.Size, dataSize, fileSize)
		case t.Offset < end:
			return fmt.Errorf("tensors %s and %q overlap: the first ends at %d, the second begins at %d", last, t.Name, end, t.Offset)
		case t.Offset > end:
			return fmt.Errorf("tensor %q begins at %d, but %s ends at %d: there is a hole of %d bytes", t.Name, t.Offset, last, end, t.Offset-end)
		}
		end, last = t.Offset+t.Size, fmt.Sprintf("%q", t.Name)
		t.Offset += start
	}
	if end != dataSize {
		return fmt.Errorf("%d bytes follow the last tensor", dataSize-end)
	}
	return nil
}
