package quant

import (
	"runtime"
	"sync"
)

// parallel calls f on consecutive ranges that together are [0, n), at most one per CPU and none smaller than grain
// (but for n itself), and waits. Ranges start at multiples of grain.
func parallel(n, grain int, f func(begin, end int)) {
	chunks := (n + grain - 1) / grain
	workers := min(runtime.GOMAXPROCS(0), chunks)
	if workers <= 1 {
		f(0, n)
		return
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			f(chunks*w/workers*grain, min(chunks*(w+1)/workers*grain, n))
		})
	}
	wg.Wait()
}
