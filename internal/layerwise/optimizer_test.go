package layerwise

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gomlx/gomlx/core/tensors"

	"github.com/loris-ml/loris/internal/backend"
	"github.com/loris-ml/loris/internal/reference"
	"github.com/loris-ml/loris/internal/training"
	"github.com/loris-ml/loris/quant"
)

// optimizerRuns is testdata/optimizers.json, written by optimizers.py.
type optimizerRuns struct {
	Steps       int        `json:"steps"`
	Shapes      [][]int    `json:"shapes"`
	LR          float64    `json:"lr"`
	Betas       [2]float64 `json:"betas"`
	Eps         float64    `json:"eps"`
	WeightDecay float64    `json:"weight_decay"`
	Runs        map[string][]struct {
		Step   int                 `json:"step"`
		Params []map[string][]byte `json:"params"`
	} `json:"runs"`
	CUDA map[string]map[string][]byte `json:"cuda"` // the first parameter after all steps
}

func readRuns(t *testing.T) (r optimizerRuns) {
	t.Helper()
	text, err := os.ReadFile("testdata/optimizers.json")
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *optimizerRuns) options(optim string) training.SessionOptions {
	return training.SessionOptions{Optim: optim, AdamBeta1: r.Betas[0], AdamBeta2: r.Betas[1], AdamEpsilon: r.Eps, WeightDecay: r.WeightDecay}
}

// gradient repeats gradient of optimizers.py.
func gradient(param, step, n int) []float32 {
	steady := reference.Normal(uint64(10+param), n, 0.01)
	noise := reference.Normal(uint64(1000*(param+1)+step), n, 0.02)
	for i := range steady {
		steady[i] = (steady[i] + noise[i]) * []float32{1, 0.125, 0.015625, 0.001953125}[i%4]
	}
	return steady
}

// testDevices are the Go backend and, where its plugin is at hand, XLA on the CPU.
func testDevices(t testing.TB) (ds []*backend.Device) {
	t.Helper()
	for _, spec := range append([]string{"go"}, strings.Fields(os.Getenv("LORIS_TEST_BACKENDS"))...) {
		d, err := backend.Open(spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		ds = append(ds, d)
	}
	return ds
}

// bare is a session over parameters that belong to no layer: its gradients are given, not computed.
func bare(t testing.TB, d *backend.Device, o training.SessionOptions, params [][]float32, shapes [][]int) *Session {
	t.Helper()
	optim, err := newOptimizer(o, d)
	if err != nil {
		t.Fatal(err)
	}
	g := &group{}
	for i, x := range params {
		at := new(*tensors.Tensor)
		if *at, err = backend.UploadValues(d, x, shapes[i]...); err != nil {
			t.Fatal(err)
		}
		g.params = append(g.params, param{at: at, decay: true, hidden: true})
	}
	if err := optim.start(g, d); err != nil {
		t.Fatal(err)
	}
	s := &Session{model: &Model{Device: d}, groups: []*group{g}, optim: optim}
	t.Cleanup(func() {
		s.Close()
		s.model.Close()
	})
	return s
}

// take runs one step with the given gradients.
func (s *Session) take(t testing.TB, lr float64, gradients ...[]float32) {
	t.Helper()
	g := s.groups[0]
	for i, x := range gradients {
		grad, err := backend.UploadValues(s.model.Device, x, (*g.params[i].at).Shape().Dimensions...)
		if err != nil {
			t.Fatal(err)
		}
		g.grads = append(g.grads, grad)
	}
	if _, err := s.apply(training.ApplyOptions{LearningRate: lr, NumItems: 1}); err != nil {
		t.Fatal(err)
	}
}

// held are the session's tensors as bytes, by the names of the state file.
func (s *Session) held(t *testing.T) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := s.named(func(name string, at **tensors.Tensor) error {
		return (*at).ConstBytes(func(raw []byte) { out[name] = slices.Clone(raw) })
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func float32s(raw []byte) []float32 {
	x := make([]float32, len(raw)/4)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return x
}

// distance is ‖a-b‖/‖b-from‖; from nil is 0.
func distance(a, b, from []float32) float64 {
	var d, n float64
	for i := range b {
		origin := 0.0
		if from != nil {
			origin = float64(from[i])
		}
		d += math.Pow(float64(a[i])-float64(b[i]), 2)
		n += math.Pow(float64(b[i])-origin, 2)
	}
	return math.Sqrt(d / n)
}

func (r *optimizerRuns) initial() (params [][]float32) {
	for i, s := range r.Shapes {
		params = append(params, reference.Normal(uint64(1+i), s[0]*s[1], 0.1))
	}
	return params
}

// train takes n steps, those after from.
func (r *optimizerRuns) train(t *testing.T, s *Session, from, n int) {
	t.Helper()
	for step := from + 1; step <= from+n; step++ {
		var gradients [][]float32
		for i, shape := range r.Shapes {
			gradients = append(gradients, gradient(i, step, shape[0]*shape[1]))
		}
		s.take(t, r.LR, gradients...)
	}
}

// 100 steps: every code is bitsandbytes', every value within a few roundings.
func TestOptimizersStepAsBitsandbytes(t *testing.T) {
	r := readRuns(t)
	for _, d := range testDevices(t) {
		for optim, snapshots := range r.Runs {
			initial := r.initial()
			s := bare(t, d, r.options(optim), initial, r.Shapes)
			s.optim.search = quant.ByTable // the runs are those of bitsandbytes on a CPU
			at := 0
			for _, snapshot := range snapshots {
				r.train(t, s, at, snapshot.Step-at)
				at = snapshot.Step
				held := s.held(t)
				for i, want := range snapshot.Params {
					if eightBit := want["m.absmax"] != nil; eightBit != (i == 0 && strings.HasSuffix(optim, "8bit")) {
						t.Fatalf("%s: parameter %d with 8-bit moments: %v", optim, i, eightBit)
					}
					for name, raw := range want {
						where := fmt.Sprintf("%s %s, step %d: %d.%s", d.Kind, optim, at, i, name)
						compareHeld(t, where, held[fmt.Sprintf("%d.%s", i, name)], raw, name, initial[i], 5e-6)
					}
				}
			}
		}
	}
}

// compareHeld compares codes byte by byte, and numbers by their distance: of values, relative to the way they have come.
func compareHeld(t *testing.T, where string, got, want []byte, name string, initial []float32, ofValue float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s has %d bytes, want %d", where, len(got), len(want))
		return
	}
	if len(want) == len(initial) { // a byte a value
		different := 0
		for k := range want {
			if want[k] != got[k] {
				different++
			}
		}
		if different > len(want)/1000 { // measured: none; a value at a midpoint may fall to either side
			t.Errorf("%s: %d of %d codes differ", where, different, len(want))
		}
		return
	}
	limit, from := 3e-6, []float32(nil)
	if name == "value" {
		limit, from = ofValue, initial
	}
	if e := distance(float32s(got), float32s(want), from); !(e < limit) {
		t.Errorf("%s: ‖a-b‖/‖b‖ is %.2g, want below %.2g", where, e, limit)
	}
}

// The search that sessions on CUDA have, against bitsandbytes' CUDA kernels computed from their source. AdamW's kernel decays
// weights after the step, where its other forms and this one do before: a part lr·wd of a step, 5e-5.
func TestNearestMomentsStepAsBitsandbytesKernels(t *testing.T) {
	r := readRuns(t)
	for _, d := range testDevices(t) {
		for optim, want := range r.CUDA {
			initial := r.initial()
			s := bare(t, d, r.options(optim), initial, r.Shapes)
			s.optim.search = quant.Nearest
			r.train(t, s, 0, r.Steps)
			for name, raw := range want {
				got := s.held(t)["0."+name]
				where := fmt.Sprintf("%s %s: %s", d.Kind, optim, name)
				compareHeld(t, where, got, raw, name, initial[0], 1e-4)
			}
		}
	}
}

// How far 8-bit moments lead from the way of float32 ones: as far as in bitsandbytes, and not at all in small tensors.
func TestEightBitMomentsDeviateAsBitsandbytes(t *testing.T) {
	r := readRuns(t)
	last := func(optim string, param int) []float32 {
		snapshots := r.Runs[optim]
		return float32s(snapshots[len(snapshots)-1].Params[param]["value"])
	}
	for _, pair := range [][2]string{{"adamw_8bit", "paged_adamw_32bit"}, {"lion_8bit", "lion_32bit"}} {
		initial := r.initial()
		s := bare(t, testDevices(t)[0], r.options(pair[0]), initial, r.Shapes)
		r.train(t, s, 0, r.Steps)
		got := float32s(s.held(t)["0.value"])
		full := last(pair[1], 0)
		ours, theirs := distance(got, full, initial[0]), distance(last(pair[0], 0), full, initial[0])
		if math.Abs(ours/theirs-1) > 1e-3 || ours == 0 {
			t.Errorf("%s is %.5f of the way from %s, bitsandbytes' %.5f", pair[0], ours, pair[1], theirs)
		}
		s = bare(t, testDevices(t)[0], r.options(pair[0]), initial, r.Shapes)
		s.optim.search = quant.Nearest
		r.train(t, s, 0, r.Steps)
		nearest := distance(float32s(s.held(t)["0.value"]), full, initial[0])
		t.Logf("%s: table %.4f, nearest %.4f", pair[0], ours, nearest)
		if nearest > ours*1.05 {
			t.Errorf("%s: the search that CUDA has leads %.5f from the way of %s, the table %.5f", pair[0], nearest, pair[1], ours)
		}
		if e := distance(float32s(s.held(t)["1.value"]), last(pair[1], 1), initial[1]); e > 5e-6 {
			t.Errorf("%s: a tensor of fewer than 4096 values deviates by %v", pair[0], e)
		}
	}
}

// bitsandbytes' test_optimizer8bit, for 100 steps where it takes 50: against the same rule in float32, which goes on from the 8-bit state and
// values after every step.
func TestEightBitOptimizersKeepBitsandbytesBounds(t *testing.T) {
	const rows, columns, steps = 256, 32, 100
	shape := [][]int{{rows, columns}}
	initial := [][]float32{reference.Normal(3, rows*columns, 0.17)} // about randn·0.1
	for _, search := range []quant.Search{quant.ByTable, quant.Nearest} {
		for _, names := range [][2]string{{"adamw_8bit", "adamw_torch"}, {"lion_8bit", "lion_32bit"}} {
			d := testDevices(t)[0]
			o := training.SessionOptions{Optim: names[0], AdamBeta1: 0.9, AdamBeta2: 0.999, AdamEpsilon: 1e-8}
			small := bare(t, d, o, initial, shape)
			small.optim.search = search
			o.Optim = names[1]
			full := bare(t, d, o, initial, shape)
			for step := range steps {
				g := reference.Normal(uint64(100+step), rows*columns, 0.017) // about randn·0.01
				small.take(t, 1e-3, g)
				full.take(t, 1e-3, g)
				a, b := small.held(t), full.held(t)
				values, want := float32s(a["0.value"]), float32s(b["0.value"])
				var abs, rel float64
				for i, v := range values {
					e := math.Abs(float64(v) - float64(want[i]))
					abs += e / float64(len(values))
					rel += e / (math.Abs(float64(want[i])) + 1e-9) / float64(len(values))
				}
				if abs >= 6e-5 || rel >= 6e-4 {
					t.Errorf("%s step %d: mean error %v, relative %v", names[0], step+1, abs, rel)
				}
				resume(t, small, full, a, b, step+1)
			}
		}
	}
}

// resume checks small's moments, a, against full's, b, and puts small's into full, with the values.
func resume(t *testing.T, small, full *Session, a, b map[string][]byte, step int) {
	t.Helper()
	put := func(at **tensors.Tensor, x []float32) {
		fresh, err := backend.UploadValues(full.model.Device, x, (*at).Shape().Dimensions...)
		if err != nil {
			t.Fatal(err)
		}
		*at = fresh
	}
	for k, m := range small.optim.moments(small.groups[0].params[0]) {
		name := "0." + m.name
		x, err := quant.DequantizeBlockwise(a[name], float32s(a[name+absmaxSuffix]), quant.DynamicMap(m.signed), momentBlock)
		if err != nil {
			t.Fatal(err)
		}
		far := 0
		for i, v := range float32s(b[name]) {
			if math.Abs(float64(v)-float64(x[i])) > 3e-3+1e-3*math.Abs(float64(x[i])) {
				far++
			}
		}
		e := distance(x, float32s(b[name]), nil)
		if far >= 20 || e > 0.02 || e == 0 {
			t.Errorf("%s step %d: %d of %d far off, ‖a-b‖/‖b‖ %v", name, step, far, len(x), e)
		}
		put(&full.groups[0].state[k], x)
	}
	put(full.groups[0].params[0].at, float32s(a["0.value"]))
}

func TestSavedMomentsGoOnBitForBit(t *testing.T) {
	r := readRuns(t)
	for _, d := range testDevices(t) {
		for optim := range r.Runs {
			s := bare(t, d, r.options(optim), r.initial(), r.Shapes)
			r.train(t, s, 0, 7)
			dir := t.TempDir()
			if err := s.SaveState(dir); err != nil {
				t.Fatal(err)
			}
			saved := s.held(t)
			r.train(t, s, 7, 5)
			again := bare(t, d, r.options(optim), r.initial(), r.Shapes)
			if err := again.LoadState(dir); err != nil {
				t.Fatal(err)
			}
			same(t, optim+" loaded", again.held(t), saved)
			r.train(t, again, 7, 5)
			same(t, optim+" trained on", again.held(t), s.held(t))
			if s.spoiled(true) {
				t.Errorf("%s: a good state counts as spoiled", optim)
			}
		}
	}
}

func same(t *testing.T, what string, got, want map[string][]byte) {
	t.Helper()
	for name := range want {
		if !slices.Equal(got[name], want[name]) {
			t.Errorf("%s: %s differs", what, name)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: %d tensors, want %d", what, len(got), len(want))
	}
}

func TestEightBitMomentsTakeAByteAValue(t *testing.T) {
	r := readRuns(t)
	d := testDevices(t)[0]
	n, small := r.Shapes[0][0]*r.Shapes[0][1], r.Shapes[1][0]*r.Shapes[1][1]
	scales := 4 * ((n + 255) / 256)
	for optim, want := range map[string]int{
		"adamw_8bit": 2*(n+scales) + 8*small, "lion_8bit": n + scales + 4*small, "adamw_torch": 8 * (n + small), "lion_32bit": 4 * (n + small),
	} {
		bytes := func(s *Session) (sum int) {
			for name, raw := range s.held(t) {
				if !strings.HasSuffix(name, "value") {
					sum += len(raw)
				}
			}
			return sum
		}
		s := bare(t, d, r.options(optim), r.initial(), r.Shapes)
		if got := bytes(s); got != want {
			t.Errorf("%s: moments take %d bytes, want %d", optim, got, want)
		}
		s.groups[0].params[0].fullMoments = true // as an embedding's
		s.groups[0].state = nil
		if err := s.optim.start(s.groups[0], d); err != nil {
			t.Fatal(err)
		}
		r.train(t, s, 0, 2)
		if got, want := bytes(s), 4*len(s.optim.moments(s.groups[0].params[0]))*(n+small); got != want {
			t.Errorf("%s: an embedding's moments take %d bytes, want %d", optim, got, want)
		}
	}
}

func TestStateOfAnotherOptimizerIsRefusedByName(t *testing.T) {
	r := readRuns(t)
	d := testDevices(t)[0]
	dir := t.TempDir()
	if err := bare(t, d, r.options("adamw_8bit"), r.initial(), r.Shapes).SaveState(dir); err != nil {
		t.Fatal(err)
	}
	for _, same := range []string{"adamw_bnb_8bit", "paged_adamw_8bit"} {
		if err := bare(t, d, r.options(same), r.initial(), r.Shapes).LoadState(dir); err != nil {
			t.Errorf("%s: %v", same, err)
		}
	}
	for _, other := range []string{"", "lion_8bit"} {
		err := bare(t, d, r.options(other), r.initial(), r.Shapes).LoadState(dir)
		if err == nil || !strings.Contains(err.Error(), `the optimizer was "adamw_8bit"`) {
			t.Errorf("%s: error %v", other, err)
		}
	}
	if _, err := newOptimizer(r.options("galore_adamw"), d); err == nil || !strings.Contains(err.Error(), `"galore_adamw"`) {
		t.Errorf("error %v", err)
	}
}

// Bytes are of the float32 gradients.
func BenchmarkOptimizers(b *testing.B) {
	const rows, columns = 2048, 1024
	x := reference.Normal(1, rows*columns, 0.02)
	for _, d := range testDevices(b) {
		for _, optim := range []string{"adamw_torch", "adamw_8bit", "lion_32bit", "lion_8bit", "adafactor", "sgd", "muon"} {
			b.Run(fmt.Sprint(d.Kind, "/", optim), func(b *testing.B) {
				o := training.SessionOptions{Optim: optim, AdamBeta1: 0.9, AdamBeta2: 0.999, AdamEpsilon: 1e-8}
				s := bare(b, d, o, [][]float32{x}, [][]int{{rows, columns}})
				s.take(b, 1e-4, x) // compiles
				b.SetBytes(4 * rows * columns)
				for b.Loop() {
					s.take(b, 1e-4, x)
				}
			})
		}
	}
}
