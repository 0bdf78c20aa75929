// Package offheap is memory outside the garbage collector's heap, for buffers of the size of a model's embedding.
//
// On the heap, such a buffer would let garbage grow to its own size before it is collected, and once unused it would
// stay with the process for minutes. Here it comes from the system and goes back at once. It is for bytes that live as
// long as a load or a model, not for small or short-lived ones. Start at [Alloc].
package offheap

import "fmt"

// Memory is a stretch of memory. The zero value is empty.
type Memory struct{ bytes []byte }

// Alloc returns n zero bytes, aligned to at least 8. [Memory.Free] gives them back.
func Alloc(n int) (*Memory, error) {
	m := &Memory{}
	return m, m.Resize(n)
}

// Bytes are the memory; they are invalid after Free and Resize.
func (m *Memory) Bytes() []byte { return m.bytes }

// Resize makes m hold at least n bytes. What it held is kept only if it is large enough already.
func (m *Memory) Resize(n int) error {
	if n <= len(m.bytes) {
		return nil
	}
	if err := m.Free(); err != nil {
		return err
	}
	bytes, err := alloc(n)
	if err != nil {
		return fmt.Errorf("%d bytes of host memory: %w", n, err)
	}
	m.bytes = bytes
	return nil
}

// Free gives the memory back: reading what Bytes returned then ends the process. It may be called again, and on nil.
func (m *Memory) Free() error {
	if m == nil || m.bytes == nil {
		return nil
	}
	bytes := m.bytes
	m.bytes = nil
	return free(bytes)
}
