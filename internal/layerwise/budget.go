package layerwise

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/nn"
	"github.com/loris-ml/loris/internal/seam"
)

// Auto as a residual budget stands for what the device has free.
const Auto = -1

// parseBudget reads "" and "auto", or a number of bytes with an optional unit: "0", "2e9", "512MB", "12GiB".
func parseBudget(s string) (int64, error) {
	text := strings.TrimSpace(s)
	if text == "" || strings.EqualFold(text, "auto") {
		return Auto, nil
	}
	number, factor := text, 1.0
	for _, u := range []struct {
		suffix string
		factor float64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}} {
		if cut, ok := strings.CutSuffix(text, u.suffix); ok {
			number, factor = strings.TrimSpace(cut), u.factor
			break
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || v < 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf(`ResidualBudget %q: want "auto" or a number of bytes such as "0", "512MB" or "12GiB"`, s)
	}
	if v *= factor; v >= math.MaxInt64 { // as a float that is 2⁶³, one more than an int64 holds
		return math.MaxInt64, nil
	}
	return int64(v), nil
}

// levels are what a span may keep, from little to much; each step saves the recomputation of more.
var levels = []nn.Keep{
	nn.KeepSmall,
	nn.KeepSmall | nn.KeepResidual,
	nn.KeepSmall | nn.KeepResidual | nn.KeepAttention,
	nn.KeepAll,
}

// spanPlan is what a span keeps, and where.
type spanPlan struct {
	keep   nn.Keep
	host   bool // its input and what it keeps lie in the host's memory between forward and backward
	parts  int  // in how many parts rows go through the backward program: what that computes again needs memory for one
	tokens int  // how many of a row's tokens go through the MLP at a time, see nn.Layer.PerToken; 0: all
	passes bool // nothing of it trains, nor of what is in front of it: the backward pass does not come here
}

// partTokens is how many tokens a backward program that computes much again takes at a time: as few as keep the matrix
// products at full speed and the decoding of weights, which each part repeats, small beside them.
const partTokens = 4096

// mlpTokens is how many tokens of a long row go through the MLP at a time: the more, the rarer weights are decoded; of an 8B
// model it works in 1.4 GB.
const mlpTokens = 8192

// tokensAtOnce is into how many tokens at a time, most or fewer, rows of the given length are cut evenly; 0: they are not.
func tokensAtOnce(length, most int) int {
	if length <= most {
		return 0
	}
	n := (length + most - 1) / most
	return (length + n - 1) / n
}

// parts is in how many equal parts, of least tokens or more, rows of the given length can be cut.
func parts(rows, length, least int) int {
	for n := rows; n > 1; n-- {
		if rows%n == 0 && rows/n*length >= least {
			return n
		}
	}
	return 1
}

// planner spends a residual budget on the spans.
type planner struct {
	budget int64 // bytes, or Auto
	host   int64 // bytes of the host's memory that may be pinned for the rest
	tokens int   // see partTokens
	mlp    int   // see mlpTokens
	plans  map[[2]int][]spanPlan
	peaks  map[[2]int]Forecast // for them
	whole  map[[2]int]bool     // see Session.FitsWhole
}

// plan says what each span keeps for batches of the pass's shape. The first plan for a shape stands.
//
// Where the compiler tells what programs take, automatic plans are made to fill what the device has: the budget is raised by
// what a plan leaves free, or lowered by what it lacks, until it fits. A budget in bytes is lowered where MaxDeviceMemory allows less.
func (p *planner) plan(s *Session, ps *pass) ([]spanPlan, error) {
	shape := [2]int{ps.batch.Rows, ps.batch.Length}
	if got := p.plans[shape]; got != nil {
		return got, nil
	}
	if p.plans == nil {
		p.plans, p.peaks = map[[2]int][]spanPlan{}, map[[2]int]Forecast{}
	}
	plan, peak, ok, err := p.fit(s, ps, func(plan []spanPlan) (Forecast, bool, error) { return s.forecast(ps, plan) })
	if limit := s.model.Device.MemoryLimit; err == nil && ok && limit > 0 && peak.Peak() > limit {
		err = fmt.Errorf("a batch of %d rows of %d tokens needs %.2f GiB even if nothing is kept for the backward pass, and MaxDeviceMemory allows %.2f: make it smaller (PerDeviceTrainBatchSize, MaxLength) or allow more",
			shape[0], shape[1], float64(peak.Peak())/(1<<30), float64(limit)/(1<<30))
	}
	if err != nil {
		return nil, err
	}
	p.plans[shape], p.peaks[shape] = plan, peak
	return plan, nil
}

// fit makes a plan for the pass, with its forecast, of which ok is false where nobody can make one.
func (p *planner) fit(s *Session, ps *pass, forecast func([]spanPlan) (Forecast, bool, error)) (plan []spanPlan, peak Forecast, ok bool, err error) {
	rows, length := ps.batch.Rows, ps.batch.Length
	size := p.sizes(s, rows, length)
	limit := s.model.Device.MemoryLimit
	all := int64(len(s.spans)) * (int64(ps.x[0].Shape().ByteSize()) + size[len(size)-1])
	begin, most, room := min(p.budget, all), min(p.budget, all), limit
	switch {
	case p.budget == Auto:
		free, _ := s.model.spare(ps.tokens())
		begin, most, room = min(free, all), all, s.model.room()
	case limit <= 0:
		room = 1 << 62
	}
	_, err = largestFit(begin, most, room, func(bytes int64) (spent, used int64, err error) {
		plan, spent = p.spend(s, size, bytes, rows, length)
		peak, ok, err = forecast(plan)
		return spent, peak.Peak(), err
	}, func() bool { return !ok || full(plan) })
	return plan, peak, ok, err
}

// largestFit is a budget of which a plan fills the room, found in a few tries; 0 if nothing fits. spend makes a plan for a budget
// and tells what it takes of that, and of the room; the plan it made last is the result's. enough tells that more would gain nothing.
// The next try differs by what is left or lacks, or is between what fitted and what did not: what a layer keeps comes in pieces, and
// where all is kept more lies beside it.
func largestFit(begin, most, room int64, spend func(bytes int64) (spent, used int64, err error), enough func() bool) (int64, error) {
	fits, over := int64(-1), most+1
	tried, next := int64(-1), max(0, begin)
	for range 8 {
		spent, used, err := spend(next)
		if err != nil {
			return 0, err
		}
		tried = next
		left := room - used
		if left < 0 {
			over = spent
		} else if fits = next; left < room/32 || enough() {
			break
		}
		if next = min(spent+left, most); next <= fits || next >= over {
			next = fits + (over-fits)/2
		}
		if next = max(0, next); next <= fits || next >= over {
			break
		}
	}
	if fits = max(0, fits); fits != tried {
		_, _, err := spend(fits)
		return fits, err
	}
	return fits, nil
}

// FitsWhole tells whether a batch of that shape can keep on a GPU all that its backward pass needs. On the host larger batches
// are no faster. The first answer for a shape stands: it is asked in every step, and what is free then differs.
func (s *Session) FitsWhole(rows, length int) bool {
	if s.model.Device.Kind != backend.CUDA || s.usable() != nil {
		return false
	}
	shape := [2]int{rows, length}
	if fits, asked := s.plan.whole[shape]; asked {
		return fits
	}
	free, told := s.model.spare(rows * length)
	budget := s.plan.allowed(free, told)
	if s.plan.whole == nil {
		s.plan.whole = map[[2]int]bool{}
	}
	plan, _ := s.plan.spend(s, s.plan.sizes(s, rows, length), budget, rows, length)
	s.plan.whole[shape] = full(plan)
	return s.plan.whole[shape]
}

// allowed is what a batch may keep where free bytes are to spare, if that is told: a budget in bytes is no more than there is.
func (p *planner) allowed(free int64, told bool) int64 {
	if p.budget == Auto || told && free < p.budget {
		return free
	}
	return p.budget
}

// full tells whether all is kept on the device.
func full(plan []spanPlan) bool {
	return !slices.ContainsFunc(plan, func(s spanPlan) bool { return !s.passes && s.keep != levels[len(levels)-1] })
}

// at is the plan of a span that keeps so much.
func (p *planner) at(keep nn.Keep, rows, length int) spanPlan {
	if keep&nn.KeepGate != 0 {
		return spanPlan{keep: keep, parts: 1}
	}
	return spanPlan{keep: keep, parts: parts(rows, length, p.tokens), tokens: tokensAtOnce(length, p.mlp)}
}

// sizes are the bytes that a span keeps, by level; spans of a model differ at most by their adapters.
func (p *planner) sizes(s *Session, rows, length int) (size []int64) {
	for _, l := range levels {
		var bytes int64
		for _, k := range s.model.keptShapes(s.spans[s.first], p.at(l, rows, length), rows, length, s.dropout) {
			bytes += int64(k.ByteSize())
		}
		size = append(size, bytes)
	}
	return size
}

// spend makes the plan for a budget in bytes, where size is what sizes tells, and tells what it takes of the budget. A span's
// input is always kept. Where the host's memory can be used, a span to which the budget gives nothing goes there with the
// residual stream inside it and with its attention, if there is room for that of all; the copies run beside the matrix
// products, and cost no memory of the device. Where there is room for the inputs of some spans only, those go. Spans that the
// backward pass does not come to keep nothing.
func (p *planner) spend(s *Session, size []int64, budget int64, rows, length int) (whole []spanPlan, spent int64) {
	m, spans := s.model, s.spans[s.first:]
	input := int64(rows*length*m.Shape.Hidden) * int64(m.Shape.Compute.Size())
	least, far := levels[0], 0
	if n := len(spans) - nearEnd(rows*length); n > 1 {
		far = int(min(int64(n), p.host/(input+size[0])))
		for _, i := range []int{1, 2} {
			if int64(n)*(input+size[i]) <= p.host {
				least, far = levels[i], n
			}
		}
	}
	whole = make([]spanPlan, len(s.spans))
	for j := range s.first {
		whole[j] = spanPlan{tokens: tokensAtOnce(length, p.mlp), passes: true}
	}
	plan := whole[s.first:]
	for j := range plan {
		plan[j] = p.at(least, rows, length)
		plan[j].host = j < far
	}
	for i := 1; i < len(levels); i++ {
		for j := range plan {
			was, cost := plan[j], size[i]-size[i-1]
			if was.host {
				cost = input + size[i]
			}
			if !slices.Contains(levels[i:], was.keep) && cost <= budget-spent {
				plan[j], spent = p.at(levels[i], rows, length), spent+cost
			}
		}
	}
	return whole, spent
}

// tight reports whether some span of some batch has not got all that is worth keeping.
func (p *planner) tight() bool {
	for _, plan := range p.plans {
		if !full(plan) {
			return true
		}
	}
	return false
}

// keptShapes are the shapes of what a span keeps, where inputs of adapters are dropped or not: the graph is built, not compiled.
func (m *Model) keptShapes(s span, plan spanPlan, rows, length int, dropout bool) (all []shapes.Shape) {
	g := NewGraph(m.Device.Backend, "kept")
	defer g.Finalize()
	table := shapes.Make(dtypes.Float32, 1, length, m.Rope.Width())
	in := []*Node{
		Parameter(g, "x", shapes.Make(m.Shape.Compute, rows, length, m.Shape.Hidden)),
		Parameter(g, "cos", table), Parameter(g, "sin", table),
	}
	if dropout {
		in = append(in, Parameter(g, "rows", shapes.Make(dtypes.Uint32, rows)), Parameter(g, "index", shapes.Make(dtypes.Uint32)))
	}
	for i, t := range s.tensors() {
		in = append(in, Parameter(g, fmt.Sprint("w", i), t.Shape()))
	}
	r := &reader{in}
	x := r.one()
	b, index := r.batch(variant{dropout: dropout})
	b.PartTokens = plan.tokens
	tape := nn.Record(plan.keep)
	y, _ := m.run(s, r, b, tape, x, numbered(index))
	for _, n := range tape.Kept(y) {
		all = append(all, n.Shape())
	}
	return all
}

// room is how many bytes of the device may be in use while a batch is on it: a twentieth of what there is gets lost between
// tensors of unequal size.
func (m *Model) room() int64 {
	free, _ := m.Device.FreeMemory()
	inUse, _ := m.Device.MemoryInUse()
	return (inUse + free) / 20 * 19
}

// spare is what Auto allows at first: on a GPU the free memory less what the programs need to work in, on the host half of what
// is available; 0 and false where the device does not tell.
func (m *Model) spare(tokens int) (bytes int64, told bool) {
	free, ok := m.Device.FreeMemory()
	if !ok {
		return 0, false
	}
	if m.Device.Kind != backend.CUDA {
		return free / 2, true
	}
	logits := int64(m.chunkTokens(tokens)) * int64(m.Vocab) * 4
	return max(0, free-3*logits-8*int64(tokens)*int64(m.Layers[0].Layout.Outputs())-2<<30), true
}

// pinnable is how many bytes of the host's memory residuals may take; only GPUs have any use for it.
func (m *Model) pinnable() int64 {
	if m.Device.Kind != backend.CUDA || !seam.Available(m.Device.Backend) {
		return 0
	}
	return backend.Pinnable()
}

// spanLayers is how many layers run per call. A call on a GPU costs tens of microseconds, which a small layer does not
// outlast; elsewhere a layer per call compiles fastest.
func (m *Model) spanLayers() int {
	if m.Device.Kind != backend.CUDA || len(m.Layers) == 0 {
		return 1
	}
	params := 0
	for _, s := range m.Layers[0].Layout.Slots {
		params += s.Shape.Size()
	}
	const worthwhile = 25e6
	for n := min(len(m.Layers), max(1, int(worthwhile/float64(params)))); n > 1; n-- {
		if len(m.Layers)%n == 0 {
			return n
		}
	}
	return 1
}
