package gguf

import (
	"bytes"
	"encoding/binary"
)

// builder writes GGUF files for tests, wrong ones too: nothing is checked.
type builder struct {
	version        uint32
	pairs, tensors []byte
	pairCount      uint64
	tensorCount    uint64
	alignment      int
	data           []byte
}

func newBuilder() *builder { return &builder{version: 3, alignment: 32} }

func le(b []byte, values ...any) []byte {
	for _, v := range values {
		switch v := v.(type) {
		case string:
			b = append(binary.LittleEndian.AppendUint64(b, uint64(len(v))), v...)
		default:
			var err error
			if b, err = binary.Append(b, binary.LittleEndian, v); err != nil {
				panic(err)
			}
		}
	}
	return b
}

// pair adds a metadata value: its type and whatever follows that.
func (b *builder) pair(key string, valueType uint32, rest ...any) *builder {
	b.pairs = le(le(b.pairs, key, valueType), rest...)
	b.pairCount++
	return b
}

// tensor adds a description; dims are innermost first, as in the file.
func (b *builder) tensor(name string, t Type, offset uint64, dims ...uint64) *builder {
	b.tensors = le(b.tensors, name, uint32(len(dims)), dims, uint32(t), offset)
	b.tensorCount++
	return b
}

func (b *builder) payload(n int) *builder {
	b.data = make([]byte, n)
	return b
}

func (b *builder) bytes() []byte {
	out := le([]byte("GGUF"), b.version, b.tensorCount, b.pairCount, b.pairs, b.tensors)
	if b.data == nil {
		return out
	}
	for len(out)%b.alignment != 0 {
		out = append(out, 0)
	}
	return append(out, b.data...)
}

func openBytes(content []byte) (*File, error) {
	return parse("x.gguf", bytes.NewReader(content), int64(len(content)))
}
