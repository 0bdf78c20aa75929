package layerwise

import (
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/nn"
)

// RowSquares returns the squared norms ‖W‖² of the rows of layer i's linears, as the programs see them, by the linears' names
// below the layer.
func (m *Model) RowSquares(i int) (map[string][]float32, error) {
	w := m.Layers[i]
	groups := w.Layout.StoredTogether()
	out, err := m.programs.get(m.Device, "row_squares", w.Layout.Key(), func(in []*Node) (all []*Node) {
		l := nn.NewLayer(m.Shape, nn.Batch{}, nil).Bind(w.Layout, in)
		for _, g := range groups {
			all = append(all, l.RowSquares(g[0].Name))
		}
		return all
	}).call(w.Tensors...)
	if err != nil {
		return nil, err
	}
	squares := map[string][]float32{}
	for k, g := range groups {
		values, err := tensors.CopyFlatData[float32](out[k])
		if err != nil {
			return nil, err
		}
		for _, lin := range g {
			squares[lin.Name], values = values[:lin.Out:lin.Out], values[lin.Out:]
		}
		out[k].FinalizeAll()
	}
	return squares, nil
}
