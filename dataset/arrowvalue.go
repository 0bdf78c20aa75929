package dataset

import (
	"bytes"
	"encoding/binary"
	"math"
	"time"
)

// arrowArray are the values of a column in a batch.
type arrowArray struct {
	*arrowField
	length               int
	valid, offsets, data []byte // bits of those that are not nil, empty: none is; where each begins in data or inside
	inside               []*arrowArray
}

// value is value i as a Row has it, with objects in the file's order.
func (a *arrowArray) value(i int) any {
	if a.kind == arrowNull || len(a.valid) > 0 && !bit(a.valid, i) {
		return nil
	}
	switch a.kind {
	case arrowBool:
		return bit(a.data, i)
	case arrowInt:
		return a.int(i)
	case arrowFloat:
		if a.width == 32 {
			return float64(math.Float32frombits(binary.LittleEndian.Uint32(a.data[4*i:])))
		}
		return math.Float64frombits(binary.LittleEndian.Uint64(a.data[8*i:]))
	case arrowUTF8, arrowLargeUTF8:
		start, end := a.span(i)
		return string(a.data[start:end])
	case arrowBinary, arrowLargeBinary:
		start, end := a.span(i)
		return bytes.Clone(a.data[start:end])
	case arrowDate:
		if a.unit == 1 {
			return time.UnixMilli(a.int(i)).UTC()
		}
		return time.Unix(a.int(i)*24*60*60, 0).UTC()
	case arrowTimestamp:
		return a.timestamp(i)
	case arrowStruct:
		o := make(object, len(a.children))
		for k, c := range a.inside {
			o[k] = field{a.children[k].name, c.value(i)}
		}
		return o
	}
	start, end := a.span(i)
	list := make([]any, 0, min(end-start, a.inside[0].length))
	for k := start; k < end; k++ {
		list = append(list, a.inside[0].value(k))
	}
	return list
}

func bit(bits []byte, i int) bool { return bits[i/8]>>(i%8)&1 != 0 }

// int is a whole number; unsigned ones of 64 bits beyond int64 are out of reach of a Row and wrap.
func (a *arrowArray) int(i int) int64 {
	switch a.width {
	case 8:
		if a.signed {
			return int64(int8(a.data[i]))
		}
		return int64(a.data[i])
	case 16:
		v := binary.LittleEndian.Uint16(a.data[2*i:])
		if a.signed {
			return int64(int16(v))
		}
		return int64(v)
	case 32:
		v := binary.LittleEndian.Uint32(a.data[4*i:])
		if a.signed || a.kind == arrowDate {
			return int64(int32(v))
		}
		return int64(v)
	}
	return int64(binary.LittleEndian.Uint64(a.data[8*i:]))
}

func (a *arrowArray) timestamp(i int) time.Time {
	switch v := a.int(i); a.unit {
	case 0:
		return time.Unix(v, 0).UTC()
	case 1:
		return time.UnixMilli(v).UTC()
	case 2:
		return time.UnixMicro(v).UTC()
	default:
		return time.Unix(0, v).UTC()
	}
}

// span is where value i begins and ends.
func (a *arrowArray) span(i int) (start, end int) {
	switch a.kind {
	case arrowFixedSizeList:
		return a.width * i, a.width * (i + 1)
	case arrowLargeUTF8, arrowLargeBinary, arrowLargeList:
		return int(binary.LittleEndian.Uint64(a.offsets[8*i:])), int(binary.LittleEndian.Uint64(a.offsets[8*i+8:]))
	}
	return int(int32(binary.LittleEndian.Uint32(a.offsets[4*i:]))), int(int32(binary.LittleEndian.Uint32(a.offsets[4*i+4:])))
}
