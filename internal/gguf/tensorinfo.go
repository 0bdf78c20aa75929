package gguf

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

const (
	// defaultAlignment holds where the metadata has no general.alignment.
	defaultAlignment = 32
	maxAlignment     = 1 << 30
	// maxDims is ggml's limit.
	maxDims = 4
	// minTensor is the size of the description of a tensor without name and dimensions.
	minTensor = minString + 4 + 4 + 8
)

// TensorInfo describes a tensor in the file.
type TensorInfo struct {
	Name string
	// Shape is row-major, outermost dimension first: [out, in] for a linear's weight. GGUF stores it the other way round.
	Shape []int
	Type  Type
	// Offset is where the data start, in bytes from the start of the file.
	Offset int64
	// Size is the length of the data in bytes; -1 where Type is unknown or removed from ggml.
	Size int64
}

func (t TensorInfo) elements() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

func (f *File) alignment() (uint64, error) {
	const key = "general.alignment"
	value, ok := f.metadata.Value(key)
	if !ok {
		return defaultAlignment, nil
	}
	a, ok := f.metadata.Uint(key)
	if !ok || a == 0 || a > maxAlignment || a&(a-1) != 0 {
		return 0, fmt.Errorf("metadata key %q is %v; it must be a power of two", key, value)
	}
	return a, nil
}

// readTensors reads the descriptions of all tensors and checks that their data lie apart from each other in the file.
func readTensors(r *reader, count, alignment uint64) ([]TensorInfo, error) {
	if err := r.need(count, minTensor, "tensor count"); err != nil {
		return nil, err
	}
	infos := make([]TensorInfo, 0, min(count, maxAhead))
	seen := map[string]bool{}
	for i := range count {
		info, err := readTensor(r)
		if err != nil {
			return nil, fmt.Errorf("tensor %d of %d: %w", i+1, count, err)
		}
		if seen[info.Name] {
			return nil, fmt.Errorf("tensor %q appears twice", info.Name)
		}
		seen[info.Name] = true
		infos = append(infos, info)
	}
	if len(infos) == 0 {
		return nil, nil // a vocabulary may end before the padding
	}
	start := (uint64(r.pos) + alignment - 1) / alignment * alignment
	return infos, place(infos, start, alignment, uint64(r.size))
}

// readTensor reads one description; Offset is still relative to the data section.
func readTensor(r *reader) (TensorInfo, error) {
	name, err := r.str("the name")
	if err != nil {
		return TensorInfo{}, err
	}
	fail := func(err error) (TensorInfo, error) { return TensorInfo{}, fmt.Errorf("%q: %w", name, err) }
	dims, err := r.u32("number of dimensions")
	if err != nil {
		return fail(err)
	}
	if dims > maxDims {
		return fail(fmt.Errorf("%d dimensions, GGUF allows %d", dims, maxDims))
	}
	stored, err := numbers[uint64](r, uint64(dims), "dimensions")
	if err != nil {
		return fail(err)
	}
	t, err := r.u32("type")
	if err != nil {
		return fail(err)
	}
	offset, err := r.u64("offset")
	if err != nil {
		return fail(err)
	}
	if offset > math.MaxInt64 {
		return fail(fmt.Errorf("offset %d reaches beyond the file's %d bytes", offset, r.size))
	}
	info := TensorInfo{Name: name, Type: Type(t), Offset: int64(offset)}
	if info.Shape, info.Size, err = shapeAndSize(stored, info.Type); err != nil {
		return fail(err)
	}
	return info, nil
}

// shapeAndSize turns the stored dimensions, innermost first, into a shape and the bytes that it takes.
func shapeAndSize(stored []uint64, t Type) (shape []int, size int64, err error) {
	elements := uint64(1)
	for _, d := range slices.Backward(stored) {
		hi, lo := bits.Mul64(elements, d)
		if hi != 0 || lo > math.MaxInt || d > math.MaxInt {
			return nil, 0, fmt.Errorf("shape %v (innermost first) has too many elements", stored)
		}
		elements = lo
		shape = append(shape, int(d))
	}
	l := layouts[t]
	if l.elements == 0 {
		return shape, -1, nil
	}
	innermost := uint64(1)
	if len(stored) > 0 {
		innermost = stored[0]
	}
	if innermost%uint64(l.elements) != 0 {
		return nil, 0, fmt.Errorf("rows of %d elements are no multiple of the %d in a block of type %s", innermost, l.elements, t)
	}
	hi, lo := bits.Mul64(elements/uint64(l.elements), uint64(l.bytes))
	if hi != 0 || lo > math.MaxInt {
		return nil, 0, fmt.Errorf("shape %v (innermost first) of type %s has too many bytes", stored, t)
	}
	return shape, int64(lo), nil
}

// place makes the offsets absolute and checks them: aligned, inside the file, no two tensors in one place.
func place(infos []TensorInfo, start, alignment, fileSize uint64) error {
	for i := range infos {
		t := &infos[i]
		offset := uint64(t.Offset)
		if offset%alignment != 0 {
			return fmt.Errorf("tensor %q: offset %d is no multiple of the alignment %d", t.Name, offset, alignment)
		}
		size := uint64(max(t.Size, 0))
		if start > fileSize || offset > fileSize-start || size > fileSize-start-offset {
			return fmt.Errorf("tensor %q: its %d bytes at offset %d reach beyond the file's %d bytes", t.Name, size, start+offset, fileSize)
		}
		t.Offset = int64(start + offset)
	}
	sorted := slices.SortedFunc(slices.Values(infos), func(a, b TensorInfo) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Size, b.Size))
	})
	for i, t := range sorted[1:] {
		if before := sorted[i]; before.Offset+before.Size > t.Offset {
			return fmt.Errorf("tensors %q (%d bytes at offset %d) and %q (offset %d) overlap", before.Name, before.Size, before.Offset, t.Name, t.Offset)
		}
	}
	return nil
}
