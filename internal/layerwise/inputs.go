package layerwise

import (
	"context"
	"errors"
	"fmt"

	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
)

// LinearInputs runs the model's layers over ids [rows][length] without adapters and hands to visit what goes into the linears
// of these names, as they are called below a layer, [rows·length·In] float32, layer after layer. segments are as for Logits.
func (m *Model) LinearInputs(ctx context.Context, ids, segments []int32, rows, length int, names []string,
	visit func(layer int, name string, values []float32) error) error {
	if err := m.checkIDs(ids, length); err != nil {
		return err
	}
	sh, err := m.share(nil, segments, rows, length)
	defer sh.free()
	if err != nil {
		return err
	}
	x, err := m.embed(ids, rows, length)
	if err != nil {
		return err
	}
	for i, sp := range spans(m.Layers, nil, 1) {
		if err := ctx.Err(); err != nil {
			return errors.Join(err, backend.Free(x))
		}
		in := append(append([]*tensors.Tensor{x}, sh.inputs(nil)...), sp.tensors()...)
		out, err := m.inputs(sp, sh, names).call(in...)
		if err := errors.Join(err, backend.Free(x)); err != nil {
			return err
		}
		x = out[0]
		for j, t := range out[1:] {
			values, err := tensors.CopyFlatData[float32](t)
			if err == nil {
				err = visit(i, names[j], values)
			}
			if err != nil {
				return errors.Join(err, backend.Free(x), backend.Free(out[1+j:]...))
			}
			if err := backend.Free(t); err != nil {
				return errors.Join(err, backend.Free(x))
			}
		}
	}
	return backend.Free(x)
}

// inputs is the program x, shared, weights of one layer → x', the inputs of the linears of these names in float32.
func (m *Model) inputs(s span, sh shared, names []string) *program {
	v := sh.variant()
	return m.programs.get(m.Device, "block_inputs", fmt.Sprint(v, names, s.key), func(in []*Node) []*Node {
		r := &reader{in}
		x := r.one()
		b, _ := r.batch(v)
		var captured map[string]*Node
		y, _ := m.run(s, r, b, nil, x, func(_ int, l *nn.Layer) { captured = l.CaptureInputs() })
		out := []*Node{y}
		for _, name := range names {
			out = append(out, ConvertDType(captured[name], dtypes.Float32))
		}
		return out
	})
}
