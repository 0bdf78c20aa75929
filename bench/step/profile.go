package main

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/loris-ml/loris/internal/seam"
	"github.com/loris-ml/loris/internal/training"
)

// profile writes where the device's time goes in steps: a line per program and kernel, with the time it took and the
// number of its runs, then how long the device was busy and idle. A pause counts for the program that it is before; one
// within a program has the kernel "pauses".
func profile(file string, s training.Session, step func() error) (err error) {
	p, ok := s.(interface {
		Profile(run func() error) ([]seam.Execution, error)
	})
	if !ok {
		return errors.New("-profile: the session has no profiler")
	}
	all, err := p.Profile(step)
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return writeProfile(f, all)
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
	var busy, first, until time.Duration
	var before string // program
	for i, e := range all {
		add(kernel{e.Program, e.Op, e.Name}, e.Duration)
		if i == 0 {
			first, until = e.Start, e.Start
		}
		if e.Start > until && e.Program != "" {
			pause := "pauses"
			if before != e.Program {
				pause = "pause behind " + before
			}
			add(kernel{program: e.Program, name: pause}, e.Start-until)
		}
		if e.Program != "" {
			before = e.Program
		}
		if end := e.Start + e.Duration; end > until {
			busy += end - max(e.Start, until)
			until = end
		}
	}
	w := csv.NewWriter(to)
	w.Write([]string{"ms", "runs", "program", "op", "kernel"})
	order := slices.SortedFunc(maps.Keys(sums), func(a, b kernel) int { return cmp.Compare(sums[b].time, sums[a].time) })
	ms := func(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()*1e3) }
	for _, k := range order {
		w.Write([]string{ms(sums[k].time), fmt.Sprint(sums[k].runs), k.program, k.op, k.name})
	}
	w.Write([]string{ms(busy), fmt.Sprint(len(all)), "", "", "busy"})
	w.Write([]string{ms(until - first - busy), "", "", "", "idle"})
	w.Flush()
	return w.Error()
}
