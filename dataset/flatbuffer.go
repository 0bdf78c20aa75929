package dataset

import "encoding/binary"

// flatTable is a table of a flatbuffer (https://flatbuffers.dev/internals): at its place stands the distance back to a list of
// where its fields are. Offsets that lead out of the buffer panic, which the caller turns into an error.
type flatTable struct {
	buffer []byte
	at     int // 0: the table is absent
}

func flatRoot(buffer []byte) flatTable {
	return flatTable{buffer, int(binary.LittleEndian.Uint32(buffer))}
}

func (t flatTable) absent() bool { return t.at == 0 }

// place is where a field is, 0 if it is absent.
func (t flatTable) place(field int) int {
	if t.absent() {
		return 0
	}
	list := t.at - int(int32(binary.LittleEndian.Uint32(t.buffer[t.at:])))
	if entry := 4 + 2*field; entry < int(binary.LittleEndian.Uint16(t.buffer[list:])) {
		if offset := int(binary.LittleEndian.Uint16(t.buffer[list+entry:])); offset != 0 {
			return t.at + offset
		}
	}
	return 0
}

func (t flatTable) uint8(field int) uint8 {
	if p := t.place(field); p != 0 {
		return t.buffer[p]
	}
	return 0
}

func (t flatTable) int16(field int, absent int16) int16 {
	if p := t.place(field); p != 0 {
		return int16(binary.LittleEndian.Uint16(t.buffer[p:]))
	}
	return absent
}

func (t flatTable) int32(field int) int32 {
	if p := t.place(field); p != 0 {
		return int32(binary.LittleEndian.Uint32(t.buffer[p:]))
	}
	return 0
}

func (t flatTable) int64(field int) int64 {
	if p := t.place(field); p != 0 {
		return int64(binary.LittleEndian.Uint64(t.buffer[p:]))
	}
	return 0
}

// target follows the offset that stands at p.
func (t flatTable) target(p int) int { return p + int(binary.LittleEndian.Uint32(t.buffer[p:])) }

func (t flatTable) table(field int) flatTable {
	if p := t.place(field); p != 0 {
		return flatTable{t.buffer, t.target(p)}
	}
	return flatTable{}
}

// vector is where the elements of a list are, and how many.
func (t flatTable) vector(field int) (at, n int) {
	p := t.place(field)
	if p == 0 {
		return 0, 0
	}
	at = t.target(p)
	return at + 4, int(binary.LittleEndian.Uint32(t.buffer[at:]))
}

func (t flatTable) string(field int) string {
	at, n := t.vector(field)
	return string(t.buffer[at : at+n])
}

func (t flatTable) tables(field int) (list []flatTable) {
	at, n := t.vector(field)
	for i := range n {
		list = append(list, flatTable{t.buffer, t.target(at + 4*i)})
	}
	return list
}

// structInt64 is the number at an offset of element i of a list of structs of a size.
func (t flatTable) structInt64(field, size, i, offset int) int64 {
	at, n := t.vector(field)
	if i >= n {
		panic("a list is too short")
	}
	return int64(binary.LittleEndian.Uint64(t.buffer[at+size*i+offset:]))
}
