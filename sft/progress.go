package sft

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress is the bar of a run: steps, loss, tokens per second, device memory, time left. nil shows nothing.
type progress struct{ bar *progressbar.ProgressBar }

func newProgress(c SFTConfig, steps, done int) *progress {
	var w io.Writer = c.Progress
	if w == nil && isTerminal(os.Stderr) {
		w = os.Stderr
	}
	if w == nil || c.DisableTQDM {
		return nil
	}
	bar := progressbar.NewOptions(steps,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetDescription("training"),
		progressbar.OptionShowCount(),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetRenderBlankState(true),
	)
	_ = bar.Set(done) // a bar that cannot be drawn must not end a training run
	return &progress{bar}
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// step shows one more step.
func (p *progress) step(r *run, loss float64) {
	if p == nil {
		return
	}
	text := fmt.Sprintf("loss %.4f  %s tok/s", loss, amount(float64(r.tokens-r.startTokens)/time.Since(r.start).Seconds(), 1000))
	if bytes, ok := r.session.MemoryInUse(); ok {
		r.peakMemory = max(r.peakMemory, bytes)
		text += "  " + amount(float64(bytes), 1024) + "B"
	}
	p.bar.Describe(text)
	_ = p.bar.Add(1)
}

// clear makes room for other output on the terminal.
func (p *progress) clear() {
	if p != nil {
		_ = p.bar.Clear()
	}
}

func (p *progress) finish() {
	if p != nil {
		_ = p.bar.Exit()
	}
}

// amount shortens a number with the prefixes of a base: 12.3k.
func amount(v, base float64) string {
	for _, prefix := range []string{"", "k", "M", "G"} {
		if v < base {
			return fmt.Sprintf("%.3g%s", v, prefix)
		}
		v /= base
	}
	return fmt.Sprintf("%.3gT", v)
}
