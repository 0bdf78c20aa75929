package measure

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/loris-ml/loris/internal/seam"
)

// Profiler returns what ran on the device while a function ran: a training session, or a model.
type Profiler interface {
	Profile(run func() error) ([]seam.Execution, error)
}

// Profile is WriteProfile of what runs on the device while a function runs steps. It returns the milliseconds a step by kind
// of kernel.
func Profile(file string, p Profiler, steps int, run func() error) (ms map[string]float64, err error) {
	all, err := p.Profile(run)
	if err != nil {
		return nil, err
	}
	return byKind(all, steps), WriteProfile(file, all)
}

// WriteProfile writes to a file where the device's time goes: a line per program and kernel, with the time it took and the
// number of its runs, then how long the device was busy and idle. A pause counts for the program that it is before; one
// within a program, or between two runs of it, has the kernel "pauses", or "long pauses" where the device waits for more than
// its own next launch.
func WriteProfile(file string, all []seam.Execution) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return writeProfile(f, all)
}

// kinds are parts of kernels' names, and what they stand for. What none of them fits is XLA's own: "elementwise".
var kinds = []struct{ part, kind string }{
	{"sdpa", "attention"}, {"cudnn", "attention"}, {"fmha", "attention"}, {"flash", "attention"},
	{"loris_nf4_vector", "4-bit products"}, {"loris_nf4_rows", "4-bit products"}, {"loris_nf4", "dequantize"}, {"loris_cache", "attention"},
	{"loris_swiglu", "gated"}, {"loris_geglu", "gated"}, {"loris_dropout", "dropout"}, {"loris_rmsnorm", "norm"}, {"loris_rope", "rope"},
	{"loris_factor", "thin products"}, {"loris_low", "thin products"},
	{"loris_fp8_weight", "dequantize"}, {"loris_fp8", "float8 rounding"},
	{"nvjet_qq", "float8 products"}, {"nvjet_sm90_qq", "float8 products"}, {"nvjet_sm100_qq", "float8 products"}, {"e4m3", "float8 products"},
	{"nvjet", "products"}, {"gemm", "products"}, {"splitK", "products"}, {"cutlass", "products"},
	{"Memcpy", "copies"}, {"memcpy", "copies"}, {"Memset", "copies"},
}

// byKind is the milliseconds a step by kind of kernel, and the pauses; with what overlaps taken off as "overlap", they add
// up to the time from the first kernel to the last.
func byKind(all []seam.Execution, steps int) map[string]float64 {
	ms := map[string]float64{}
	per := func(d time.Duration) float64 { return math.Round(d.Seconds()*1e6/float64(steps)) / 1e3 }
	sums := map[string]time.Duration{}
	var total time.Duration
	for _, e := range all {
		kind := "elementwise"
		if i := slices.IndexFunc(kinds, func(k struct{ part, kind string }) bool { return strings.Contains(e.Name, k.part) }); i >= 0 {
			kind = kinds[i].kind
		}
		sums[kind] += e.Duration
		total += e.Duration
	}
	for kind, d := range sums {
		ms[kind] = per(d)
	}
	busy, idle := busyAndIdle(all)
	ms["pauses"], ms["overlap"], ms["all"] = per(idle), -per(total-busy), per(busy+idle)
	return ms
}

// busyAndIdle is how long something ran, and nothing, from the first beginning to the last end.
func busyAndIdle(all []seam.Execution) (busy, idle time.Duration) {
	if len(all) == 0 {
		return 0, 0
	}
	until := all[0].Start
	for _, e := range all {
		if end := e.Start + e.Duration; end > until {
			busy += end - max(e.Start, until)
			until = end
		}
	}
	return busy, until - all[0].Start - busy
}

// longPause is longer than what lies between two kernels of a program when the next has been launched: about a microsecond.
const longPause = 20 * time.Microsecond

func pauseBetween(before, program string, d time.Duration) string {
	switch {
	case before != program:
		return "pause behind " + before
	case d >= longPause:
		return "long pauses"
	}
	return "pauses"
}

// kernel is what executions are summed by.
type kernel struct{ program, op, name string }

func writeProfile(to io.Writer, all []seam.Execution) error {
	type total struct {
		time time.Duration
		runs int
	}
	sums := map[kernel]total{}
	add := func(k kernel, d time.Duration) { sums[k] = total{sums[k].time + d, sums[k].runs + 1} }
	var until time.Duration
	var before string // program
	for i, e := range all {
		add(kernel{e.Program, e.Op, e.Name}, e.Duration)
		if i == 0 {
			until = e.Start
		}
		if e.Start > until && e.Program != "" {
			add(kernel{program: e.Program, name: pauseBetween(before, e.Program, e.Start-until)}, e.Start-until)
		}
		if e.Program != "" {
			before = e.Program
		}
		until = max(until, e.Start+e.Duration)
	}
	busy, idle := busyAndIdle(all)
	w := csv.NewWriter(to)
	w.Write([]string{"ms", "runs", "program", "op", "kernel"})
	order := slices.SortedFunc(maps.Keys(sums), func(a, b kernel) int { return cmp.Compare(sums[b].time, sums[a].time) })
	ms := func(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()*1e3) }
	for _, k := range order {
		w.Write([]string{ms(sums[k].time), fmt.Sprint(sums[k].runs), k.program, k.op, k.name})
	}
	w.Write([]string{ms(busy), fmt.Sprint(len(all)), "", "", "busy"})
	w.Write([]string{ms(idle), "", "", "", "idle"})
	w.Flush()
	return w.Error()
}
