package attention

import (
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	. "github.com/gomlx/gomlx/core/graph"
	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/draw"
	"github.com/loris-ml/loris/internal/seam"
)

// BenchmarkAttend times forward and backward of one causal row, 32 query heads over 8 key heads in bfloat16, on the GPU that
// LORIS_TEST_BACKENDS names. bench/peers/sdpa.py does the same with PyTorch:
//
//	LORIS_TEST_BACKENDS=xla:cuda go test ./attention -run xxx -bench 'Attend/.*/S=2048' -benchtime 20x
//
// TFLOP/s count the scores that a causal mask leaves, and 2.5 times as much work for the backward as for the forward; of
// several documents, all of one length, their own scores.
func BenchmarkAttend(b *testing.B) {
	for _, spec := range strings.Fields(os.Getenv("LORIS_TEST_BACKENDS")) {
		for _, length := range []int{2048, 8192, 32768, 131072} {
			for _, dim := range []int{64, 128} {
				for _, docs := range []int{1, 16} {
					for _, route := range []Route{RouteCuDNN, RouteTiled, RouteDense} {
						b.Run(fmt.Sprintf("%s/S=%d/d=%d/docs=%d/%s", spec, length, dim, docs, route), func(b *testing.B) {
							switch {
							case route == RouteDense && length > 8192:
								b.Skip("the score matrix does not fit")
							case route == RouteTiled && length > 32768 && os.Getenv("LORIS_TEST_LONG") == "":
								b.Skip("it compiles for minutes: LORIS_TEST_LONG=1")
							}
							p := &problem{batch: 1, queries: length, keys: length, heads: 32, kvHeads: 8, dim: dim, Options: Options{Causal: true, Route: route}}
							if docs > 1 {
								p.ids = make([]int32, length)
								for i := range p.ids {
									p.ids[i] = int32(i / (length / docs))
								}
								p.MaxSegments = CountSegments(p.ids, length)
							}
							p.bench(b, spec, dtypes.BFloat16, docs)
						})
					}
				}
			}
		}
	}
}

// BenchmarkMemory shows that memory grows linearly with the length: the most that was alive during forward and backward of
// one head of 128, on the embedded backend, of which the inputs, the result and the gradients are 8 · 512 bytes per token.
func BenchmarkMemory(b *testing.B) {
	for _, length := range []int{2048, 8192, 16384, 32768, 65536, 131072} {
		for _, route := range []Route{RouteTiled, RouteDense} {
			b.Run(fmt.Sprintf("S=%d/%s", length, route), func(b *testing.B) {
				switch {
				case route == RouteDense && length > 8192:
					b.Skip("the score matrix takes gigabytes")
				case length > 16384 && os.Getenv("LORIS_TEST_LONG") == "":
					b.Skip("it takes minutes: LORIS_TEST_LONG=1")
				}
				p := &problem{batch: 1, queries: length, keys: length, heads: 1, kvHeads: 1, dim: 128, Options: Options{Causal: true, Route: route}}
				p.bench(b, "go", dtypes.Float32, 1)
			})
		}
	}
}

// bench times forward and backward in one program on a fresh device.
func (p *problem) bench(b *testing.B, spec string, dtype dtypes.DType, docs int) {
	d, err := backend.Open(spec)
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	in := p.randomInputs(b, d, dtype)
	exec, number := p.forwardAndBackward(b, d)
	run := func() {
		out, err := exec.Call(in...)
		if err == nil {
			err = backend.Free(out...)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	sync := func() {
		if err := d.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	started := time.Now()
	run()
	sync()
	first := time.Since(started)
	b.ResetTimer()
	for range b.N {
		run()
	}
	sync()
	b.StopTimer()
	bytes, _ := d.PeakMemory()
	if d.Kind == backend.Go {
		bytes = liveHeap(run)
	}
	flops := 3.5 * 2 * float64(p.batch*p.heads) * float64(p.queries) * float64(p.keys) / float64(docs) * float64(p.dim)
	perOp := b.Elapsed().Seconds() / float64(b.N)
	b.ReportMetric(perOp*1e3, "ms")
	b.ReportMetric(flops/perOp/1e12, "TFLOP/s")
	b.ReportMetric(float64(bytes)/(1<<20), "peak-MiB")
	if plugin, ok := seam.Of(d.Backend); ok {
		if f, ok := plugin.Footprint(number); ok {
			b.ReportMetric(float64(f.Temporary)/(1<<20), "working-MiB") // beside arguments and results
		}
	}
	b.ReportMetric(first.Seconds(), "first-s")
	b.ReportMetric(0, "ns/op")
}

// randomInputs makes uniform numbers of variance 1 on the device.
func (p *problem) randomInputs(b *testing.B, d *backend.Device, dtype dtypes.DType) (in []any) {
	out, err := CallOnceN(d.Backend, func(seed *Node) (all []*Node) {
		for i := range 4 {
			s := shapes.Make(dtypes.Uint32, p.dimensions(i)...)
			n := Reshape(Iota(seed.Graph(), shapes.Make(dtypes.Uint32, s.Size()), 0), s.Dimensions...)
			bits := draw.Mix(Add(draw.Mix(n), AddScalar(seed, float64(i))))
			x := MulScalar(AddScalar(MulScalar(ConvertDType(bits, dtypes.Float32), 1.0/(1<<32)), -0.5), 3.4641)
			all = append(all, ConvertDType(x, dtype))
		}
		return all
	}, uint32(1))
	if err != nil {
		b.Fatal(err)
	}
	for _, t := range out {
		in = append(in, t)
	}
	if p.ids != nil {
		var ids *tensors.Tensor
		if ids, err = backend.UploadValues(d, p.ids, p.batch, p.queries); err != nil {
			b.Fatal(err)
		}
		in = append(in, ids)
	}
	return in
}

// liveHeap runs f under one collection after the other, which also empty the backend's pools of buffers, and returns the
// most that one of them found alive.
func liveHeap(f func()) (top int64) {
	done, ended := make(chan bool), make(chan bool)
	go func() {
		defer close(ended)
		sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		for {
			runtime.GC()
			metrics.Read(sample)
			top = max(top, int64(sample[0].Value.Uint64()))
			select {
			case <-done:
				return
			default:
			}
		}
	}()
	f()
	close(done)
	<-ended
	return top
}
