package layerwise

import (
	"context"
	"reflect"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/internal/training"
)

// PinHost lets a session keep residuals in that many bytes of the host's memory.
func PinHost(s training.Session, bytes int64) { s.(*Session).plan.host = bytes }

// ClientOf is the session's backend behind the seam.
func ClientOf(s training.Session) *seam.Client {
	c, _ := seam.Of(s.(*Session).model.Device.Backend)
	return c
}

// PageMoments moves a session's moments to the host's memory, as those of paged optimizers on a GPU.
func PageMoments(s training.Session) error {
	session := s.(*Session)
	session.paged = true
	for _, g := range session.all() {
		if err := session.page(g); err != nil {
			return err
		}
	}
	return nil
}

// MoveMoments puts moments elsewhere once more, by a program called "moved" in the place of the copies to the host's memory.
func MoveMoments(s training.Session) error {
	session := s.(*Session)
	for _, g := range session.all() {
		moved, err := session.model.programs.get(session.model.Device, "moved", "", func(in []*Node) (out []*Node) {
			for _, x := range in {
				out = append(out, Identity(x))
			}
			return out
		}).call(g.state...)
		if err != nil {
			return err
		}
		session.trash, g.state = append(session.trash, g.state...), moved
	}
	return nil
}

// PartTokens makes backward programs that compute much again take that many tokens at a time.
func PartTokens(s training.Session, n int) { s.(*Session).plan.tokens = n }

// MLPTokens makes that many tokens of a row go through the MLP at a time.
func MLPTokens(s training.Session, n int) { s.(*Session).plan.mlp = n }

// Scaler is a scaler.
type Scaler struct{ *scaler }

func NewScaler() Scaler            { return Scaler{newScaler()} }
func (s Scaler) Note(applied bool) { s.note(applied) }
func (s Scaler) TakeBack()         { s.takeBack() }
func (s Scaler) Scale() float64    { return s.scale }
func (s Scaler) String() string    { return s.scaler.String() }

// SetLossScale sets the scale of the loss, which float16 has.
func SetLossScale(s training.Session, scale float64) { s.(*Session).scaler.scale = scale }

// HeadTokens makes the head of the session's model, which has run nothing yet, take that many tokens at a time.
func HeadTokens(s training.Session, n int) { s.(*Session).model.headTokens = n }

// HeadMemory is what the loss and its gradient, for rows of tokens, work in.
func HeadMemory(s training.Session, rows, length int) (bytes int64, ok bool, err error) {
	m := s.(*Session).model
	in := []shapes.Shape{shapes.Make(m.Shape.Compute, rows, length, m.Shape.Hidden), shapes.Make(dtypes.Int32, rows, length)}
	f, ok, err := m.loss(nil, nil, true, false).footprint(append(in, shapesOf(m.scoreTensors(nil))...))
	return f.Temporary, ok, err
}

var LargestFit = largestFit

// PeakWithin is the forecast of a batch of which everything is kept as far as the limit allows it, in bytes beside so many in use.
func PeakWithin(s training.Session, b *training.Batch, limit, live int64) (int64, error) {
	session := s.(*Session)
	d := session.model.Device
	was := d.MemoryLimit
	d.MemoryLimit = limit
	defer func() { d.MemoryLimit = was }()
	p := session.newPass(b, true)
	defer p.free()
	if err := p.begin(); err != nil {
		return 0, err
	}
	everything := session.plan
	everything.budget = 1 << 50
	_, f, _, err := everything.fit(session, p, func(plan []spanPlan) (Forecast, bool, error) { return session.forecastFrom(live, p, plan) })
	return f.Peak(), err
}

// ForecastAgain forecasts a batch that the session has had, whether its device counts memory or not: what comes to the bytes that
// live returns when the batch is on the device.
func ForecastAgain(s training.Session, b *training.Batch, live func() int64) (f Forecast, ok bool, err error) {
	session := s.(*Session)
	p := session.newPass(b, true)
	defer p.free()
	if err := p.begin(); err != nil {
		return f, false, err
	}
	return session.forecastFrom(live(), p, p.plan)
}

// Lead lets Apply launch so many of the next batch's spans ahead.
func Lead(s training.Session, spans int) { s.(*Session).leads = spans }

// Led is how many spans of the next batch have been launched ahead.
func Led(s training.Session) int {
	if p := s.(*Session).ahead; p != nil {
		return p.done
	}
	return 0
}

// Trash is how many tensors wait to be freed.
func Trash(s training.Session) int { return len(s.(*Session).trash) }

// Fuse makes the session's model, which has run nothing yet, take the fused form of its primitives, or the plain one.
func Fuse(s training.Session, fused bool) {
	form := nn.FormPlain
	if fused {
		form = nn.FormFused
	}
	s.(*Session).model.Shape.Form = form
}

// OnHost is how many spans' residuals a session keeps in the host's memory.
func OnHost(s training.Session) (n int) {
	for _, plan := range s.(*Session).plan.plans {
		for _, span := range plan {
			if span.host {
				n++
			}
		}
	}
	return n
}

// Compiled is how many programs the session's model has compiled: one for each combination of input shapes.
func Compiled(s training.Session) (n int) {
	for _, p := range s.(*Session).model.programs.byKey {
		n += reflect.ValueOf(p.exec).Elem().FieldByName("cache").Len()
	}
	return n
}

// ScoreInParts is LogProbs of the session's model and a row, with the head on that many places at a time.
func ScoreInParts(s training.Session, ids, targets []int32, part int) ([]float32, error) {
	m := s.(*Session).model
	x, err := m.hidden(context.Background(), nil, ids, nil, 1, len(ids))
	if err != nil {
		return nil, err
	}
	defer x.FinalizeAll()
	return m.score(context.Background(), nil, x, targets, part)
}

// EndBackwardAt makes the backward pass of a session that has run nothing yet end at another span; it returns at which it would have.
func EndBackwardAt(s training.Session, span int) (was int) {
	was, s.(*Session).first = s.(*Session).first, span
	return was
}

// GradientAtInput tells whether a pass over the batch ends with a gradient at what goes into the first layer.
func GradientAtInput(ctx context.Context, s training.Session, b *training.Batch) (bool, error) {
	p := s.(*Session).newPass(b, true)
	defer p.free()
	for _, part := range []func() error{p.begin, func() error { return p.forward(ctx) }, p.score, func() error { return p.backward(ctx) }} {
		if err := part(); err != nil {
			return false, err
		}
	}
	return p.dx != nil, nil
}
