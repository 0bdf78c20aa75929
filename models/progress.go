package models

import (
	"io"

	"github.com/schollz/progressbar/v3"
)

// loadBar shows how far loading has come.
type loadBar struct{ bar *progressbar.ProgressBar }

func newLoadBar(w io.Writer, steps int) *loadBar {
	if w == nil {
		return &loadBar{}
	}
	return &loadBar{progressbar.NewOptions(steps, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription("loading"),
		progressbar.OptionShowCount(), progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish())}
}

func (b *loadBar) step() {
	if b.bar != nil {
		b.bar.Add(1)
	}
}

func (b *loadBar) finish() {
	if b.bar != nil {
		b.bar.Finish()
	}
}
