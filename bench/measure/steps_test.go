package measure

import (
	"testing"
	"time"

	"github.com/loris-ml/loris/internal/seam"
)

func TestIdleTimeBetweenStepsIsBehindTheOptimizer(t *testing.T) {
	at := func(program string, start, ms int) seam.Execution {
		return seam.Execution{Program: program, Start: time.Duration(start) * time.Millisecond, Duration: time.Duration(ms) * time.Millisecond}
	}
	got := IdleBetween([]seam.Execution{
		at("loris_forward", 10, 5), at("loris_backward", 16, 4), at("loris_adamw", 21, 1), at("loris_adamw", 23, 1), // 3 ms within the step
		at("", 25, 1),                             // a copy, 1 ms behind
		at("loris_forward", 29, 5), at("", 30, 1), // 3 ms behind
		at("loris_adamw", 34, 1), at("loris_forward", 35, 5), // none
		at("loris_adamw", 42, 1), // no step follows
	}, "loris_adamw")
	ms := time.Millisecond
	want := Idle{Busy: 24 * ms, Idle: 9 * ms, Between: 4 * ms, Steps: 2}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if share := got.Share(got.Between); share < 0.121 || share > 0.122 {
		t.Errorf("share %v", share)
	}
}
