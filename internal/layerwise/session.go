package layerwise

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/training"
)

// Session trains the trainable tensors of a model: micro-steps sum gradients, Apply updates. It is for one goroutine.
type Session struct {
	model       *Model
	spans       []span
	ends        *group   // nil unless the model's ends are trained
	prompt      *group   // nil unless an encoder computes embeddings: those
	edge        *ends    // adapters at the model's ends, nil if there are none
	groups      []*group // of groupSpans spans each
	optim       optimizer
	steps       int // optimizer steps done
	plan        planner
	paged       bool    // see paging.go
	scaler      *scaler // nil unless the loss is scaled
	seed        int64
	dropout     bool                 // some adapter drops inputs
	noise       float64              // see neftune.go
	orthogonal  float64              // weight of AdaLoRA's regularization
	ranks       training.Allocator   // of AdaLoRA's triplets; nil: all stay
	bound       *training.Constraint // by which values are projected before each step, or nil
	loss        *training.Loss       // nil: cross entropy
	accumulates bool                 // several micro-steps may add up
	first       int                  // the span at which the backward pass ends
	index       []*tensors.Tensor    // number of each span's first layer, uint32 scalars
	ahead       *pass                // what Prefetch has begun, or nil
	leads       int                  // spans of it that Apply launches, see lead
	missed      error                // of launching them
	trash       []*tensors.Tensor    // to be freed while the device works: some thousand, a few microseconds each
	old         [][]*tensors.Tensor  // values before the last update, by group, until it is known to have succeeded
	closed      bool
}

var errClosed = errors.New("the session is closed: begin another with NewSession")

// NewSession prepares training of base and adapters (nil: none). Moments start at zero.
func NewSession(m *Model, adapters []*nn.Weights, o training.SessionOptions) (*Session, error) {
	budget, err := parseBudget(o.ResidualBudget)
	if err != nil {
		return nil, err
	}
	optim, err := newOptimizer(o, m.Device)
	if err != nil {
		return nil, err
	}
	s := &Session{
		model:       m,
		spans:       spans(m.Layers, adapters, m.spanLayers()),
		optim:       optim,
		plan:        planner{budget: budget, host: m.pinnable(), tokens: partTokens, mlp: mlpTokens},
		seed:        o.Seed,
		noise:       o.NEFTuneNoiseAlpha,
		loss:        o.Loss,
		bound:       o.Constraint,
		accumulates: o.Accumulates,
	}
	if o.Triplets != nil {
		s.orthogonal, s.ranks = o.Triplets.Orthogonal, o.Triplets.Allocator
	}
	if m.scaled() {
		s.scaler = newScaler()
	}
	if m.Device.Kind == backend.CUDA && s.scaler == nil && o.Triplets == nil { // with AdaLoRA it has not been measured
		s.leads = leadSpans
	}
	trained := 0
	for together := range slices.Chunk(s.spans, m.groupSpans()) {
		g := &group{}
		for _, sp := range together {
			for i, l := range sp.layers {
				for _, w := range l.stores() {
					s.dropout = s.dropout || w.Layout.HasDropout()
					for _, t := range w.Layout.Trainable() {
						p := slotParam(w, t)
						p.name = fmt.Sprint(sp.first+i, ".", p.name)
						g.params = append(g.params, p)
					}
				}
			}
		}
		s.groups = append(s.groups, g)
		trained += len(g.params)
	}
	if s.edge = m.endsOf(adapters); s.edge != nil {
		if m.Trainable {
			return nil, errors.New("adapters at the model's ends, whose own weights are trained: choose one of the two")
		}
		if s.edge.virtual > 0 && s.noise > 0 {
			return nil, errors.New("NEFTuneNoiseAlpha with virtual tokens, which would get noise too: leave it out")
		}
		s.dropout = s.dropout || s.edge.drops()
		for _, t := range s.edge.w.Layout.Trainable() {
			p := slotParam(s.edge.w, t)
			p.hidden = false
			if s.edge.encodes() && t == s.edge.prompt {
				s.prompt = &group{params: []param{p}}
				continue
			}
			if s.ends == nil {
				s.ends = &group{}
			}
			p.embedding = t == s.edge.embed.a || t == s.edge.embed.b
			p.plus = p.plus && !p.embedding
			s.ends.params = append(s.ends.params, p)
			trained++
		}
	}
	if m.Trainable {
		s.ends = &group{params: []param{{at: &m.Embed.Table, decay: true, fullMoments: true}, {at: &m.Norm}}}
		if m.Head != nil {
			s.ends.params = append(s.ends.params, param{at: &m.Head, decay: true})
		}
		trained += len(s.ends.params)
	}
	if trained == 0 {
		return nil, errors.New("nothing to train: the model has neither adapters nor trainable weights")
	}
	if s.edge == nil && !m.Trainable {
		s.first = max(0, slices.IndexFunc(s.spans, span.trains))
	}
	if s.paged = s.pageable(s.momentBytes()); s.paged {
		s.plan.host -= 2 * s.momentBytes()
	}
	for _, g := range s.learners() {
		err := optim.start(g, m.Device)
		if err == nil {
			err = s.page(g)
		}
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	if err := s.numberSpans(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// slotParam is the trainable slot of a layer's weights.
func slotParam(w *nn.Weights, slot int) param {
	l := w.Layout.Slots[slot]
	p := param{at: &w.Tensors[slot], decay: l.Decay, hidden: true, fullMoments: l.Embedding, plus: l.Shape.Rank() == 1}
	if len(l.Parts) == 1 {
		p.name = l.Parts[0].Name
	}
	for _, part := range l.Parts {
		p.rows = append(p.rows, part.Rows)
		p.plus = p.plus || strings.Contains(part.Name, "lora_B")
	}
	return p
}

func (s *Session) numberSpans() error {
	for _, sp := range s.spans {
		t, err := backend.UploadValues(s.model.Device, []uint32{uint32(sp.first)})
		if err != nil {
			return err
		}
		s.index = append(s.index, t)
	}
	return nil
}

// all returns every group, the ends' first.
func (s *Session) all() []*group {
	if s.ends == nil {
		return s.groups
	}
	if s.prompt != nil {
		return append([]*group{s.ends, s.prompt}, s.groups...)
	}
	return append([]*group{s.ends}, s.groups...)
}

// Close frees gradients and moments; the weights stay. An error says, too, when the last update failed meanwhile: then
// the weights are those before it.
func (s *Session) Close() error {
	errs := []error{s.settled()}
	s.dropAhead()
	for _, g := range s.all() {
		errs = append(errs, backend.Free(g.grads...), backend.Free(g.state...))
		g.grads, g.state = nil, nil
	}
	s.retire(nil)
	errs = append(errs, backend.Free(s.index...), s.sweep())
	s.index, s.groups, s.ends, s.prompt, s.closed = nil, nil, nil, nil, true
	return errors.Join(errs...)
}

// Apply divides the summed gradients by o.NumItems, clips their global norm to o.MaxGradNorm and runs one optimizer step.
// It returns the norm before clipping. After an error all values are as before.
func (s *Session) Apply(ctx context.Context, o training.ApplyOptions) (gradNorm float64, err error) {
	if s.closed {
		return 0, errClosed
	}
	if err := errors.Join(ctx.Err(), checkApply(o)); err != nil {
		return 0, err
	}
	groups := s.all()
	if s.edge.encodes() {
		groups = s.computed()
	}
	for _, g := range groups {
		if len(g.params) > 0 && g.grads == nil {
			return 0, errors.New("Apply without gradients: call MicroStep first")
		}
	}
	if gradNorm, err = s.apply(o); err != nil {
		return 0, s.recovered(err)
	}
	return gradNorm, nil
}

// checkApply refuses what would turn all values into NaN.
func checkApply(o training.ApplyOptions) error {
	switch {
	case !(float32(o.NumItems) > 0) || !finite(float64(float32(o.NumItems))):
		return fmt.Errorf("ApplyOptions.NumItems is %v: want the number of labels, or another positive number", o.NumItems)
	case !finite(o.LearningRate):
		return fmt.Errorf("ApplyOptions.LearningRate is %v: want a number", o.LearningRate)
	case !(o.MaxGradNorm >= 0):
		return fmt.Errorf("ApplyOptions.MaxGradNorm is %v: want a positive number, or 0, which clips nothing", o.MaxGradNorm)
	}
	return nil
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

func (s *Session) apply(o training.ApplyOptions) (gradNorm float64, err error) {
	items := o.NumItems
	if s.scaler != nil {
		items *= s.scaler.summed()
	}
	if err := s.regularize(items); err != nil {
		return 0, err
	}
	var squares []*tensors.Tensor
	defer func() { err = errors.Join(err, backend.Free(squares...)) }()
	if s.edge.encodes() {
		if s.ends.grads, err = s.encoderGradients(); err != nil {
			return 0, err
		}
	}
	for _, g := range s.learners() {
		if len(g.params) == 0 {
			continue
		}
		q, err := s.model.squares(g.grads)
		if err != nil {
			return 0, err
		}
		squares = append(squares, q)
	}
	norm, scale, err := normAndScale(s.model, squares, items, o.MaxGradNorm)
	if err != nil {
		return 0, err
	}
	defer backend.Free(norm, scale)
	if s.scaler != nil {
		values, err := tensors.CopyFlatData[float32](norm)
		if err != nil {
			return 0, err
		}
		if norm := float64(values[0]); !finite(norm) {
			s.scaler.note(false)
			return norm, s.DropGradients()
		}
	}
	fresh, err := s.update(o, scale) // now, so that the device does not wait for the host to have read the norm
	if err != nil {
		return 0, err
	}
	old := s.exchange(fresh)
	s.steps++
	s.lead()
	// Reading the norm waits for all work on the gradients: what failed meanwhile is known before the old values are thrown away.
	values, err := tensors.CopyFlatData[float32](norm)
	if err != nil {
		s.steps--
		return 0, errors.Join(err, freeAll(s.exchange(old)))
	}
	// The gradients came from the last update's values: it did not fail.
	s.scaler.note(true)
	s.scaler.next()
	for _, g := range s.all() {
		s.trash, g.grads = append(s.trash, g.grads...), nil
	}
	s.retire(old)
	switch {
	case s.plan.tight():
		err = s.confirm()
	case s.sweepsAtOnce():
		err = s.sweep()
	}
	return float64(values[0]), err
}

// exchange puts values of all groups in place and returns those that were there.
func (s *Session) exchange(fresh [][]*tensors.Tensor) (old [][]*tensors.Tensor) {
	for i, g := range s.all() {
		old = append(old, g.exchange(fresh[i]))
	}
	return old
}

// groupSpans is how many spans' parameters one program updates. On a GPU an update takes less time than launching a
// program, and PJRT lets the host be no more than 32 programs ahead. Whole layers are large enough.
func (m *Model) groupSpans() int {
	if m.Device.Kind == backend.Go || m.Trainable {
		return 1
	}
	return 4
}

// update computes every group's new values; the groups still have the old ones.
func (s *Session) update(o training.ApplyOptions, scale *tensors.Tensor) (fresh [][]*tensors.Tensor, err error) {
	scalars, err := backend.UploadValues(s.model.Device, s.optim.scalars(s.steps+1, o.LearningRate), 3)
	if err != nil {
		return nil, err
	}
	defer scalars.FinalizeAll()
	fresh = make([][]*tensors.Tensor, len(s.all()))
	for i, g := range s.learners() {
		if len(g.params) == 0 {
			continue
		}
		if fresh[i], err = s.updated(g, scalars, scale); err != nil {
			return nil, errors.Join(err, freeAll(fresh))
		}
	}
	if s.edge.encodes() {
		if err := s.encoded(fresh); err != nil {
			return nil, errors.Join(err, freeAll(fresh))
		}
	}
	if err := s.allocate(fresh); err != nil {
		return nil, errors.Join(err, freeAll(fresh))
	}
	return fresh, nil
}

func freeAll(groups [][]*tensors.Tensor) error {
	var errs []error
	for _, ts := range groups {
		errs = append(errs, backend.Free(ts...))
	}
	return errors.Join(errs...)
}

// sweep frees what is of no more use.
func (s *Session) sweep() error { return s.sweepFor(1) }

// sweepsAtOnce tells whether what a step leaves is too large to lie around beside the next one's forward pass: a whole model's
// gradients, values and moments.
func (s *Session) sweepsAtOnce() bool { return s.model.Trainable }

// sweepFor frees the first of so many equal parts of what is of no more use: all at once takes the host longer than a span of a
// small batch takes the device.
func (s *Session) sweepFor(parts int) error {
	n := (len(s.trash) + parts - 1) / parts
	ts := s.trash[:n]
	if s.trash = s.trash[n:]; len(s.trash) == 0 {
		s.trash = nil
	}
	return backend.Free(ts...)
}

// DropGradients forgets what was summed since the last Apply.
func (s *Session) DropGradients() error {
	s.scaler.next()
	var errs []error
	for _, g := range s.all() {
		errs = append(errs, backend.Free(g.grads...))
		g.grads = nil
	}
	return errors.Join(errs...)
}

// ForecastMemory is what was forecast for batches of the given shape; false where there has been none, or the device does not
// tell.
func (s *Session) ForecastMemory(rows, length int) (f Forecast, ok bool) {
	f = s.plan.peaks[[2]int{rows, length}]
	return f, f.Peak() > 0
}

// Device is the one that the session's model is on.
func (s *Session) Device() *backend.Device { return s.model.Device }

// MemoryInUse returns the bytes in use on the device, where the device tells.
func (s *Session) MemoryInUse() (bytes int64, ok bool) { return s.model.Device.MemoryInUse() }

// usable tells that the session is closed, or what it trains.
func (s *Session) usable() error {
	gone := func(t *tensors.Tensor) bool { return !t.Ok() }
	switch {
	case s.closed:
		return errClosed
	case slices.ContainsFunc(s.spans[s.first].tensors(), gone): // they are all closed together
		return errors.New("the session's model or adapters are closed: close sessions before those")
	}
	return nil
}

// checkBatch refuses a batch that does not fit together, or whose ids and labels the model does not have, and every batch once
// the session is of no more use.
func (s *Session) checkBatch(b *training.Batch) error {
	if err := s.usable(); err != nil {
		return err
	}
	if err := training.CheckBatch(b, s.model.Vocab); err != nil {
		return err
	}
	if s.edge.virtualTokens() > 0 && needsMask(b.Segments, b.Length) {
		return errPackedVirtual
	}
	return s.model.checkIDs(b.IDs, b.Length)
}
