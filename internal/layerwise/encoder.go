package layerwise

import (
	"github.com/gomlx/compute/dtypes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"
)

// Where an encoder computes virtual tokens, it is what is trained. What it computes, the tokens' embeddings or the prefixes of the
// layers, lies on the device as if it were parameters, and so do its gradients, which micro-steps sum: the encoder does not change
// between two updates. An update takes the sums back through it, once, and computes the values anew.

// encodes tells whether an encoder computes the virtual tokens.
func (e *ends) encodes() bool { return e != nil && e.encoding != nil }

// computed are the groups whose values an encoder computes; nil without one.
func (s *Session) computed() []*group {
	switch {
	case !s.edge.encodes():
		return nil
	case s.prompt != nil:
		return []*group{s.prompt}
	}
	return s.groups
}

// learners are the groups that the optimizer updates: all, or an encoder's.
func (s *Session) learners() []*group {
	if s.edge.encodes() {
		return []*group{s.ends}
	}
	return s.all()
}

// encode is the graph of what an encoder computes, cut as it lies in the groups.
func (m *Model) encode(e *ends, in []*Node) (parts []*Node) {
	x := e.encoder.Encode(in)
	if e.prompt >= 0 {
		return []*Node{x}
	}
	width := x.Shape().Dim(1) / len(m.Layers)
	for i := range m.Layers {
		parts = append(parts, SliceAxis(x, 1, AxisRange(i*width, (i+1)*width)))
	}
	return parts
}

// encoderGradients takes the gradients that are summed at what the encoder computes back to its parameters.
func (s *Session) encoderGradients() ([]*tensors.Tensor, error) {
	m, n := s.model, len(s.edge.encoding)
	in := s.ends.values()
	for _, g := range s.computed() {
		in = append(in, g.grads...)
	}
	return m.programs.get(m.Device, "encoder_backward", s.edge.key(), func(in []*Node) []*Node {
		var total *Node
		for i, p := range m.encode(s.edge, in[:n]) {
			total = sum(total, ReduceAllSum(Mul(p, StopGradient(ConvertDType(in[n+i], dtypes.Float32)))))
		}
		return Gradient(total, in[:n]...)
	}).call(in...)
}

// encoded computes the values of the groups behind that of the ends, of which fresh has the encoder's new parameters.
func (s *Session) encoded(fresh [][]*tensors.Tensor) error {
	m := s.model
	all, err := m.programs.get(m.Device, "encoder", s.edge.key(), func(in []*Node) []*Node { return m.encode(s.edge, in) }).call(fresh[0][:len(s.edge.encoding)]...)
	if err != nil {
		return err
	}
	for i, g := range s.computed() {
		n := len(g.params)
		fresh[1+i], all = all[:n:n], all[n:]
	}
	return nil
}
