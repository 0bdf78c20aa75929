package layerwise

import (
	"fmt"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
)

// share uploads what all layers need of a batch. positions nil counts from 0 in every row; segments nil, or one
// document per row with padding behind it, needs no segment mask: causal attention never looks at what comes later.
func (m *Model) share(positions, segments []int32, rows, length int) (sh shared, err error) {
	masked := needsMask(segments, length)
	if positions == nil || (segments != nil && !masked) {
		positions = make([]int32, length)
		for i := range positions {
			positions[i] = int32(i)
		}
	}
	tables, width := len(positions)/length, m.Rope.Width()
	cos, sin := m.Rope.Table(positions, longest(positions, segments))
	if sh.cos, err = backend.UploadValues(m.Device, cos, tables, length, width); err != nil {
		return sh, err
	}
	if sh.sin, err = backend.UploadValues(m.Device, sin, tables, length, width); err != nil {
		return sh, err
	}
	if masked {
		if sh.segments, err = backend.UploadValues(m.Device, segments, rows, length); err != nil {
			return sh, err
		}
		sh.promise = promisedSegments(m.Device.Kind, segments, length)
	}
	return sh, err
}

// longest is the most positions of a sequence: one more than the largest position, padding (segment 0) aside. positions are
// those of all rows or of each; segments may be nil.
func longest(positions, segments []int32) (n int) {
	for i := range max(len(positions), len(segments)) {
		if segments == nil || segments[i] != 0 {
			n = max(n, int(positions[i%len(positions)])+1)
		}
	}
	return n
}

func (s *shared) free() { backend.Free(s.cos, s.sin, s.segments, s.rowKeys) }

// needsMask reports whether some row holds anything but one document followed by padding (segment 0).
func needsMask(segments []int32, length int) bool {
	for at := 0; at < len(segments); at += length {
		row := segments[at : at+length]
		for i := 1; i < length; i++ {
			if row[i] != row[i-1] && row[i] != 0 {
				return true
			}
		}
	}
	return false
}

// withoutPadding are gradients dx [n, k] of rows that were looked up, 0 where that is the padding token's. at [n, 1] are the
// places of the rows, where places puts ids.
func (m *Model) withoutPadding(dx, at *Node, places func(ids []int32) []int32) *Node {
	if m.Embed.Padding == nil {
		return dx
	}
	id := *m.Embed.Padding
	if id < 0 { // torch counts from the end
		id += int32(m.Vocab)
	}
	return Mul(dx, ConvertDType(NotEqual(at, Const(dx.Graph(), places([]int32{id})[0])), dtypes.Float32))
}

// endGradients returns the gradients of embedding, norm and head, as the session's group of ends orders them.
func (m *Model) endGradients(p *pass) ([]*tensors.Tensor, error) {
	at, err := backend.UploadValues(m.Device, p.batch.IDs, len(p.batch.IDs), 1)
	if err != nil {
		return nil, err
	}
	defer at.FinalizeAll()
	tied := m.Head == nil
	variant := "untied"
	if tied {
		variant = "tied"
	}
	padding := m.Embed.Padding
	if padding != nil {
		variant = fmt.Sprint(variant, " but ", *padding)
	}
	in := []*tensors.Tensor{p.dx, at}
	if tied {
		in = append(in, p.ends[1])
	}
	out, err := m.programs.get(m.Device, "embed_backward", variant, func(in []*Node) []*Node {
		dx := in[0]
		if dx.Rank() == 2 { // with room behind
			dx = SliceAxis(dx, 1, AxisRange(0, m.Shape.Hidden))
		}
		dx = ConvertDType(Reshape(dx, -1, m.Shape.Hidden), dtypes.Float32)
		table := Zeros(dx.Graph(), shapes.Make(dtypes.Float32, m.Vocab, m.Shape.Hidden))
		if tied {
			table = in[2]
		}
		if m.Embed.Scale != 0 {
			dx = MulScalar(dx, m.Embed.Scale)
		}
		dx = m.withoutPadding(dx, in[1], func(ids []int32) []int32 { return ids })
		return []*Node{ScatterSum(table, in[1], dx, false, false)}
	}).call(in...)
	if err != nil {
		return nil, err
	}
	grads := []*tensors.Tensor{out[0], p.ends[0]}
	if tied {
		err = backend.Free(p.ends[1])
	} else {
		grads = append(grads, p.ends[1])
	}
	p.ends = nil
	return grads, err
}
