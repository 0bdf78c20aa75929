package layerwise

import (
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/seam"
)

// What the plan wants in the host's memory is copied there behind a span's forward pass, and back two spans ahead of its
// backward pass. Copies have streams of their own. Memory that a copy reads is taken by what is launched after it is freed,
// and waits for the copy: so it is freed one span later, when the copy has long been done.

// aheadSpans is how many spans the host launches ahead of the device where residuals go to the host's memory: results have
// their memory from the launch on, and what is launched early, copies above all, would hold it for nothing. nearEnd is how
// many spans at the end never go to the host, because the backward pass comes to them before they would be there, and how
// far ahead others come back. Of long batches a span's results take much memory, and a span so long that one is enough.
func aheadSpans(tokens int) int {
	switch {
	case tokens >= longBatch:
		return 1
	case tokens >= longBatch/2:
		return 2
	}
	return 3
}

func nearEnd(tokens int) int {
	if tokens >= longBatch {
		return 1
	}
	return 2
}

const longBatch = 32768 // tokens

// unpacedSpans is for how many spans at the end of the backward pass the host does not wait: the update behind them is many small
// kernels, and takes the host as long to launch as these take the device, which would else be done before. Long batches give it the
// time anyway.
func unpacedSpans(tokens int) int {
	if tokens >= longBatch/2 {
		return 0
	}
	return 5 * 4096 / tokens
}

func (p *pass) tokens() int { return p.batch.Rows * p.batch.Length }

// pace waits until the device is at most aheadSpans behind, if span i has something in the host's memory.
func (p *pass) pace(i int) error {
	if i < 0 || !p.plan[i].host {
		return nil
	}
	plugin, ok := seam.Of(p.s.model.Device.Backend)
	if !ok {
		return nil
	}
	n := aheadSpans(p.tokens())
	return plugin.Limit(n, n*len(p.far(i)))
}

// largeEnough is from how many bytes on a tensor is copied to the host.
const largeEnough = 1 << 20

// offload copies what span i needs again to the host.
func (p *pass) offload(i int) error {
	if err := p.leave(); err != nil || !p.plan[i].host {
		return err
	}
	if err := p.pace(i); err != nil {
		return err
	}
	at := p.far(i)
	moved, err := p.move(at, "pinned_host")
	if err != nil {
		return err
	}
	for k, t := range at {
		p.left, *t = append(p.left, *t), moved[k]
	}
	return nil
}

// leave frees on the device what offload has copied last.
func (p *pass) leave() error {
	ts := p.left
	p.left = nil
	return backend.Free(ts...)
}

// fetch sees to it that what span i needs is on the device, and begins to copy what the spans before it need.
func (p *pass) fetch(i int) error {
	near := nearEnd(p.tokens())
	if i == len(p.plan)-1 {
		for k := i; k > i-near; k-- {
			if err := p.bring(k); err != nil {
				return err
			}
		}
	}
	return p.bring(i - near)
}

// bring copies what span i needs back to the device.
func (p *pass) bring(i int) error {
	if i < 0 || !p.plan[i].host {
		return nil
	}
	if i >= unpacedSpans(p.tokens()) {
		if err := p.pace(i); err != nil {
			return err
		}
	}
	at := p.far(i)
	moved, err := p.move(at, "device")
	if err != nil {
		return err
	}
	for k, t := range at {
		if err := backend.Free(*t); err != nil {
			return err
		}
		*t = moved[k]
	}
	return nil
}

// far are the places of the tensors of span i that go to the host.
func (p *pass) far(i int) []**tensors.Tensor {
	at := []**tensors.Tensor{&p.x[i]}
	for k, t := range p.kept[i] {
		if int64(t.Shape().ByteSize()) >= largeEnough {
			at = append(at, &p.kept[i][k])
		}
	}
	return at
}

// move copies tensors to a kind of memory.
func (p *pass) move(at []**tensors.Tensor, memory string) ([]*tensors.Tensor, error) {
	var in []*tensors.Tensor
	for _, t := range at {
		in = append(in, *t)
	}
	return p.s.model.copyTo(memory, in)
}

// copyTo copies tensors to a kind of memory of the device, "device" or "pinned_host".
func (m *Model) copyTo(memory string, in []*tensors.Tensor) ([]*tensors.Tensor, error) {
	return m.programs.get(m.Device, "copy_to_"+memory, "", func(in []*Node) (out []*Node) {
		seam.Configure(in[0].Graph(), &seam.Program{CopyTo: memory})
		for _, x := range in {
			out = append(out, Identity(x))
		}
		return out
	}).call(in...)
}
