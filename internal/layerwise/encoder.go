package layerwise

import (
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/nn"
)

// Where an encoder computes the prefixes of the layers, it is what is trained. The prefixes lie in the layers as if they were
// parameters, and so do their gradients, which micro-steps sum: the encoder does not change between two updates. An update takes
// the sums back through it, once, and computes the prefixes anew.

// encodes tells whether layers' trainable tensors are the prefixes that an encoder computes.
func (e *ends) encodes() bool { return e != nil && e.encoder != nil }

// prefixes are those of all layers for the values of an encoder.
func (m *Model) prefixes(e *ends, values []*tensors.Tensor) ([]*tensors.Tensor, error) {
	n := len(m.Layers)
	return m.programs.get(m.Device, "prefix_encoder", e.key(), func(in []*Node) []*Node { return byLayer(nn.Encode(in), n) }).call(values...)
}

// byLayer cuts x [tokens, layers·width] into the layers' parts.
func byLayer(x *Node, layers int) (parts []*Node) {
	width := x.Shape().Dim(1) / layers
	for i := range layers {
		parts = append(parts, SliceAxis(x, 1, AxisRange(i*width, (i+1)*width)))
	}
	return parts
}

// encoderGradients takes the gradients that the layers have summed at their prefixes through the encoder.
func (s *Session) encoderGradients() ([]*tensors.Tensor, error) {
	m, n := s.model, len(s.edge.encoder)
	in := s.ends.values()
	for _, g := range s.groups {
		in = append(in, g.grads...)
	}
	return m.programs.get(m.Device, "prefix_encoder_backward", s.edge.key(), func(in []*Node) []*Node {
		var total *Node
		for i, p := range byLayer(nn.Encode(in[:n]), len(in)-n) {
			total = sum(total, ReduceAllSum(Mul(p, StopGradient(ConvertDType(in[n+i], dtypes.Float32)))))
		}
		return Gradient(total, in[:n]...)
	}).call(in...)
}

// encoded are the groups' new values, ends first, of which fresh has those of the encoder: the layers' prefixes.
func (s *Session) encoded(fresh [][]*tensors.Tensor) error {
	all, err := s.model.prefixes(s.edge, fresh[0][:len(s.edge.encoder)])
	if err != nil {
		return err
	}
	for i, g := range s.groups {
		n := len(g.params)
		fresh[1+i], all = all[:n:n], all[n:]
	}
	return nil
}
