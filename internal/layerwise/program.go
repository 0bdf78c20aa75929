package layerwise

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/seam"
)

// program is a compiled function of tensors; one compilation per combination of input shapes.
type program struct {
	name   string
	exec   *Exec
	device *backend.Device
	donate []int // inputs that are gone after a call
	err    error

	numbers sync.Map // of what it was compiled to, by the inputs' shapes: see seam.Program.Number
}

// call runs the program. The outputs stay on the device, and so do the inputs, but for those whose memory the program takes.
func (p *program) call(in ...*tensors.Tensor) (out []*tensors.Tensor, err error) {
	if p.err != nil {
		return nil, p.err
	}
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, fmt.Errorf("program %s: %v", p.name, r)
		}
	}()
	args := make([]any, len(in))
	for i, t := range in {
		if t == nil {
			return nil, fmt.Errorf("program %s: input %d is missing", p.name, i)
		}
		args[i] = t
	}
	for _, i := range p.donate {
		if args[i], err = DonateTensorBuffer(in[i], p.device.Backend, p.device.Num); err != nil {
			return nil, fmt.Errorf("program %s: input %d: %w", p.name, i, err)
		}
	}
	out, err = p.exec.Call(args...)
	if err != nil {
		return nil, fmt.Errorf("program %s: %w", p.name, err)
	}
	return out, nil
}

// programs are the programs built so far, by what their graph depends on beside the input shapes.
type programs struct {
	mu    sync.Mutex
	byKey map[string]*program
	built atomic.Int64 // graphs that were made, one per program and combination of input shapes
}

// get returns the program of that name, for a graph that depends on variant beyond the name; build describes it. Where
// the backend has donation, the program may put results where the inputs donate were, which are gone after a call.
func (p *programs) get(d *backend.Device, name, variant string, build func(in []*Node) []*Node, donate ...int) *program {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := name + " " + variant
	if got := p.byKey[key]; got != nil {
		return got
	}
	q := &program{name: name, device: d}
	exec, err := NewExec(d.Backend, func(in []*Node) []*Node {
		p.built.Add(1)
		q.configure(in, donate)
		return build(in)
	})
	if err != nil {
		return &program{err: fmt.Errorf("program %s: %w", name, err)}
	}
	if p.byKey == nil {
		p.byKey = map[string]*program{}
	}
	q.exec = exec.WithName("loris_" + name).SetMaxCache(-1)
	if seam.Available(d.Backend) {
		q.donate = donate
	}
	p.byKey[key] = q
	return q
}

// configure sets compiler options of the graph over the inputs in. Matrix products go to cuBLASLt: XLA's Triton products are no faster here, and trying
// them out doubles the time to compile. The embedding's gradient adds the rows of a token in any order unless it is
// told not to, and then no two runs are equal.
func (p *program) configure(in []*Node, donate []int) {
	if !seam.Available(p.device.Backend) {
		return
	}
	c := &seam.Program{Donate: donate, Number: seam.NextNumber()}
	if p.device.Kind == backend.CUDA {
		c.Options = map[string]string{"xla_gpu_enable_triton_gemm": "False"}
		if p.name == "embed_backward" {
			c.Options["xla_gpu_exclude_nondeterministic_ops"] = "True"
		}
	}
	var given []shapes.Shape
	for _, n := range in {
		given = append(given, n.Shape())
	}
	p.numbers.Store(fmt.Sprint(given), c.Number)
	seam.Configure(in[0].Graph(), c)
}

func (p *programs) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.byKey {
		q.exec.Finalize()
	}
	p.byKey = nil
}
