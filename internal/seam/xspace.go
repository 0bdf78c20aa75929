package seam

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Execution is a kernel or a copy that ran on a device.
type Execution struct {
	Program  string // the HLO module it belongs to, without XLA's numbers behind the name
	Name     string // of the kernel
	Op       string // the HLO instruction, where the profiler tells it
	Start    time.Duration
	Duration time.Duration
}

// executions reads a serialized tensorflow.profiler.XSpace (tsl/profiler/protobuf/xplane.proto), in which each device is
// a plane, each stream a line, and names are in tables of the plane.
func executions(space []byte) (all []Execution, err error) {
	err = fields(space, func(number protowire.Number, plane []byte, _ uint64) error {
		if number != 1 {
			return nil
		}
		p := xplane{names: map[uint64]string{}, stats: map[uint64]string{}}
		if err := fields(plane, p.field); err != nil {
			return err
		}
		if !strings.Contains(p.name, "/device:GPU") {
			return nil
		}
		for _, line := range p.lines {
			found, err := p.line(line)
			if err != nil {
				return err
			}
			all = append(all, found...)
		}
		return nil
	})
	slices.SortStableFunc(all, func(a, b Execution) int { return cmp.Compare(a.Start, b.Start) })
	return all, err
}

// xplane is one XPlane.
type xplane struct {
	name  string
	lines [][]byte
	names map[uint64]string // of events
	stats map[uint64]string // names of statistics, and interned values
}

func (p *xplane) field(number protowire.Number, data []byte, _ uint64) error {
	switch number {
	case 2:
		p.name = string(data)
	case 3:
		p.lines = append(p.lines, data)
	case 4:
		return named(data, p.names)
	case 5:
		return named(data, p.stats)
	}
	return nil
}

// named reads an entry of a map from ids to messages whose field 2 is a name.
func named(entry []byte, into map[uint64]string) error {
	var id uint64
	return fields(entry, func(number protowire.Number, data []byte, v uint64) error {
		if number == 1 {
			id = v
			return nil
		}
		return fields(data, func(number protowire.Number, data []byte, _ uint64) error {
			if number == 2 {
				into[id] = string(data)
			}
			return nil
		})
	})
}

// line reads an XLine; those that XLA derives from the streams ("XLA Ops", "Framework Ops") are left out.
func (p *xplane) line(line []byte) (all []Execution, err error) {
	var name string
	var begin uint64 // ns
	var events [][]byte
	err = fields(line, func(number protowire.Number, data []byte, v uint64) error {
		switch number {
		case 2:
			name = string(data)
		case 3:
			begin = v
		case 4:
			events = append(events, data)
		}
		return nil
	})
	if err != nil || !strings.HasPrefix(name, "Stream") {
		return nil, err
	}
	for _, event := range events {
		e := Execution{Start: time.Duration(begin)}
		err := fields(event, func(number protowire.Number, data []byte, v uint64) error {
			switch number {
			case 1:
				e.Name = p.names[v]
			case 2:
				e.Start += time.Duration(v / 1000)
			case 3:
				e.Duration = time.Duration(v / 1000)
			case 4:
				return p.stat(data, &e)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// stat reads an XStat.
func (p *xplane) stat(data []byte, e *Execution) error {
	var key, value string
	err := fields(data, func(number protowire.Number, data []byte, v uint64) error {
		switch number {
		case 1:
			key = p.stats[v]
		case 5:
			value = string(data)
		case 7:
			value = p.stats[v]
		}
		return nil
	})
	switch key {
	case "hlo_module":
		e.Program, _, _ = strings.Cut(strings.TrimPrefix(value, "jit_"), "(")
	case "hlo_op":
		e.Op = value
	}
	return err
}

// fields calls f with each field of a message: its bytes, or its number.
func fields(message []byte, f func(number protowire.Number, data []byte, v uint64) error) error {
	for len(message) > 0 && message[0] != 0 { // XLA hands out a byte too many, which is 0
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return fmt.Errorf("profile: %w", protowire.ParseError(n))
		}
		message = message[n:]
		var data []byte
		var v uint64
		switch kind {
		case protowire.BytesType:
			data, n = protowire.ConsumeBytes(message)
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(message)
		default:
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 {
			return fmt.Errorf("profile: %w", protowire.ParseError(n))
		}
		message = message[n:]
		if err := f(number, data, v); err != nil {
			return err
		}
	}
	return nil
}
