package main

import (
	"github.com/loris-ml/loris/bench/measure"
	"github.com/loris-ml/loris/internal/seam"
)

// profile profiles what runs between begin and end, which a callback of the trainer calls.
type profile struct {
	of      measure.Profiler
	all     []seam.Execution
	stop    chan struct{}
	stopped chan error
}

func newProfile(of measure.Profiler) *profile {
	return &profile{of: of, stop: make(chan struct{}), stopped: make(chan error, 1)}
}

// begin returns when the profiler has begun.
func (p *profile) begin() error {
	begun := make(chan struct{})
	go func() {
		var err error
		p.all, err = p.of.Profile(func() error {
			close(begun)
			<-p.stop
			return nil
		})
		p.stopped <- err
	}()
	select {
	case <-begun:
		return nil
	case err := <-p.stopped:
		return err
	}
}

// end waits for what still runs, and returns the profiler's error.
func (p *profile) end() error {
	close(p.stop)
	return <-p.stopped
}
