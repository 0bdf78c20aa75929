package layerwise

import (
	"fmt"
	"slices"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/seam"
)

// What a plan takes of the device is known before it runs: the compiler tells what each program works in and returns, and
// what lies on the device between programs follows from the plan. A program's memory is taken when it is launched and given
// back to what is launched behind it, so that only the order of launches counts. How far the device is behind the host counts
// for copies to the host's memory and back alone: what they hold is free when they are done, or used.

// footprint compiles the program for inputs of these shapes and tells what memory a call takes; false where nobody knows.
func (p *program) footprint(in []shapes.Shape) (f seam.Footprint, ok bool, err error) {
	plugin, ok := seam.Of(p.device.Backend)
	if p.err != nil || !ok {
		return f, false, p.err
	}
	if _, err := p.exec.Compile(in...); err != nil {
		return f, false, fmt.Errorf("program %s: %w", p.name, err)
	}
	number, _ := p.numbers.Load(fmt.Sprint(in))
	f, ok = plugin.Footprint(number.(int64))
	return f, ok, nil
}

// spanCost is what a span takes while a batch goes through it.
type spanCost struct {
	forward, backward seam.Footprint
	kept, far         int64 // bytes: what it keeps, and what of that and its input goes to the host if anything does
}

// Forecast is the most memory of the device, in bytes, that will be in use in each part of a step.
type Forecast struct {
	Forward, Head, Backward, Update int64

	Holes int64 // see holes
}

// Peak is the most of all, and what XLA's allocator adds: a piece that is up to twice as large as what is asked for, or 128 MB
// larger, is not divided. Measured, that is 1 to 5 % of what is in use where the same tensors take the same places in every step.
func (f Forecast) Peak() int64 {
	peak := max(f.Forward, f.Head, f.Backward, f.Update)
	return peak + peak/33 + f.Holes
}

// holes is what the allocator adds where values, moments and gradients, replaced bytes of them, come to lie elsewhere in every
// step, and the rest between them. Measured, little where all layers keep the same few tensors, and most where they keep
// different ones.
func holes(replaced int64, plan []spanPlan) int64 {
	last := plan[len(plan)-1].keep
	switch {
	case full(plan):
		return replaced / 8
	case slices.ContainsFunc(plan, func(s spanPlan) bool { return !s.passes && s.keep != last }):
		return replaced / 4
	}
	return replaced / 32
}

// forecast is for the pass, whose batch is on the device, when it goes through the layers by the plan; false where nobody
// knows.
func (s *Session) forecast(p *pass, plan []spanPlan) (peak Forecast, ok bool, err error) {
	live, told := s.model.Device.MemoryInUse()
	if _, knows := s.model.Device.PeakMemory(); !told || !knows {
		return peak, false, nil
	}
	return s.forecastFrom(live, p, plan)
}

// forecastFrom is forecast where so many bytes are in use beside what the pass takes.
func (s *Session) forecastFrom(live int64, p *pass, plan []spanPlan) (peak Forecast, ok bool, err error) {
	m := s.model
	costs := make([]spanCost, len(plan))
	for i := range plan {
		if i > 0 && !s.endsAt(i-1) && plan[i] == plan[i-1] && s.spans[i].key == s.spans[i-1].key {
			costs[i] = costs[i-1]
		} else if costs[i], ok, err = s.cost(p, i, plan[i]); !ok {
			return peak, false, err
		}
	}
	head, ok, err := m.loss(s.loss, s.edge, true, p.sh.rowKeys != nil && s.edge.drops()).footprint(s.headShapes(p))
	if !ok {
		return peak, false, err
	}
	if s.accumulates { // the sums, which the first pass does not have yet
		live += s.gradientBytes()
	}
	update := s.updateBytes()
	replaced := s.gradientBytes() + update
	if full(plan) { // values before an update stay until the next one
		live, replaced = live+update, replaced+update
	}
	peak.Holes = holes(replaced, plan)
	use := func(most *int64, f seam.Footprint, beside int64) {
		*most = max(*most, live+beside+f.Temporary+f.Results-f.Reused)
	}
	var copied []int64 // what copies to the host read: it stays until they are done
	for i, c := range costs {
		use(&peak.Forward, c.forward, s.trashBeside(i, plan))
		live += c.forward.Results
		if plan[i].passes && i > 0 {
			live -= int64(p.x[0].Shape().ByteSize())
		}
		if plan[i].host {
			if copied = append(copied, c.far); len(copied) > copiedAtOnce(p.tokens()) {
				live, copied = live-copied[0], copied[1:]
			}
		}
	}
	use(&peak.Head, head, 0) // the host has not waited since the last copy began
	live += head.Results
	for _, far := range copied {
		live -= far
	}
	s.forecastBackward(p, plan, costs, live, &peak)
	return peak, true, nil
}

// forecastBackward is the part of forecast behind the head.
func (s *Session) forecastBackward(p *pass, plan []spanPlan, costs []spanCost, live int64, peak *Forecast) {
	x, gradient := int64(p.x[0].Shape().ByteSize()), int64(s.model.gradientShape(p).ByteSize())
	near := nearEnd(p.tokens())
	for i := len(plan) - 1; i >= s.first; i-- {
		first := i - near
		if i == len(plan)-1 {
			first = i
		}
		for k := first; k >= max(0, i-near); k-- {
			if plan[k].host {
				live += costs[k].far
			}
		}
		f := costs[i].backward
		late := int64(0)
		if plan[i].host {
			late = p.freedLate(i, costs[i].far)
		}
		peak.Backward = max(peak.Backward, live+late+f.Temporary+f.Results-f.Reused)
		live += f.Results - gradient - costs[i].kept - x
	}
	if !s.endsAt(s.first) { // the gradient at the first input goes
		live -= gradient
	}
	s.forecastUpdate(costs, plan, live, x, peak)
}

// forecastUpdate is the part of forecast behind the backward pass, with what is launched behind the update.
func (s *Session) forecastUpdate(costs []spanCost, plan []spanPlan, live, x int64, peak *Forecast) {
	if s.model.Trainable { // else the next batch's first input has taken the place of this one's
		live -= x
		if s.model.Head != nil { // or the head's gradient is the embedding's too
			live += 4 * int64(s.model.Embed.Table.Shape().Size())
		}
	}
	if s.accumulates { // the pass's gradients are in the sums
		live -= s.gradientBytes()
	}
	live += s.updateBytes()
	peak.Update = live
	if !full(plan) {
		return
	}
	if s.model.Trainable {
		live += x
	}
	for i := range min(s.leads, len(plan)) {
		f := costs[i].forward
		peak.Update = max(peak.Update, live+f.Temporary+f.Results)
		live += f.Results
	}
}

// copiedAtOnce is how many spans' copies to the host are on their way at once: of as many as the host is ahead, of one more, and,
// of short batches, measured, of another.
func copiedAtOnce(tokens int) int {
	n := aheadSpans(tokens)
	if tokens < longBatch/2 {
		return n + 2
	}
	return n + 1
}

// freedLate is how many bytes that were copied to the device are still there when span i of the backward pass is launched, though
// no program to come needs them, where a span's copies take far: those of all but one of the spans that the host is ahead, and,
// measured, of three quarters of the spans that it has not been waiting for.
func (p *pass) freedLate(i int, far int64) int64 {
	unpaced := min(unpacedSpans(p.tokens()), len(p.plan)) - max(0, i-nearEnd(p.tokens()))
	return far*int64(aheadSpans(p.tokens())-1) + far*int64(max(0, unpaced))*3/4
}

// updateBytes is the size of what an update makes beside what is there; paged moments are there for one group at a time.
func (s *Session) updateBytes() (bytes int64) {
	for _, g := range s.learners() {
		for _, p := range g.params {
			bytes += int64((*p.at).Shape().ByteSize())
		}
		for _, t := range g.state {
			if s.paged {
				break
			}
			bytes += int64(t.Shape().ByteSize())
		}
	}
	return bytes
}

// trashBeside is the size of what the last step left, as far as it is there when span i of the forward pass is launched: all of it
// until behind span sweepAfter, then less from span to span.
func (s *Session) trashBeside(i int, plan []spanPlan) int64 {
	if s.sweepsAtOnce() || !full(plan) {
		return 0
	}
	all := s.updateBytes() + s.gradientBytes()
	if i <= sweepAfter {
		return all
	}
	return all * int64(len(plan)-i) / int64(len(plan)-sweepAfter)
}

// gradientBytes is the size of the summed gradients, float32.
func (s *Session) gradientBytes() (bytes int64) {
	for _, g := range s.learners() {
		for _, p := range g.params {
			bytes += 4 * int64((*p.at).Shape().Size())
		}
	}
	return bytes
}

// cost compiles the programs of span i.
func (s *Session) cost(p *pass, i int, plan spanPlan) (c spanCost, ok bool, err error) {
	m, sp := s.model, s.spans[i]
	x := p.x[0].Shape()
	shared, weights := shapesOf(p.sh.inputs(s.index[0])), shapesOf(sp.tensors())
	if c.forward, ok, err = m.forward(sp, p.sh, plan).footprint(slices.Concat([]shapes.Shape{x}, shared, weights)); !ok || plan.passes {
		return c, ok, err
	}
	kept := m.keptShapes(sp, plan, x.Dimensions[0], x.Dimensions[1], p.sh.rowKeys != nil)
	in := slices.Concat([]shapes.Shape{x, m.gradientShape(p)}, shared, kept, weights)
	if c.backward, ok, err = m.backward(sp, p.sh, plan, len(kept), s.endsAt(i)).footprint(in); !ok {
		return c, false, err
	}
	c.far = int64(x.ByteSize())
	for _, k := range kept {
		size := int64(k.ByteSize())
		if c.kept += size; size >= largeEnough {
			c.far += size
		}
	}
	return c, true, nil
}

// gradientShape is the shape in which the gradient of activations goes from program to program.
func (m *Model) gradientShape(p *pass) shapes.Shape {
	return m.Shape.GradientShape(m.Device.Backend, p.batch.Rows, p.batch.Length)
}

// headShapes are the shapes of the loss program's inputs.
func (s *Session) headShapes(p *pass) []shapes.Shape {
	m := s.model
	in := slices.Concat([]shapes.Shape{p.x[0].Shape(), p.lab.Shape()}, shapesOf(m.scoreTensors(s.edge)))
	if m.scaled() {
		in = append(in, shapes.Make(dtypes.Float32))
	}
	if p.sh.rowKeys != nil && s.edge.drops() {
		in = append(in, p.sh.rowKeys.Shape())
	}
	return in
}

func shapesOf(ts []*tensors.Tensor) (all []shapes.Shape) {
	for _, t := range ts {
		all = append(all, t.Shape())
	}
	return all
}
